"""What is refused is tested in tests/attacks; here, that nothing real is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from icf_deploy.bundle.graph_check import check_graph


def plain(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def large_tensors() -> onnx.ModelProto:
    """Lengths of several bytes each."""
    weights = [numpy_helper.from_array(np.zeros(size, np.float32), f"w{size}") for size in (1, 31, 32, 4000, 600_000)]
    return plain(helper.make_graph([], "g", [], [], weights))


def data_in_every_field() -> onnx.ModelProto:
    tensors = [
        helper.make_tensor("floats", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("halves", TensorProto.FLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("ints", TensorProto.INT32, [2], [1, -2]),
        helper.make_tensor("longs", TensorProto.INT64, [2], [1, -(2**62)]),
        helper.make_tensor("doubles", TensorProto.DOUBLE, [2], [1.0, 2.0]),
        helper.make_tensor("texts", TensorProto.STRING, [2], [b"a", b"b"]),
        helper.make_tensor("raw", TensorProto.INT8, [2], b"ab", raw=True),
    ]
    tensors[0].data_location = TensorProto.DEFAULT  # written out, and means inside
    return plain(helper.make_graph([], "g", [], [], tensors))


def subgraphs_and_functions() -> onnx.ModelProto:
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value_float=1.0)], "inner", [], [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    function = helper.make_function(
        "local", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 21)]
    )
    model = plain(helper.make_graph([node], "g", [], []))
    model.functions.append(function)
    model.metadata_props.add(key="note", value="EPContext, external_data: only words")
    return model


def operators_that_onnx_runtime_adds() -> onnx.ModelProto:
    return plain(helper.make_graph([helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft")], "g", [], []))


@pytest.mark.parametrize(
    "make", [large_tensors, data_in_every_field, subgraphs_and_functions, operators_that_onnx_runtime_adds]
)
def test_a_model_that_keeps_to_itself_is_accepted(make: Callable[[], onnx.ModelProto]) -> None:
    check_graph(make().SerializeToString(), "x")
