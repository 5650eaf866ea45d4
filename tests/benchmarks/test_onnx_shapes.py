from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icf_deploy.benchmarks.onnx_shapes import plain_sizes
from icf_deploy.errors import ArtefactError


def model(gray: list[Any], ab: list[Any], **options: Any) -> bytes:
    """An ONNX model whose declared shapes are these; the nodes do not matter."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["gray"], ["ab"])],
        "g",
        [helper.make_tensor_value_info("gray", TensorProto.FLOAT, gray)],
        [helper.make_tensor_value_info("ab", TensorProto.FLOAT, ab)],
        **options,
    )
    return bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(
    ("gray", "ab"),
    [(["n", 1, 256, 512], ["n", 2, 64, 128]), ([1, 1, 32, 32], [1, 2, 32, 32]), ([None, 1, 512, 64], [8, 2, 256, 32])],
)
def test_sizes_are_those_that_onnx_declares(gray: list[Any], ab: list[Any]) -> None:
    assert plain_sizes(model(gray, ab)) == (tuple(gray[2:]), tuple(ab[2:]))


def test_a_weight_that_is_also_listed_as_input_is_not_the_gray_input() -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    found = onnx.load_model_from_string(model(["n", 1, 64, 64], ["n", 2, 64, 64]))
    found.graph.initializer.append(numpy_helper.from_array(np.ones((2, 1), np.float32), "w"))
    found.graph.input.insert(0, helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 1]))
    assert plain_sizes(found.SerializeToString())[0] == (64, 64)


def test_weights_in_any_storage_are_passed_over(tiny_onnx: Path) -> None:
    assert plain_sizes(tiny_onnx.read_bytes()) == ((64, 64), (32, 32))


@pytest.mark.parametrize(
    ("gray", "ab", "message"),
    [
        (["n", 3, 64, 64], ["n", 2, 64, 64], "one input"),
        (["n", 1, 64, 64], ["n", 3, 64, 64], "one output"),
        (["n", 1, "h", "w"], ["n", 2, "h", "w"], "fixed sizes"),
        (["n", 1, 64], ["n", 2, 64], "fixed sizes"),
    ],
)
def test_a_graph_of_another_kind_is_refused(gray: list[Any], ab: list[Any], message: str) -> None:
    with pytest.raises(ArtefactError, match=message):
        plain_sizes(model(gray, ab))


@pytest.mark.parametrize("data", [b"", b"hello, world", b"\xff" * 40, bytes(100), b"\x3a\xff\xff\xff\xff\x0f"])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(ArtefactError):
        plain_sizes(data)


def test_a_model_cut_anywhere_is_refused_or_still_tells_the_same(tiny_onnx: Path) -> None:
    data = tiny_onnx.read_bytes()
    for end in range(len(data)):
        try:
            assert plain_sizes(data[:end]) == ((64, 64), (32, 32))
        except ArtefactError:
            continue
