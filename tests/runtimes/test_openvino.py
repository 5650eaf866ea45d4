from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from icf_deploy.errors import ArtefactError, EngineUnavailableError
from icf_deploy.runtimes import openvino as module
from icf_deploy.runtimes.base import Engine, FloatArray, Graph
from icf_deploy.runtimes.openvino import OpenvinoRuntime, _precision

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
    monkeypatch.setattr(module, "_capabilities", lambda: frozenset({"FP32", "INT8"}))
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
    assert _precision(Graph(b"", "", (32, 32), 1, recipe), device) == expected


@pytest.mark.parametrize("recipe, device", [("fp16+fp32", "cpu"), ("fp16", "cpu-bf16"), ("bf16+fp16", "cpu")])
def test_fp16_in_a_part_of_the_graph_is_refused_because_it_would_run_everywhere_or_nowhere(recipe: str, device: str) -> None:
    with pytest.raises(ArtefactError, match="whole graph or nowhere"):
        _precision(Graph(b"", "", (32, 32), 1, recipe), device)


def test_a_missing_engine_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch, small: Any, engine_of: EngineOf) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineUnavailableError, match=r"pip install 'icf-deploy\[openvino\]'"):
        engine_of(OpenvinoRuntime(), small.graph(small.fp32()))
