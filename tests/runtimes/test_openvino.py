from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from icf_deploy.errors import ArtefactError, EngineUnavailableError
from icf_deploy.runtimes import openvino as module
from icf_deploy.runtimes import openvino_compile
from icf_deploy.runtimes.base import Engine, FloatArray, Graph, Target
from icf_deploy.runtimes.cache import default_cache
from icf_deploy.runtimes.openvino import OpenvinoRuntime
from icf_deploy.runtimes.openvino_compile import plan_for, precision_of

pytest.importorskip("openvino")
EngineOf = Callable[..., Engine]


@pytest.fixture
def needs() -> Callable[[str], None]:
    def check(name: str) -> None:
        if name not in OpenvinoRuntime().formats("cpu"):
            pytest.skip(f"this CPU has no {name}")

    return check


def test_a_float32_graph_computes_in_float32_also_where_the_cpu_has_bf16(
    small: Any, engine_of: EngineOf, needs: Callable[[str], None]
) -> None:
    needs("bf16")  # only there the pinned hint makes a difference
    with OpenvinoRuntime().open(engine_of(OpenvinoRuntime(), small.graph(small.fp32()))) as session:
        assert set(session.formats) == {"fp32"}


@pytest.mark.parametrize("recipe, element", [("bf16", TensorProto.BFLOAT16), ("fp16", TensorProto.FLOAT16)])
def test_a_graph_in_a_low_float_format_computes_in_it(
    recipe: str, element: int, small: Any, engine_of: EngineOf, gray: FloatArray
) -> None:
    if recipe not in OpenvinoRuntime().formats("cpu"):
        pytest.skip(f"this CPU has no {recipe}")
    with OpenvinoRuntime().open(engine_of(OpenvinoRuntime(), small.graph(small.low(element), recipe))) as session:
        assert session.formats[recipe] >= 2
        difference = np.abs(session.run(gray) - small.network.expected(gray))
        assert 0 < difference.max() < 1


def test_an_int8_graph_computes_its_convolutions_in_int8(
    small: Any, engine_of: EngineOf, gray: FloatArray, needs: Callable[[str], None]
) -> None:
    needs("int8")
    with OpenvinoRuntime().open(engine_of(OpenvinoRuntime(), small.graph(small.int8(), "int8"))) as session:
        assert session.formats["int8"] >= 2
        assert np.abs(session.run(gray) - small.network.expected(gray)).mean() < 1.5


def test_a_recipe_that_asks_for_int8_over_a_graph_without_it_is_refused_when_opened(
    small: Any, engine_of: EngineOf, needs: Callable[[str], None]
) -> None:
    needs("int8")
    with pytest.raises(ArtefactError, match="did not execute int8"):
        OpenvinoRuntime().open(engine_of(OpenvinoRuntime(), small.graph(small.fp32(), "int8")))


def test_a_format_that_this_cpu_lacks_is_refused_before_anything_is_compiled(
    small: Any, engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_capabilities", lambda device: frozenset({"FP32", "INT8"}))
    with pytest.raises(ArtefactError, match="would not execute bf16 on this CPU"):
        engine_of(OpenvinoRuntime(), small.graph(small.fp32()), "cpu-bf16")
    with pytest.raises(ArtefactError, match="would not execute fp16"):
        engine_of(OpenvinoRuntime(), small.graph(small.fp32(), "fp16"))
    assert OpenvinoRuntime().formats("cpu") == ("fp32", "int8")


@pytest.mark.parametrize(
    "recipe, device, expected",
    [
        ("fp32", "cpu", "fp32"),
        ("int8", "cpu", "fp32"),
        ("bf16", "cpu", "bf16"),
        ("int8+bf16", "cpu", "bf16"),
        ("bf16+fp32", "cpu", "fp32"),  # as written: its Casts are obeyed under the hint f32
        ("fp16", "cpu", "fp16"),
        ("fp32", "cpu-bf16", "bf16"),
        ("int8", "cpu-bf16", "bf16"),
    ],
)
def test_the_precision_hint_is_that_of_what_the_graph_itself_does_not_convert(recipe: str, device: str, expected: str) -> None:
    assert precision_of(Graph(b"", "", (32, 32), 1, recipe), device) == expected


@pytest.mark.parametrize("recipe, device", [("fp16+fp32", "cpu"), ("fp16", "cpu-bf16"), ("bf16+fp16", "cpu")])
def test_fp16_in_a_part_of_the_graph_is_refused_because_it_would_run_everywhere_or_nowhere(recipe: str, device: str) -> None:
    with pytest.raises(ArtefactError, match="whole graph or nowhere"):
        precision_of(Graph(b"", "", (32, 32), 1, recipe), device)


def test_a_missing_engine_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch, small: Any, engine_of: EngineOf) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineUnavailableError, match=r"pip install 'icf-deploy\[openvino\]'"):
        engine_of(OpenvinoRuntime(), small.graph(small.fp32()))


