"""Providers by name: what the build has, what it hasn't, and that none quietly becomes another."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from icf_deploy.errors import ArtefactError, EngineUnavailableError
from icf_deploy.runtimes.base import Engine, FloatArray, Graph, Target
from icf_deploy.runtimes.ort import OrtRuntime
from icf_deploy.runtimes.ort_placement import count_formats, placement
from icf_deploy.runtimes.ort_providers import PROVIDERS

onnxruntime = pytest.importorskip("onnxruntime")


class Build:
    """An ONNX Runtime with more providers than the installed one: they are played by its CPU provider."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.real = onnxruntime.InferenceSession
        self.starts = True
        self.elsewhere: dict[str, int] = {}  # heavy nodes per other provider
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.inside = self.most_inside = 0
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider.name for provider in PROVIDERS.values()])
        monkeypatch.setattr(onnxruntime, "InferenceSession", self.session)

    def session(self, data: bytes, options: Any, providers: list[Any], enable_fallback: int) -> Any:
        assert enable_fallback == 0
        self.asked = providers
        real = self.real(data, options, providers=["CPUExecutionProvider"])
        ((name, _),) = providers

        def run(outputs: Any, inputs: Any) -> Any:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            try:
                return real.run(outputs, inputs)
            finally:
                self.inside -= 1

        def placed() -> list[Any]:
            counts = {name: 2, **self.elsewhere}
            return [
                SimpleNamespace(ep_name=where, get_nodes=lambda n=count: [SimpleNamespace(op_type="Conv")] * n)
                for where, count in counts.items()
            ]

        found = [name, "CPUExecutionProvider"] if self.starts else ["CPUExecutionProvider"]
        return SimpleNamespace(
            get_providers=lambda: found,
            get_inputs=real.get_inputs,
            get_outputs=real.get_outputs,
            run=run,
            end_profiling=real.end_profiling,
            get_provider_graph_assignment_info=placed,
        )


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")  # what a provider sets ends with the test
    return Build(monkeypatch)


def open_on(device: str, graph: Graph) -> Any:
    return OrtRuntime().open(OrtRuntime().build(graph, Target(device, 1)))


OTHERS = [device for device in PROVIDERS if device != "cpu"]


