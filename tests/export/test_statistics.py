"""Figures of graphs, against numbers worked out by hand and against another counter."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from icf_deploy.errors import ArtefactError
from icf_deploy.export.graph import example_gray, to_onnx
from icf_deploy.export.statistics import statistics
from icf_deploy.network.network import ColorizationNetwork


def _model(nodes: list[onnx.NodeProto], shapes: dict[str, list[int | str]], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A graph from the inputs in `shapes` to the last node's first output."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("node", "shapes", "weights", "expected"),
    [
        # 8 x 5 x 7 outputs, each 4 channels of its group x 3 x 3
        (("Conv", {"group": 2, "pads": [1, 1, 1, 1]}), {"x": ["n", 8, 5, 7]}, {"w": (8, 4, 3, 3)}, 8 * 5 * 7 * 4 * 9),
        (("Conv", {"strides": [2, 2]}), {"x": ["n", 3, 8, 8]}, {"w": (5, 3, 2, 2)}, 5 * 4 * 4 * 3 * 4),
        # each of 3 x 4 x 4 inputs is spread over 5 channels x 2 x 2
        (("ConvTranspose", {"strides": [2, 2]}), {"x": ["n", 3, 4, 4]}, {"w": (3, 5, 2, 2)}, 3 * 4 * 4 * 5 * 4),
        (("MatMul", {}), {"x": ["n", 6, 10, 12]}, {"w": (12, 7)}, 6 * 10 * 7 * 12),
        (("Gemm", {}), {"x": [10, 12]}, {"w": (12, 7)}, 10 * 12 * 7),
        (("Gemm", {"transA": 1, "transB": 1}), {"x": [12, 10]}, {"w": (7, 12)}, 10 * 12 * 7),
        (("Einsum", {"equation": "bqc,bchw->bqhw"}), {"x": ["n", 9, 4], "w": ["n", 4, 5, 6]}, {}, 9 * 4 * 5 * 6),
        (("Mul", {}), {"x": ["n", 6, 10]}, {"w": (10,)}, 0),
    ],
)
def test_multiplications(
    node: tuple[str, dict[str, object]], shapes: dict[str, list[int | str]], weights: dict[str, tuple[int, ...]], expected: int
) -> None:
    kind, attributes = node
    model = _model(
        [helper.make_node(kind, ["x", "w"], ["y"], **attributes)], shapes, {name: _floats(*s) for name, s in weights.items()}
    )
    assert statistics(model).gmac == expected / 1e9
    if "n" in shapes["x"]:
        assert statistics(model, batch=3).gmac == 3 * expected / 1e9


@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_a_network_has_as_many_as_torch_counts(networks: dict[str, ColorizationNetwork], family: str) -> None:
    """FlopCounterMode counts two operations per multiplication, from the operators that PyTorch runs.

    Attention is written out for it: it does not count the CPU's fused one.
    """
    network = networks[family].float()
    gray = example_gray((64, 96))
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network(gray[:1])
    found = statistics(to_onnx(network, (gray,)))
    assert found.gmac == pytest.approx(counter.get_total_flops() / 2e9, rel=1e-3)


def test_parameters_are_the_weights_and_not_the_shapes() -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])]
    weights = {"shape": np.array([-1, 12], np.int64), "w": _floats(12, 7)}
    found = statistics(_model(nodes, {"x": ["n", 3, 4]}, weights))
    assert (found.parameters, found.nodes) == (84, 2)


def test_the_peak_of_a_chain_is_its_largest_pair() -> None:
    """x 1,000 numbers, a 4,000, b 2,000, y 500: a and b together are the most."""
    nodes = [
        helper.make_node("Concat", ["x", "x", "x", "x"], ["a"], axis=1, name="widen"),
        helper.make_node("Slice", ["a", "start", "half", "one"], ["b"], name="cut"),
        helper.make_node("Slice", ["b", "start", "less", "one"], ["y"], name="cut_again"),
    ]
    weights = {name: np.array([value], np.int64) for name, value in {"start": 0, "half": 2000, "less": 500, "one": 1}.items()}
    found = statistics(_model(nodes, {"x": ["n", 1000]}, weights))
    assert (found.largest.name, found.largest.shape, found.largest.bytes) == ("a", (1, 4000), 16_000)
    assert (found.peak_bytes, found.peak_node) == (4 * (4000 + 2000), "cut")


def test_what_is_read_later_stays_alive_until_then() -> None:
    """The skip over b: at the sum x, b and y are alive, at the second node a, b and x."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Relu", ["b"], ["c"], name="third"),
        helper.make_node("Add", ["c", "x"], ["y"], name="sum"),
    ]
    found = statistics(_model(nodes, {"x": ["n", 100]}, {}))
    assert (found.peak_bytes, found.peak_node) == (3 * 400, "second")


def test_a_reshape_takes_no_memory_and_keeps_what_it_views_alive() -> None:
    """a 400 numbers, once under two names: with x while it is made, with b and c while its view is still wanted."""
    nodes = [
        helper.make_node("Concat", ["x", "x", "x", "x"], ["a"], axis=1, name="widen"),
        helper.make_node("Reshape", ["a", "shape"], ["view"], name="view"),
        helper.make_node("Slice", ["view", "start", "end", "axis"], ["b"], name="cut"),
        helper.make_node("Relu", ["b"], ["c"], name="relu"),
        helper.make_node("Add", ["c", "view"], ["y"], name="sum"),
    ]
    weights = {"shape": np.array([0, 10, 40], np.int64)}
    weights |= {name: np.array([value], np.int64) for name, value in {"start": 0, "end": 1, "axis": 1}.items()}
    model = _model(nodes, {"x": ["n", 100]}, weights)
    found = statistics(model)
    assert (found.peak_bytes, found.peak_node) == (4 * (40 + 400 + 400), "sum")
    del model.graph.node[2:]
    model.graph.output[0].name = "view"
    found = statistics(model)
    assert (found.peak_bytes, found.peak_node) == (4 * (100 + 400), "widen")


def test_what_is_computed_from_constants_is_no_activation() -> None:
    nodes = [
        helper.make_node("Neg", ["w"], ["negative"], name="fold"),
        helper.make_node("MatMul", ["x", "negative"], ["y"], name="product"),
    ]
    found = statistics(_model(nodes, {"x": ["n", 10]}, {"w": _floats(10, 1000)}))
    assert found.largest.name == "y"
    assert found.peak_bytes == 4 * (10 + 1000)


def test_what_is_computed_from_constants_costs_no_multiplications() -> None:
    nodes = [
        helper.make_node("MatMul", ["w", "w"], ["square"], name="fold"),
        helper.make_node("MatMul", ["x", "square"], ["y"], name="product"),
    ]
    assert statistics(_model(nodes, {"x": ["n", 10]}, {"w": _floats(10, 10)})).gmac == 100 / 1e9


def test_bytes_are_those_of_the_file() -> None:
    model = _model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 100]}, {})
    assert statistics(model).bytes == len(model.SerializeToString())


def test_an_operator_that_onnx_does_not_know_is_named() -> None:
    model = _model([helper.make_node("Mystery", ["x"], ["y"], domain="somewhere")], {"x": ["n", 10]}, {})
    model.opset_import.append(helper.make_opsetid("somewhere", 1))
    with pytest.raises(ArtefactError, match=r"shapes of 1 tensors can't be inferred \(y"):
        statistics(model)
