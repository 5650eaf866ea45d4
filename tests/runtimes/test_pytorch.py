from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icf_deploy.errors import ArtefactError, CheckpointError, EngineUnavailableError
from icf_deploy.runtimes.base import Engine, FloatArray, Graph
from icf_deploy.runtimes.pytorch import PytorchRuntime

torch = pytest.importorskip("torch")
EngineOf = Callable[..., Engine]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Any]:
    """A checkpoint of an untrained icf-edge, and the network that was saved."""
    from icf_deploy.network.checkpoint import save_checkpoint
    from icf_deploy.network.presets import build

    torch.manual_seed(3)
    network = build("icf-edge").eval()
    path = save_checkpoint(network, tmp_path_factory.mktemp("checkpoint") / "edge.safetensors")
    data = Path(path).read_bytes()
    return Graph(data, hashlib.sha256(data).hexdigest(), (64, 96), network.stride, preset="icf-edge"), network


def test_a_checkpoint_runs_at_the_size_of_the_bundle_and_gives_the_networks_own_ab(
    checkpoint: tuple[Graph, Any], engine_of: EngineOf, gray: FloatArray
) -> None:
    graph, network = checkpoint
    with PytorchRuntime().open(engine_of(PytorchRuntime(), graph)) as session:
        ab = session.run(gray)
        assert session.size == (64, 96)
        assert session.formats["fp32"] > 10
    with torch.no_grad():
        np.testing.assert_allclose(ab, network(torch.from_numpy(gray)).numpy(), rtol=0, atol=1e-4)
    assert ab.shape == (3, 2, *session.output_size)


def test_a_checkpoint_of_another_preset_than_the_bundle_says_is_refused(
    checkpoint: tuple[Graph, Any], engine_of: EngineOf
) -> None:
    engine = engine_of(PytorchRuntime(), replace(checkpoint[0], preset="ddcolor-tiny"))
    with pytest.raises(ArtefactError, match=r"icf-edge.*ddcolor-tiny"):
        PytorchRuntime().open(engine)


def test_bytes_that_are_no_checkpoint_are_refused(checkpoint: tuple[Graph, Any], engine_of: EngineOf) -> None:
    engine = engine_of(PytorchRuntime(), checkpoint[0])
    with pytest.raises(CheckpointError):
        PytorchRuntime().open(replace(engine, data=b"no checkpoint"))


def test_the_reference_is_float32_and_refuses_another_recipe(checkpoint: tuple[Graph, Any], engine_of: EngineOf) -> None:
    with pytest.raises(ArtefactError, match="recipe bf16"):
        engine_of(PytorchRuntime(), replace(checkpoint[0], recipe="bf16"))


def test_opening_pins_float32_products_and_the_threads(checkpoint: tuple[Graph, Any], engine_of: EngineOf) -> None:
    torch.set_float32_matmul_precision("medium")
    with PytorchRuntime().open(engine_of(PytorchRuntime(), checkpoint[0])):
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_num_threads() == 1


def test_missing_torch_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch, engine_of: EngineOf) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineUnavailableError, match=r"not installed.*pip install 'icf-deploy\[export\]'"):
        engine_of(PytorchRuntime(), Graph(b"", "", (64, 96), 1))


NO_COMPILER = "backend='inductor' raised:\nInvalidCxxCompiler: No working C++ compiler found"
GRAPH_BREAK = "graph break: a Python side effect"


@pytest.mark.parametrize("said, error", [(NO_COMPILER, EngineUnavailableError), (GRAPH_BREAK, ArtefactError)])
def test_what_cannot_be_compiled_is_an_error_and_never_runs_eagerly_instead(
    said: str, error: type[Exception], checkpoint: tuple[Graph, Any], engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_nothing(network: object, *, fullgraph: bool) -> Callable[[object], object]:
        def fail(_: object) -> object:
            raise RuntimeError(said)

        assert fullgraph
        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    with pytest.raises(error, match=re.escape(said.splitlines()[-1])):
        PytorchRuntime().open(engine_of(PytorchRuntime(), checkpoint[0], "compiled"))


def test_opening_switches_tf32_off_in_convolutions_too(checkpoint: tuple[Graph, Any], engine_of: EngineOf) -> None:
    torch.backends.cudnn.allow_tf32 = True
    with PytorchRuntime().open(engine_of(PytorchRuntime(), checkpoint[0])):
        assert torch.backends.cudnn.allow_tf32 is False
        assert torch.backends.cuda.matmul.allow_tf32 is False