@pytest.mark.parametrize("device", OTHERS)
def test_a_provider_that_onnx_runtime_replaces_by_the_cpu_is_an_error_with_what_it_needs(
    device: str, build: Build, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.starts = False
    graph = small.graph(small.fp32(), PROVIDERS[device].formats[0])
    with pytest.raises(EngineUnavailableError, match=rf"ort:{device}.*does not start here.*It needs .*"):
        open_on(device, graph)


@pytest.mark.parametrize("device", OTHERS)
def test_a_provider_that_starts_runs_what_was_asked(device: str, build: Build, small: Any, gray: FloatArray) -> None:
    graph = small.graph(small.fp32(), PROVIDERS[device].formats[0])
    with open_on(device, graph) as session:
        np.testing.assert_allclose(session.run(gray), small.network.expected(gray), rtol=0, atol=1e-3)
    assert [name for name, _ in build.asked] == [PROVIDERS[device].name]


@pytest.mark.parametrize("device", OTHERS)
def test_a_provider_that_takes_none_of_the_arithmetic_is_refused(device: str, build: Build, small: Any) -> None:
    build.elsewhere = {PROVIDERS[device].name: 0, "CPUExecutionProvider": 2}
    with pytest.raises(ArtefactError, match="takes none of this graph's convolutions"):
        open_on(device, small.graph(small.fp32(), PROVIDERS[device].formats[0]))


def test_what_a_provider_leaves_to_the_cpu_is_said_in_the_log(
    build: Build, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    build.elsewhere = {"CPUExecutionProvider": 5}
    with caplog.at_level(logging.WARNING):
        open_on("xnnpack", small.graph(small.fp32())).close()
    assert "ort:xnnpack runs 2 of the graph's 7 convolutions and matrix products; the rest run on the CPU" in caplog.text


def test_the_cpu_provider_says_nothing(build: Build, small: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        open_on("cpu", small.graph(small.fp32())).close()
    assert caplog.text == ""


@pytest.mark.parametrize(("device", "expected"), [("cpu", []), ("cuda", [4, 2]), ("xnnpack", [4, 2])])
def test_onnx_runtimes_own_log_is_silent_only_while_a_provider_starts(
    device: str, expected: list[int], build: Build, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", set_to.append)
    build.starts = device != "cuda"  # one that starts, and one that doesn't
    with contextlib.suppress(EngineUnavailableError):
        open_on(device, small.graph(small.fp32())).close()
    assert set_to == expected


def test_float32_is_held_on_gpus_by_switching_tf32_off(build: Build, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    open_on("cuda", small.graph(small.fp32())).close()
    assert dict(build.asked[0][1])["use_tf32"] == "0"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    open_on("tensorrt", small.graph(small.fp32())).close()
    import os

    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert dict(build.asked[0][1])["trt_fp16_enable"] == "0"


def test_a_provider_that_rounds_the_whole_graph_is_told_so_only_by_the_recipe(build: Build, small: Any) -> None:
    for recipe, expected in (("fp16", "1"), ("int8", "0")):
        open_on("tensorrt", small.graph(small.fp32(), recipe)).close()
        assert dict(build.asked[0][1])["trt_fp16_enable"] == expected
    with pytest.raises(ArtefactError, match="whole graph or nowhere"):
        open_on("tensorrt", small.graph(small.fp32(), "fp16+fp32"))


@pytest.mark.parametrize("device, recipe", [("cuda", "int8"), ("cuda", "bf16"), ("qnn", "fp32"), ("xnnpack", "fp16")])
def test_a_format_that_a_provider_does_not_compute_is_refused(device: str, recipe: str, build: Build, small: Any) -> None:
    with pytest.raises(ArtefactError, match=f"would not execute {recipe}"):
        open_on(device, small.graph(small.fp32(), recipe))


def test_directml_gets_one_call_at_a_time(build: Build, small: Any, gray: FloatArray) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with open_on("directml", small.graph(small.fp32())) as session, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: session.run(gray), range(100)))
    assert build.most_inside == 1


def test_a_provider_that_compiles_does_not_tell_its_formats(build: Build, small: Any) -> None:
    events = [
        {
            "cat": "Node",
            "name": "x_kernel_time",
            "args": {
                "op_name": "OpenVINO-EP-subgraph_1",
                "provider": provider,
                "input_type_shape": [{"float": [1, 1, 4, 4]}],
                "output_type_shape": [{"float": [1, 2, 4, 4]}],
            },
        }
        for provider in ("OpenVINOExecutionProvider", "CPUExecutionProvider")
    ]
    assert count_formats(events, "OpenVINOExecutionProvider") == {"unreported": 1, "fp32": 1}
    assert count_formats(events) == {"fp32": 2}


def test_the_installed_version_tells_where_its_nodes_run(small: Any) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(small.fp32(), options, providers=["CPUExecutionProvider"])
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("onnxruntime before 1.24")
    assert placement(session) == {"CPUExecutionProvider": 2}


def test_a_missing_library_is_named_in_the_loaders_words(
    build: Build, small: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def preload() -> None:
        print("Failed to load libcublasLt.so.13: cannot open shared object file")  # noqa: T201  # as it does

    build.starts = False
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    with pytest.raises(EngineUnavailableError, match=r"libcublasLt\.so\.13.*onnxruntime-gpu\[cuda,cudnn\]"):
        open_on("cuda", small.graph(small.fp32()))
    assert capfd.readouterr().out == ""


def test_devices_are_the_providers_of_the_installed_build(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    assert OrtRuntime().devices() == ("cpu", "cuda", "tensorrt")


def test_every_provider_of_ours_is_one_that_onnx_runtime_knows() -> None:
    known = set(onnxruntime.get_all_providers()) | {"CUDAExecutionProvider"}
    assert {provider.name for provider in PROVIDERS.values()} <= known


def test_a_graph_that_a_gpu_provider_does_not_load_is_the_graphs_fault_and_not_the_providers(
    build: Build, small: Any, engine_of: Callable[..., Engine]
) -> None:
    with pytest.raises(ArtefactError, match="does not load this graph"):
        open_on("cuda", small.graph(b"not a graph"))
