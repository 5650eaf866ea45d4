"""Real engines on a real graph, and engines that fail in a stated way."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import icf_deploy
from icf_deploy.bundle.manifest import Parity, Provenance
from icf_deploy.bundle.reference import ReferenceSet
from icf_deploy.bundle.store import Bundle, NewGraph, write_bundle
from icf_deploy.choice import Tuned, open_best, open_named
from icf_deploy.errors import ArtefactError, EngineUnavailableError, IntegrityError
from icf_deploy.runtimes import registry

SIZE = (32, 64)


def _model(gain: float) -> bytes:
    """gray -> ab = (gain * gray, gain * gray)."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["gray", "weight"], ["ab"])],
        "formula",
        [helper.make_tensor_value_info("gray", TensorProto.FLOAT, ["N", 1, *SIZE])],
        [helper.make_tensor_value_info("ab", TensorProto.FLOAT, ["N", 2, *SIZE])],
        [numpy_helper.from_array(np.full((2, 1, 1, 1), gain, np.float32), "weight")],
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", "off")  # these graphs are not worth keeping
    gray = (np.arange(SIZE[0] * SIZE[1]) % 256).reshape(1, 1, *SIZE).astype(np.float32) / np.float32(255)
    return write_bundle(
        tmp_path / "edge.icf",
        preset="icf-edge",
        stride=1,
        size=SIZE,
        graphs=[NewGraph("fp32", _model(10), "fp32", SIZE), NewGraph("other", _model(20), "fp32", SIZE)],
        reference=ReferenceSet(("ramp",), gray, np.concatenate([gray, gray], axis=1) * np.float32(10)),
        parity=Parity(0.0, 1e-3, 1),
        provenance=Provenance("0", "0", "0", "3", "2026-01-01T00:00:00Z", None, "test"),
    )


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[tuple[int, str]]]]:
    """said() -> (level, message) of every line that was logged about the choice."""
    with caplog.at_level(logging.INFO, "icf_deploy"):
        yield lambda: [(line.levelno, line.getMessage()) for line in caplog.records if line.name == "icf_deploy.choice"]


def _only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(registry, "preferred", lambda: names)


def _gain(session: Any) -> float:
    with session:
        return float(session.run(np.ones((1, 1, *SIZE), np.float32))[0, 0, 0, 0])


def test_without_a_name_the_first_preferred_engine_is_taken_and_said_in_one_line(
    bundle: Bundle, said: Callable[[], list[tuple[int, str]]]
) -> None:
    with icf_deploy.load(bundle.path, threads=1) as colorizer:
        assert colorizer.engine == registry.preferred()[0]
    ((level, message),) = said()
    assert level == logging.INFO
    assert message.startswith(f"engine {colorizer.engine} for {bundle.path}: the first that can run it of ")
    assert ", ".join(registry.preferred()) in message


def test_an_engine_that_cannot_run_here_is_skipped_with_a_warning_that_says_why(
    bundle: Bundle, said: Callable[[], list[tuple[int, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    _only(monkeypatch, "ort", "openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # installed, and does not import
    with icf_deploy.load(bundle.path, threads=1) as colorizer:
        assert colorizer.engine == "openvino"
        assert colorizer.predict_ab(np.ones((1, 1, *SIZE), np.float32))[0, 0, 0, 0] == pytest.approx(10, abs=1e-4)
    ((level, message),) = said()
    assert level == logging.WARNING
    assert message.startswith(
        f"engine openvino for {bundle.path}: the first that can run it of ort, openvino; ort was skipped: "
    )
    assert "icf-deploy[cpu]" in message


def test_a_named_engine_never_becomes_another_one(
    bundle: Bundle, said: Callable[[], list[tuple[int, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_session = registry.open_session

    def recording(bundle: Bundle, engine: str, **options: Any) -> Any:
        opened.append(engine)
        return open_session(bundle, engine, **options)

    monkeypatch.setattr(registry, "open_session", recording)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineUnavailableError, match="openvino"):
        icf_deploy.load(bundle.path, engine="openvino")
    assert opened == ["openvino"]
    assert said() == []
    name, session = open_named(bundle, "ort", threads=1)
    session.close()
    assert name == "ort"
    assert said() == [(logging.INFO, f"engine ort for {bundle.path}: as asked")]


def test_the_tuned_engine_is_taken_before_all_others_with_its_graph(
    bundle: Bundle, said: Callable[[], list[tuple[int, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    _only(monkeypatch, "ort", "openvino")
    name, session = open_best(bundle, threads=1, tuned=Tuned("openvino:cpu", "other"))
    assert name == "openvino:cpu"
    assert _gain(session) == pytest.approx(20, abs=1e-3)
    assert said() == [(logging.INFO, f"engine openvino:cpu for {bundle.path}: tuned for this device, with graph other")]


def test_a_tuned_engine_that_is_gone_is_replaced_aloud(
    bundle: Bundle, said: Callable[[], list[tuple[int, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _only(monkeypatch, "ort")
    monkeypatch.setitem(sys.modules, "openvino", None)
    name, session = open_best(bundle, threads=1, tuned=Tuned("openvino:cpu", "other"))
    assert name == "ort"
    assert _gain(session) == pytest.approx(10, abs=1e-4)
    ((level, message),) = said()
    assert level == logging.WARNING
    assert "openvino:cpu was skipped" in message


def test_where_none_can_every_reason_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, "ort", "pytorch")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        EngineUnavailableError, match=r"no engine can run edge\.icf here: ort: .*; pytorch: .*--with-checkpoint"
    ):
        icf_deploy.load(bundle.path)
    _only(monkeypatch)
    with pytest.raises(EngineUnavailableError, match=r"pip install 'icf-deploy\[cpu\]'"):
        icf_deploy.load(bundle.path)


def test_a_graph_that_no_engine_would_execute_is_an_artefact_that_does_not_fit(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(bundle: Bundle, engine: str, **_: Any) -> Any:
        raise ArtefactError(f"{engine} would not execute fp4")

    _only(monkeypatch, "ort", "openvino")
    monkeypatch.setattr(registry, "open_session", refuse)
    with pytest.raises(ArtefactError, match="ort would not execute fp4; openvino: openvino would not execute fp4"):
        icf_deploy.load(bundle.path)


def test_a_damaged_bundle_is_not_a_reason_to_try_another_engine(
    bundle: Bundle, said: Callable[[], list[tuple[int, str]]]
) -> None:
    graph = bundle.path / "graphs/fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError):
        icf_deploy.load(bundle.path)
    assert said() == []
