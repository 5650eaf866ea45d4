"""A bundle of a tiny but real network, so that the tests measure real engines quickly."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SIZE, STRIDE = 64, 2


def tiny_model() -> bytes:
    """gray [N,1,64,64] -> ab [N,2,32,32]: a convolution with stride 2, tanh, times 60."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(2, 1, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["gray", "weights"], ["x"], strides=[STRIDE, STRIDE], pads=[1, 1, 1, 1]),
            helper.make_node("Tanh", ["x"], ["y"]),
            helper.make_node("Mul", ["y", "scale"], ["ab"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("gray", TensorProto.FLOAT, ["batch", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("ab", TensorProto.FLOAT, ["batch", 2, SIZE // STRIDE, SIZE // STRIDE])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.float32(60), "scale")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    path.write_bytes(tiny_model())
    return path


@pytest.fixture(scope="session")
def gray(photo: Callable[[str], np.ndarray]) -> np.ndarray:
    """Two real photos as gray float32 [2,1,64,64], multiples of 1/255."""
    import cv2

    photos = [cv2.cvtColor(photo(name), cv2.COLOR_RGB2GRAY) for name in ("astronaut", "coffee")]
    small = [cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for picture in photos]
    return np.stack(small)[:, None].astype(np.float32) / np.float32(255)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, gray: np.ndarray) -> Path:
    """A bundle of that model, whose reference ab is ONNX's own evaluation of it."""
    import onnx
    import onnx.reference

    from icf_deploy.bundle.manifest import Parity, Provenance
    from icf_deploy.bundle.reference import ReferenceSet
    from icf_deploy.bundle.store import NewGraph, write_bundle

    data = tiny_model()
    ab = onnx.reference.ReferenceEvaluator(onnx.load_model_from_string(data)).run(None, {"gray": gray})[0]
    bundle = write_bundle(
        tmp_path_factory.mktemp("bundle") / "tiny.icf",
        preset="tiny",
        stride=STRIDE,
        size=(SIZE, SIZE),
        graphs=[NewGraph("fp32", data, "fp32", (SIZE, SIZE))],
        reference=ReferenceSet(("astronaut", "coffee"), gray, np.asarray(ab, np.float32)),
        parity=Parity(0.0, 1e-3, 2),
        provenance=Provenance("0", "none", onnx.__version__, "3", "2026-01-01T00:00:00+00:00", None, "test"),
    )
    return bundle.path


@pytest.fixture(scope="session")
def fake_nvml() -> Any:
    """The class of a stand-in for pynvml, from the file beside this one."""
    spec = importlib.util.spec_from_file_location("fake_nvml", Path(__file__).with_name("fake_nvml.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FakeNvml


@pytest.fixture(scope="session")
def make_result() -> Callable[..., dict[str, Any]]:
    """make_result({"ort": (10.0, 0.5), ...}) -> the JSON of a run with these median latencies in ms and drifts.

    The latencies scatter by 3 %, so that 100 ms is not exactly ten times 10 ms; `seed` draws others. A drift may be None. An
    engine whose value is a text failed with it.
    """
    import json

    from icf_deploy.benchmarks.bench_result import BenchBundle, BenchResult, BenchRow
    from icf_deploy.benchmarks.candidate import Candidate
    from icf_deploy.benchmarks.cost import Prices
    from icf_deploy.benchmarks.machine import read_machine
    from icf_deploy.benchmarks.measured import Measured, Turn
    from icf_deploy.errors import WorkError
    from icf_deploy.quality.table import DriftRow, DriftTable

    settings = {
        "rounds": 20, "processes": 5, "seconds": 3.0, "calls": 100, "percentiles": [50.0, 90.0], "batch": 1, "threads": 1,
        "photos": 2, "photo_size": None, "photo_source": "reference set", "photo_names": None, "seed": 0, "pace": [],
        "cold_starts": 0, "target_qps": None, "target_latency_ms": None, "price_per_core_hour": None,
        "price_per_gpu_hour": None,
    }  # fmt: skip

    def turns(median: float, generator: np.random.Generator) -> list[Turn]:
        latencies = np.exp(generator.normal(np.log(median * 1e6), 0.03, (20, 6))).astype(np.int64)
        return [Turn(number, number // 4, samples) for number, samples in enumerate(latencies)]

    def drifts(value: float) -> DriftTable:
        shares = (("a", 0.5), ("b", 1.5))
        rows = [DriftRow(name, value, value * share, 0, value, value, 50, 0.9, 45, 0.95, 20, 20) for name, share in shares]
        return DriftTable(tuple(rows))

    def of(
        engines: dict[str, Any], *, seed: int = 0, bundle: str = "tiny.icf", bytes: int | None = 5_000_000
    ) -> dict[str, Any]:
        rows = []
        for number, (label, value) in enumerate(engines.items()):
            measured = Measured(Candidate(label, label, 1), formats={"fp32": 3})
            row = BenchRow(measured, 0, "0" * 64, bytes, "fp32", command=f"icf-deploy bench --engine {label}")
            if isinstance(value, str):
                measured.error = WorkError(value)
            else:
                measured.turns = turns(value[0], np.random.default_rng([seed, number]))
                row.drift = None if value[1] is None else drifts(value[1])
            rows.append(row)
        result = BenchResult(
            bundles=(BenchBundle(bundle, None, "1" * 64, "icf-edge", "fp32", (64, 64)),),
            scope="engine",
            loadgen=None,
            settings=dict(settings),
            prices=Prices(),
            machine=read_machine(),
            gpus_after=(),
            rows=tuple(rows),
            interrupted=False,
            created="2026-01-01T00:00:00+00:00",
            command="icf-deploy bench",
        )
        plain: dict[str, Any] = json.loads(json.dumps(result.to_json()))
        return plain

    return of
