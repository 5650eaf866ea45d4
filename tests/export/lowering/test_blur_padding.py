"""Replicate padding before a 2x2 average goes; every other padding stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from icf_deploy.export.graph import to_onnx
from icf_deploy.export.lowering import lower_graph
from icf_deploy.network.layers import blurred_pixel_shuffle

SHAPE = (2, 3, 5, 7)


def _graph(
    pads: list[int] | None = None, *, mode: str = "edge", kernel: int = 2, second_reader: bool = False, **pool: int
) -> onnx.ModelProto:
    """Pad, then AveragePool, in float64."""
    amounts = numpy_helper.from_array(np.array(pads or [0, 0, 1, 1, 0, 0, 0, 0], np.int64), "amounts")
    nodes = [
        helper.make_node("Pad", ["x", "amounts"], ["padded"], mode=mode, name="pad"),
        helper.make_node("AveragePool", ["padded"], ["y"], kernel_shape=[kernel, kernel], strides=[1, 1], name="blur", **pool),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)]
    if second_reader:
        nodes.append(helper.make_node("Neg", ["padded"], ["z"], name="neg"))
        outputs.append(helper.make_tensor_value_info("z", TensorProto.DOUBLE, None))
    inputs = [helper.make_tensor_value_info("x", TensorProto.DOUBLE, SHAPE)]
    graph = helper.make_graph(nodes, "blur", inputs, outputs, [amounts])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x})]


def _lowered(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool, str]:
    found = lower_graph(model)
    outcome = next(outcome for outcome in found.outcomes if outcome.name == "blur-padding")
    return found.model, outcome.applied, outcome.reason


@pytest.mark.parametrize("size", [(3, 3), (3, 5)])
def test_the_networks_own_blur(size: tuple[int, int]) -> None:
    """As torch exports it, in float64, against torch; a single row and column of pixels are borders too."""

    class Blur(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return blurred_pixel_shuffle(x, 2)

    x = torch.randn(3, 8, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model, applied, reason = _lowered(to_onnx(Blur(), (x,)))
    assert (applied, reason) == (True, "1 blur")
    assert "Pad" not in {node.op_type for node in model.graph.node}
    assert np.abs(_run(model, x.numpy())[0] - blurred_pixel_shuffle(x, 2).numpy()).max() < 1e-14


@pytest.mark.parametrize(("begin", "end"), [((1, 1), (0, 0)), ((0, 0), (1, 1)), ((1, 1), (1, 1)), ((0, 1), (0, 0))], ids=str)
def test_padding_on_any_side_is_exact(begin: tuple[int, int], end: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=SHAPE)
    before = _graph([0, 0, *begin, 0, 0, *end])
    after, applied, _ = _lowered(before)
    assert applied
    (expected,), (found,) = _run(before, x), _run(after, x)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-14


@pytest.mark.parametrize(
    "graph",
    [
        _graph(mode="constant"),
        _graph(mode="reflect"),
        _graph([0, 0, 2, 2, 0, 0, 0, 0]),  # two replicated pixels weigh more than one that is left out
        _graph([0, 1, 1, 1, 0, 0, 0, 0]),  # another channel
        _graph(kernel=3),
        _graph(second_reader=True),
        _graph(ceil_mode=1),
    ],
    ids=["zeros", "reflected", "two pixels", "channels", "3x3", "read twice", "ceil"],
)
def test_what_is_not_the_blur_is_left_alone(graph: onnx.ModelProto) -> None:
    after, applied, reason = _lowered(graph)
    assert not applied
    assert reason == "no replicate padding stands before a 2x2 average alone"
    assert [node.SerializeToString() for node in after.graph.node] == [node.SerializeToString() for node in graph.graph.node]


def test_it_can_be_kept() -> None:
    found = lower_graph(_graph(), keep=["blur-padding"])
    assert [node.op_type for node in found.model.graph.node] == ["Pad", "AveragePool"]
