from __future__ import annotations

import importlib.metadata
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from icf_deploy.errors import ArtefactError, EngineUnavailableError
from icf_deploy.runtimes.base import Engine, FloatArray
from icf_deploy.runtimes.ort import OrtRuntime, _options

onnxruntime = pytest.importorskip("onnxruntime")
EngineOf = Callable[..., Engine]


@pytest.mark.parametrize("recipe", ["fp16", "bf16", "int8+bf16"])
def test_a_recipe_that_the_cpu_provider_would_not_execute_is_refused(recipe: str, small: Any, engine_of: EngineOf) -> None:
    with pytest.raises(ArtefactError, match=recipe.rsplit("+", maxsplit=1)[-1]):
        engine_of(OrtRuntime(), small.graph(small.fp32(), recipe))


def test_formats_tell_what_ran_and_not_what_the_graph_asks_for(small: Any, engine_of: EngineOf) -> None:
    # An fp16 graph under a recipe that claims fp32: the provider removes the Casts and computes in fp32.
    with OrtRuntime().open(engine_of(OrtRuntime(), small.graph(small.low(TensorProto.FLOAT16)))) as session:
        assert set(session.formats) == {"fp32"}


def test_an_int8_graph_computes_its_convolutions_in_int8_near_the_float_result(
    small: Any, engine_of: EngineOf, gray: FloatArray
) -> None:
    with OrtRuntime().open(engine_of(OrtRuntime(), small.graph(small.int8(), "int8"))) as session:
        assert session.formats["int8"] >= 2
        assert np.abs(session.run(gray) - small.network.expected(gray)).mean() < 1.5


def test_reading_formats_leaves_no_profile_behind(
    small: Any, engine_of: EngineOf, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with OrtRuntime().open(engine_of(OrtRuntime(), small.graph(small.fp32()))) as session:
        assert session.formats
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_does_not_give_ab_is_refused_with_what_it_gives(small: Any, engine_of: EngineOf) -> None:
    rgb = small.onnx([helper.make_node("Concat", ["gray"] * 3, ["ab"], axis=1)], [], channels=3)
    with pytest.raises(ArtefactError, match="does not map gray to ab"):
        OrtRuntime().open(engine_of(OrtRuntime(), small.graph(rgb)))


def test_the_engines_own_message_says_what_is_wrong_with_a_graph(small: Any, engine_of: EngineOf) -> None:
    unknown = small.onnx([helper.make_node("Colourize", ["gray"], ["ab"])], [])
    with pytest.raises(ArtefactError, match="Colourize"):
        OrtRuntime().open(engine_of(OrtRuntime(), small.graph(unknown)))


def test_a_session_uses_the_threads_that_were_asked_for_and_runs_one_node_at_a_time() -> None:
    options = _options(threads=3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


def test_idle_threads_do_not_spin_after_a_run() -> None:
    assert _options(threads=2).get_session_config_entry("session.force_spinning_stop") == "1"


def test_a_missing_engine_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch, small: Any, engine_of: EngineOf) -> None:
    engine = engine_of(OrtRuntime(), small.graph(small.fp32()))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    availability = OrtRuntime().available()
    assert not availability.ok
    assert availability.install == "pip install 'icf-deploy[cpu]'"
    for use in (lambda: engine_of(OrtRuntime(), engine.graph), lambda: OrtRuntime().open(engine)):
        with pytest.raises(EngineUnavailableError, match=r"not installed.*pip install 'icf-deploy\[cpu\]'"):
            use()


def test_what_an_uninstalled_distribution_leaves_behind_is_said_to_be_broken(
    monkeypatch: pytest.MonkeyPatch, small: Any, engine_of: EngineOf
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    availability = OrtRuntime().available()
    assert not availability.ok
    assert "installed but does not work" in availability.reason
    with pytest.raises(EngineUnavailableError, match="does not work"):
        engine_of(OrtRuntime(), small.graph(small.fp32()))


def test_two_distributions_of_onnxruntime_at_once_are_said_with_the_command_that_repairs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def distribution(name: str) -> object:
        if name in ("onnxruntime", "onnxruntime-gpu"):
            return object()
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    reason = OrtRuntime().available().reason
    assert "onnxruntime and onnxruntime-gpu are both installed" in reason
    assert "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'icf-deploy[cpu]'" in reason


def test_one_distribution_of_onnxruntime_gives_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def distribution(name: str) -> object:
        if name == "onnxruntime":
            return object()
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    availability = OrtRuntime().available()
    assert (availability.ok, availability.reason) == (True, "")
    assert availability.version == onnxruntime.__version__
