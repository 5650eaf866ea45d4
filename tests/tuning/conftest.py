"""Bundles with several graphs whose drift is known, and rows whose latencies and drifts are stated."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icf_deploy.benchmarks.candidate import Candidate
from icf_deploy.benchmarks.measured import Measured, Turn
from icf_deploy.quality.table import DriftRow, DriftTable
from icf_deploy.tuning.result import TuneRow

# The tiny bundle is that of the benchmarks' tests.
_spec = importlib.util.spec_from_file_location("benchmark_fixtures", Path(__file__).parents[1] / "benchmarks/conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
gray, tiny_bundle, tiny_model = _fixtures.gray, _fixtures.tiny_bundle, _fixtures.tiny_model


def scaled(model: bytes, factor: float) -> bytes:
    """The tiny model with its ab times `factor`."""
    import onnx
    from onnx import numpy_helper

    found = onnx.load_model_from_string(model)
    scale = next(value for value in found.graph.initializer if value.name == "scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(factor), "scale"))
    return bytes(found.SerializeToString())


def write(path: Path, tiny_bundle: Path, factors: dict[str, float], recipes: dict[str, str] | None = None) -> Path:
    """A bundle with the tiny model's reference set, and a graph of each name whose ab is off by its factor."""
    from icf_deploy.bundle.store import NewGraph, open_bundle, write_bundle

    opened = open_bundle(tiny_bundle)
    manifest = opened.manifest
    graphs = [
        NewGraph(name, scaled(opened.graph().data, factor), (recipes or {}).get(name, "fp32"), manifest.size)
        for name, factor in factors.items()
    ]
    return write_bundle(
        path,
        preset=manifest.preset,
        stride=manifest.stride,
        size=manifest.size,
        graphs=graphs,
        reference=opened.reference(),
        parity=manifest.parity,
        provenance=manifest.provenance,
    ).path


@pytest.fixture(scope="session")
def three_graphs(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32 as the reference; far, whose colours are 10 % stronger; half, which asks for a format that no engine executes."""
    folder = tmp_path_factory.mktemp("three")
    return write(folder / "three.icf", tiny_bundle, {"fp32": 1.0, "far": 1.1, "half": 1.0}, {"half": "fp8"})


Made = Callable[..., TuneRow]


@pytest.fixture
def row() -> Made:
    """row("ort", "int8", 5.0, 0.4) -> a row with this median in ms and this de2000_p95, timed in 20 paired rounds.

    scatter: of the rounds, as a share; drifts of two photos are 0.5 and 1.5 times the mean. paired False: a look alone.
    """

    def of(engine: str, graph: str | None, ms: float, drift: float, *, scatter: float = 0.005, paired: bool = True,
           problems: Sequence[str] = (), **columns: Any) -> TuneRow:  # fmt: skip
        values = {
            "de2000_mean": drift / 2, "visible_share": 0.0, "dab_mean": drift, "dab_max": drift, "ab_psnr": 50.0,
            "ab_ssim": 0.99, "rgb_psnr": 45.0, "rgb_ssim": 0.99, "colourfulness": 20.0,
            "colourfulness_reference": 20.0, **columns,
        }  # fmt: skip
        table = DriftTable(
            tuple(
                DriftRow(photo=name, de2000_p95=drift * share, problems=tuple(problems), **values)
                for name, share in (("a", 0.5), ("b", 1.5))
            )
        )
        candidate = Candidate(engine if graph is None else f"{engine} {graph}", engine, 1, None, graph)
        generator = np.random.default_rng([len(engine), round(ms * 1000)])

        def turns(count: int) -> list[Turn]:
            draws = generator.normal(0, scatter, count)
            medians = ms * 1e6 * np.exp(draws - draws.mean())
            return [Turn(number, number // 4, np.full(12, value, np.int64)) for number, value in enumerate(medians)]

        look = Measured(candidate, turns=turns(1), formats={"fp32": 3})
        return TuneRow(
            look, "0" * 64, 5_000_000, graph or "fp32", table, Measured(candidate, turns=turns(20)) if paired else None
        )

    return of
