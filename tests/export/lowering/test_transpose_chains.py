"""Two permutations become one or none."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from icf_deploy.export.lowering import lower_graph

SHAPE = (2, 3, 4)
PERMUTATIONS = list(itertools.permutations(range(3)))


def _chain(*perms: tuple[int, ...], read_between: bool = False) -> onnx.ModelProto:
    """Transposes one after the other, then Neg, in float64."""
    nodes, name = [], "x"
    for i, perm in enumerate(perms):
        nodes.append(helper.make_node("Transpose", [name], [f"t{i}"], perm=perm, name=f"transpose_{i}"))
        name = f"t{i}"
    nodes.append(helper.make_node("Neg", [name], ["y"], name="neg"))
    outputs = [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)]
    if read_between:
        nodes.append(helper.make_node("Abs", ["t0"], ["z"], name="abs"))
        outputs.append(helper.make_tensor_value_info("z", TensorProto.DOUBLE, None))
    inputs = [helper.make_tensor_value_info("x", TensorProto.DOUBLE, SHAPE)]
    graph = helper.make_graph(nodes, "chain", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _transposes(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Transpose" for node in model.graph.node)


def _same(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    x = np.random.default_rng(0).normal(size=SHAPE)
    pairs = zip(ReferenceEvaluator(one).run(None, {"x": x}), ReferenceEvaluator(other).run(None, {"x": x}), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(PERMUTATIONS, PERMUTATIONS)))
def test_every_pair_becomes_one_or_none(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    before = _chain(first, second)
    after = lower_graph(before).model
    undone = np.arange(6).reshape(1, 2, 3).transpose(first).transpose(second).shape == (1, 2, 3)
    assert _transposes(after) == (0 if undone else 1)
    assert _same(before, after)


def test_three_become_one() -> None:
    before = _chain((1, 0, 2), (0, 2, 1), (2, 0, 1))
    after = lower_graph(before).model
    assert _transposes(after) <= 1
    assert _same(before, after)


def test_one_that_something_else_reads_stays_for_that() -> None:
    before = _chain((1, 2, 0), (2, 0, 1), read_between=True)
    after = lower_graph(before).model
    assert _transposes(after) == 1
    assert _same(before, after)


def test_an_output_of_the_graph_keeps_its_name() -> None:
    before = _chain((1, 2, 0), (2, 0, 1))
    before.graph.node.pop()
    before.graph.output[0].name = "t1"
    after = lower_graph(before).model
    assert [value.name for value in after.graph.output] == ["t1"]
    assert _same(before, after)


def test_a_single_one_is_left_alone() -> None:
    found = lower_graph(_chain((1, 2, 0)))
    outcome = next(outcome for outcome in found.outcomes if outcome.name == "transpose-chains")
    assert (outcome.applied, outcome.reason) == (False, "no permutation follows another")
    assert _transposes(found.model) == 1
