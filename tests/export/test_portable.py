"""Common operators, at most five dimensions, the same function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional

from icf_deploy.errors import ArtefactError
from icf_deploy.export.graph import example_gray, to_onnx
from icf_deploy.export.lowering import lower, lower_graph
from icf_deploy.export.portable import MOST_DIMENSIONS, PORTABLE_OPERATORS, portable
from icf_deploy.network.network import ColorizationNetwork

SIZE = (64, 96)


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("lowering", [True, False], ids=["lowered", "plain"])
@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_a_network_in_portable_operators_is_the_same_function(
    networks: dict[str, ColorizationNetwork], family: str, lowering: bool, gray: Callable[[tuple[int, int]], Tensor]
) -> None:
    network = networks[family].float()
    if lowering:
        network = lower(network, SIZE, pieces=4).network
    model = to_onnx(network, (example_gray(SIZE),))
    model = lower_graph(model).model if lowering else model
    translated = portable(model)
    onnx.checker.check_model(translated, full_check=True)
    assert {node.op_type for node in translated.graph.node} <= PORTABLE_OPERATORS
    assert "DepthToSpace" not in {node.op_type for node in translated.graph.node}
    inferred = onnx.shape_inference.infer_shapes(translated, strict_mode=True, data_prop=True).graph
    ranks = {len(value.type.tensor_type.shape.dim) for value in (*inferred.value_info, *inferred.output)}
    assert max(ranks) == MOST_DIMENSIONS
    before, after = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]) for m in (model, translated)
    )
    for batch in (1, 2):
        values = {"gray": gray(SIZE).float().numpy()[:batch]}
        expected, found = before.run(None, values)[0], after.run(None, values)[0]
        assert np.abs(found - expected).max() <= 1e-4 * expected.std()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_pixel_shuffle_is_exact(factor: int) -> None:
    x = torch.randn(2, 3 * factor**2, 5, 7, dtype=torch.float64)
    model = portable(to_onnx(Applied(lambda x: functional.pixel_shuffle(x, factor)), (x,)))
    assert {node.op_type for node in model.graph.node} == {"Reshape", "Transpose"}
    (found,) = ReferenceEvaluator(model).run(None, {"gray": x.numpy()})
    assert np.array_equal(found, functional.pixel_shuffle(x, factor).numpy())


def test_a_gelu_is_the_exact_one() -> None:
    """The approximation by tanh is off by up to 5e-4 here."""
    x = torch.linspace(-6, 6, 1000).reshape(2, 500)
    model = portable(to_onnx(Applied(functional.gelu), (x,)))
    assert "Gelu" not in {node.op_type for node in model.graph.node}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.abs(session.run(None, {"gray": x.numpy()})[0] - functional.gelu(x.double()).numpy()).max() < 1e-6


def _refused(node: onnx.NodeProto, *shapes: tuple[int | str, ...]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "refused", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            _refused(helper.make_node("Einsum", ["x0", "x1"], ["y"], equation="bqc,bhc->bqh"), ("n", 2, 3), ("n", 4, 3)),
            r"'bqc,bhc->bqh' is no matrix product as it stands",
        ),
        (
            _refused(helper.make_node("DepthToSpace", ["x0"], ["y"], blocksize=2), ("n", 8, 2, 2)),
            "orders its channels",
        ),
        (_refused(helper.make_node("Gelu", ["x0"], ["y"], approximate="tanh"), ("n", 8)), "approximate Gelu"),
        (_refused(helper.make_node("Det", ["x0"], ["y"]), ("n", 3, 3)), "operators Det can't be written portably"),
        (_refused(helper.make_node("Relu", ["x0"], ["y"]), ("n", 2, 2, 2, 2, 2)), "6 dimensions"),
    ],
    ids=["einsum", "depth first", "tanh", "foreign", "six dimensions"],
)
def test_what_it_can_not_say_is_refused_by_name(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ArtefactError, match=message):
        portable(model)


def test_the_paths_of_modules_survive(ddcolor: ColorizationNetwork) -> None:
    """Recipes find nodes by them."""
    model = portable(to_onnx(ddcolor.float(), (example_gray(SIZE),)))
    erf = next(node for node in model.graph.node if node.op_type == "Erf")
    assert any("backbone.stages" in entry.value for entry in erf.metadata_props)