def compiled_again(*_: object) -> None:
    raise AssertionError("it was compiled again")


def test_a_second_opening_takes_the_compiled_model_from_the_cache_and_gives_the_same_bytes(
    small: Any, engine_of: EngineOf, gray: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(OpenvinoRuntime(), small.graph(small.fp32()))
    with OpenvinoRuntime().open(engine) as session:
        expected, formats = session.run(gray), session.formats
    monkeypatch.setattr(openvino_compile, "_compile", compiled_again)
    with OpenvinoRuntime().open(engine) as session:
        assert session.run(gray).tobytes() == expected.tobytes()
        assert session.formats == formats


def test_other_threads_another_device_and_another_graph_are_compiled_anew(
    small: Any, engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, graph = OpenvinoRuntime(), small.graph(small.fp32())
    runtime.open(engine_of(runtime, graph)).close()
    monkeypatch.setattr(openvino_compile, "_compile", compiled_again)
    other = small.graph(small.fp32() + b"\x82\x01\x01x")  # the same graph with a field more
    for engine in (
        replace(engine_of(runtime, graph), target=Target("cpu", 7)),
        replace(engine_of(runtime, graph), target=Target("cpu-bf16", 1)),
        engine_of(runtime, other),
    ):
        with pytest.raises(AssertionError, match="compiled again"):
            runtime.open(engine)


def test_bytes_that_were_changed_after_the_engine_was_built_do_not_get_the_model_of_the_old_ones(
    small: Any, engine_of: EngineOf
) -> None:
    engine = engine_of(OpenvinoRuntime(), small.graph(small.fp32()))
    OpenvinoRuntime().open(engine).close()
    with pytest.raises(ArtefactError):
        OpenvinoRuntime().open(replace(engine, data=engine.data[:100]))


def test_a_kept_model_that_openvino_does_not_take_back_is_compiled_again(
    small: Any, engine_of: EngineOf, gray: FloatArray
) -> None:
    runtime = OpenvinoRuntime()
    engine = engine_of(runtime, small.graph(small.fp32()))
    key = runtime.cache_key(engine.graph, engine.target)
    assert key is not None
    default_cache().put(key, b"not a model of OpenVINO")
    with runtime.open(engine) as session:
        np.testing.assert_allclose(session.run(gray), small.network.expected(gray), rtol=0, atol=1e-3)
    assert default_cache().get(key) is None


def test_the_key_names_engine_processor_and_every_option(small: Any, engine_of: EngineOf) -> None:
    key = OpenvinoRuntime().cache_key(small.graph(small.fp32()), Target("cpu", 1))
    assert key is not None
    assert key.fields["graph"] == small.graph(small.fp32()).sha256
    assert key.fields["option INFERENCE_PRECISION_HINT"] == "f32"
    assert {"engine", "device", "capability", "processor", "os", "machine", "code", "recipe"} <= set(key.fields)


@pytest.mark.parametrize(
    "threads, cores, streams", [(1, 2, 2), (2, 2, 1), (1, 1, 1), (4, 64, 8), (2, 8, 4), (3, 8, 2), (9, 8, 1)]
)
def test_cores_that_one_call_leaves_idle_serve_other_calls_in_streams_of_their_own(
    threads: int, cores: int, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_compile, "usable_cores", lambda: cores)
    options = dict(plan_for(Graph(b"", "", (32, 32), 1), Target("cpu", threads)).options)
    assert (options["NUM_STREAMS"], options["INFERENCE_NUM_THREADS"]) == (streams, streams * threads)


@pytest.mark.parametrize(
    "names, expected",
    [
        (["CPU"], ("cpu", "cpu-bf16")),
        (["CPU", "GPU"], ("cpu", "cpu-bf16", "gpu")),
        (["CPU", "GPU.0", "GPU.1", "NPU"], ("cpu", "cpu-bf16", "gpu", "gpu.0", "gpu.1", "npu")),
    ],
)
def test_devices_are_those_that_openvino_finds(
    names: list[str], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        available_devices = names

    monkeypatch.setattr("openvino.Core", Core)
    assert OpenvinoRuntime().devices() == expected


def test_a_gpu_and_an_npu_are_held_to_the_graphs_format() -> None:
    fp32, fp16 = Graph(b"", "", (32, 32), 1), Graph(b"", "", (32, 32), 1, "fp16")
    gpu, npu = plan_for(fp32, Target("gpu.1")), plan_for(fp16, Target("npu"))
    assert (gpu.device, npu.device) == ("GPU.1", "NPU")
    assert dict(gpu.options)["INFERENCE_PRECISION_HINT"] == "f32"
    assert dict(npu.options)["INFERENCE_PRECISION_HINT"] == "f16"


def test_an_npu_refuses_float32_which_it_would_compute_in_float16(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_device_names", lambda: ("cpu", "npu"))
    monkeypatch.setattr(module, "_capabilities", lambda device: frozenset({"FP16", "INT8"}))
    for recipe in ("fp32", "int8"):
        with pytest.raises(ArtefactError, match="would not execute fp32 on this NPU"):
            OpenvinoRuntime().build(small.graph(small.fp32(), recipe), Target("npu"))


def test_no_shape_of_the_compiled_model_is_left_to_be_worked_out_in_every_call(
    small: Any, engine_of: EngineOf, gray: FloatArray
) -> None:
    """A free batch costs icf-edge a quarter of its speed; batches are run photo by photo."""
    with OpenvinoRuntime().open(engine_of(OpenvinoRuntime(), small.graph(small.fp32()))) as session:
        runtime_model = session._model.get_runtime_model()
        free = [
            node.get_friendly_name()
            for node in runtime_model.get_ops()
            for port in node.outputs()
            if port.partial_shape.is_dynamic
        ]
        assert free == []
        assert str(session._model.input(0).partial_shape) == "[1,1,64,96]"
        assert len(gray) > 1
        np.testing.assert_allclose(session.run(gray), small.network.expected(gray), rtol=0, atol=1e-3)


CTRL_C_AFTER_CLOSING = """
import os, signal, sys
from pathlib import Path
from icf_deploy.runtimes.base import Graph, Target
from icf_deploy.runtimes.openvino import OpenvinoRuntime
from icf_deploy.bundle.store import open_bundle

heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append("heard"))
runtime = OpenvinoRuntime()
engine = runtime.build(open_bundle().graph(), Target(threads=1))
first, second = runtime.open(engine), runtime.open(engine)
first.close()
second.close()
del first, second
os.kill(os.getpid(), signal.SIGINT)
print(*heard)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the plugin replaces signal stacks on Linux")
@pytest.mark.parametrize("cache", ["off", "kept"])
def test_ctrl_c_after_closing_two_engines_is_a_signal_and_not_a_crash(cache: str, tmp_path: Path) -> None:
    environment = {**os.environ, "ICF_DEPLOY_CACHE": "off" if cache == "off" else str(tmp_path)}
    for _ in range(1 if cache == "off" else 2):  # the second time both come from the cache
        found = subprocess.run(
            [sys.executable, "-c", CTRL_C_AFTER_CLOSING], env=environment, capture_output=True, text=True, check=False
        )
        assert (found.returncode, found.stdout.split()) == (0, ["heard"]), found.stderr
