from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import icf_deploy
from icf_deploy.bundle.packing import pack
from icf_deploy.bundle.store import Bundle, open_bundle
from icf_deploy.errors import ArtefactError, CheckpointError, IntegrityError, UsageError
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import Engine, Target

Refused = Callable[..., None]
Restate = Callable[..., None]
ENGINE = "engines/fp32-sm86.engine"


@pytest.fixture(params=["folder", "file"])
def opened(request: pytest.FixtureRequest, victim: Path) -> Callable[..., Bundle]:
    """opened(**options): the bundle in either form."""
    path = victim if request.param == "folder" else pack(open_bundle(victim), victim.with_name("packed.icf")).path
    return lambda **options: open_bundle(path, **options)


def test_an_engine_inside_a_bundle_is_not_used_unless_it_is_trusted(opened: Callable[..., Bundle]) -> None:
    bundle = opened()
    assert bundle.engines("trt") == ()
    with pytest.raises(UsageError, match=r"machine code and are not used: .*trust_engines=True"):
        bundle.engine("fp32-sm86")


def test_an_engine_that_is_trusted_is_handed_out_as_it_was_written(opened: Callable[..., Bundle]) -> None:
    bundle = opened(trust_engines=True)
    (entry,) = bundle.engines("trt")
    assert (entry.name, entry.target, entry.version, entry.graph) == ("fp32-sm86", "sm86", "tensorrt_rtx 1.7.1", "fp32")
    assert bundle.engine(entry.name) == b"machine code" * 100
    assert bundle.engines("ort") == ()
    with pytest.raises(UsageError, match="no engine 'fp16-sm90'; there are: fp32-sm86"):
        bundle.engine("fp16-sm90")


def test_an_engine_that_nobody_asked_for_is_not_even_read(victim: Path, caplog: pytest.LogCaptureFixture) -> None:
    (victim / ENGINE).unlink()
    with caplog.at_level(logging.INFO, "icf_deploy"), icf_deploy.load(victim, "ort", threads=1) as colorizer:
        assert colorizer.predict_ab(np.ones((1, 1, *colorizer.size), np.float32))[0, 0, 0, 0] == pytest.approx(100, abs=1e-3)


@pytest.mark.parametrize("kept", [0, 1, 600, 1199])
def test_a_truncated_plan(kept: int, victim: Path, refused: Refused) -> None:
    os.truncate(victim / ENGINE, kept)
    refused(victim, r"engines/fp32-sm86\.engine is not what was written: expected 1200 bytes", opens=True)
    with pytest.raises(IntegrityError, match="not what was written"):
        open_bundle(victim, trust_engines=True).engine("fp32-sm86")


def test_a_swapped_plan(victim: Path, refused: Refused, restate: Restate) -> None:
    digest = open_bundle(victim).digest
    (victim / ENGINE).write_bytes(b"other code!!" * 100)
    refused(victim, r"engines/fp32-sm86\.engine is not what was written", opens=True)
    restate(victim, {ENGINE: b"other code!!" * 100})
    with pytest.raises(IntegrityError, match="is not the bundle that was asked for"):
        icf_deploy.load(victim, "ort", trust_engines=True, expect_digest=digest)


def test_a_plan_in_place_of_a_graph(victim: Path, refused: Refused, restate: Restate) -> None:
    restate(victim, {"graphs/fp32.onnx": (victim / ENGINE).read_bytes()})
    refused(victim, "it is no ONNX model")


def test_an_engine_of_another_runtime_is_a_foreign_one(victim: Path) -> None:
    graph = open_bundle(victim).graph()
    for name in ("ort", "openvino"):
        with pytest.raises(ArtefactError, match="this engine was built by trt") as error:
            registry.get(name).open(Engine("trt", Target("sm86"), graph, b"machine code"))
        assert error.value.exit_status == 4


class Explosive:
    """Unpickling it would make a file."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._canary),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_in_place_of_the_checkpoint_is_not_loaded(
    protocol: int, victim: Path, refused: Refused, restate: Restate, tmp_path: Path
) -> None:
    canary = tmp_path / "executed"
    restate(victim, {"checkpoint.safetensors": pickle.dumps(Explosive(canary), protocol)})
    refused(victim, r"checkpoint\.safetensors holds no safetensors", opens=True)
    with pytest.raises(IntegrityError, match="holds no safetensors"):
        icf_deploy.load(victim, "pytorch")
    assert not canary.exists()


def test_a_zip_of_pickles_in_place_of_the_checkpoint_is_not_loaded(
    victim: Path, refused: Refused, restate: Restate, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    canary = tmp_path / "executed"
    torch.save({"params": Explosive(canary)}, tmp_path / "evil.pth")
    restate(victim, {"checkpoint.safetensors": (tmp_path / "evil.pth").read_bytes()})
    refused(victim, "holds no safetensors", opens=True)
    with pytest.raises(IntegrityError, match="holds no safetensors"):
        icf_deploy.load(victim, "pytorch")
    assert not canary.exists()


def test_a_checkpoint_of_another_network_does_not_fit(victim: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(CheckpointError) as error:
        icf_deploy.load(victim, "pytorch")
    assert error.value.exit_status == 4


def test_a_pickle_in_place_of_the_reference_set_is_not_loaded(
    victim: Path, refused: Refused, restate: Restate, tmp_path: Path
) -> None:
    canary = tmp_path / "executed"
    restate(victim, {"reference.npz": pickle.dumps(Explosive(canary))})
    refused(victim, "is not a reference set", opens=True)
    assert not canary.exists()
