from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from icf_deploy.errors import EngineUnavailableError, UsageError
from icf_deploy.runtimes import cuda, registry
from icf_deploy.runtimes.base import Graph

FAKE = """
import numpy as np
from icf_deploy.runtimes.base import Availability, Engine
from icf_deploy.runtimes.session import EngineSession

class FakeSession(EngineSession):
    formats = {"fp32": 1}
    def _compute(self, gray):
        height, width = self.output_size
        return np.full((len(gray), 2, height, width), 7, np.float32)
    def _release(self):
        pass

class FakeRuntime:
    name = "fake"
    def available(self): return Availability(True, "1.0")
    def devices(self): return ("abacus",)
    def formats(self, device): return ("fp32",)
    def build(self, graph, target): return Engine("fake", target, graph, graph.data)
    def open(self, engine): return FakeSession(engine.graph)
"""


class FakeBundle:
    """As much of a bundle as the registry asks for."""

    path = Path("/somewhere/edge.icf")

    def __init__(self, checkpoint: Graph | None = None) -> None:
        self._checkpoint = checkpoint

    def graph(self, name: str | None = None) -> Graph:
        return Graph(f"graph {name}".encode(), "", (64, 96), 2)

    def checkpoint(self) -> Graph | None:
        return self._checkpoint

    def engines(self, runtime: str) -> tuple[()]:
        return ()


@pytest.fixture
def fake_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A new engine kind: one file, one registry line."""
    (tmp_path / "fake_engine.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.RUNTIMES, "fake", registry.Line("fake_engine", "FakeRuntime", ("fake_engine",)))
    yield
    sys.modules.pop("fake_engine", None)


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Only these runtimes' packages are installed."""
    packages = {package for name in names for package in registry.RUNTIMES[name].packages}
    monkeypatch.setattr(registry, "_is_installed", lambda package: package in packages)


@pytest.mark.usefixtures("fake_line")
def test_a_new_engine_kind_is_one_file_and_one_registry_line() -> None:
    bundle: Any = FakeBundle()
    with registry.open_session(bundle, "fake:abacus") as session:
        assert session.run(np.zeros((2, 1, 64, 96), np.float32)).tolist() == np.full((2, 2, 32, 48), 7.0).tolist()
    assert registry.split("fake") == ("fake", "abacus")
    assert "fake" in registry.names()
    assert registry.preferred()[-1] == "fake"


def test_an_unknown_engine_is_a_usage_error_that_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"ort, openvino, pytorch.*Did you mean openvino\?"):
        registry.get("opnvino")


@pytest.mark.parametrize("name", ["ort:abacus", "ort:", "openvino:CPU", "trt:cpu", "pytorch:gpu"])
def test_an_unknown_device_is_a_usage_error_that_lists_those_there_are(name: str) -> None:
    with pytest.raises(UsageError, match="choose one of"):
        registry.get(name)


def test_an_engines_name_is_split_into_runtime_and_device() -> None:
    assert registry.split("ort") == ("ort", "cpu")
    assert registry.split("ort:cpu") == ("ort", "cpu")
    assert registry.split("openvino:cpu-bf16") == ("openvino", "cpu-bf16")


def test_every_line_of_the_registry_leads_to_a_runtime_of_that_name() -> None:
    for name in registry.names():
        assert registry.get(name).name == name


@pytest.mark.parametrize(
    "installed, expected",
    [
        (("pytorch", "openvino", "ort"), ("ort", "openvino", "pytorch")),
        (("pytorch", "openvino"), ("openvino", "pytorch")),
        ((), ()),
    ],
)
def test_preferred_lists_what_is_installed_best_first(
    installed: tuple[str, ...], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, *installed)
    assert registry.preferred() == expected


@pytest.mark.parametrize(
    "installed, gpu, cuda_provider, expected",
    [
        (("trt", "ort", "pytorch"), True, True, ("trt", "ort:cuda", "ort", "pytorch")),
        (("trt", "ort", "pytorch"), True, False, ("trt", "ort", "pytorch")),
        (("ort",), True, True, ("ort:cuda", "ort")),
        (("trt", "ort"), False, True, ("ort",)),
    ],
)
def test_engines_for_a_gpu_come_first_where_there_is_one_and_not_at_all_where_there_is_none(
    installed: tuple[str, ...], gpu: bool, cuda_provider: bool, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, *installed)
    monkeypatch.setattr(cuda, "driver_present", lambda: gpu)
    monkeypatch.setattr(registry, "_has_cuda_provider", lambda: cuda_provider)
    assert registry.preferred() == expected
    for name in expected:
        assert registry.line(name) is registry.RUNTIMES[name.partition(":")[0]]
        assert registry.split(name)[0] in registry.RUNTIMES


def test_the_cuda_provider_is_found_by_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "onnxruntime"
    (package / "capi").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    assert not registry._has_cuda_provider()
    (package / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"")
    assert registry._has_cuda_provider()


def test_looking_for_engines_imports_none_of_them() -> None:
    script = (
        "import sys; from icf_deploy.runtimes import registry; registry.preferred(); "
        "[registry.split(name) for name in registry.names()]; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino', 'cv2', 'tensorrt_rtx', 'cuda'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.usefixtures("fake_line")
def test_without_an_engine_the_first_installed_one_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "fake")
    bundle: Any = FakeBundle()
    assert type(registry.open_session(bundle)).__name__ == "FakeSession"


def test_pytorch_is_not_chosen_for_a_bundle_without_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "pytorch")
    bundle: Any = FakeBundle()
    with pytest.raises(EngineUnavailableError, match=r"pip install 'icf-deploy\[cpu\]'"):
        registry.open_session(bundle)


def test_pytorch_on_a_bundle_without_checkpoint_names_the_option_that_puts_it_there() -> None:
    bundle: Any = FakeBundle()
    with pytest.raises(EngineUnavailableError, match=r"edge\.icf.*--with-checkpoint"):
        registry.graph_for(bundle, "pytorch")


def test_pytorch_gets_the_checkpoint_and_other_engines_the_named_graph() -> None:
    checkpoint = Graph(b"checkpoint", "", (64, 96), 2)
    bundle: Any = FakeBundle(checkpoint)
    assert registry.graph_for(bundle, "pytorch:cpu", "int8") is checkpoint
    assert registry.graph_for(bundle, "ort", "int8").data == b"graph int8"


def test_an_engine_that_is_installed_but_broken_is_an_error_and_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "ort", "openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace())
    bundle: Any = FakeBundle()
    with pytest.raises(EngineUnavailableError, match="engine ort"):
        registry.open_session(bundle)
