"""Channel-first LayerNorms become one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest

from icf_deploy.export.graph import example_gray, to_onnx
from icf_deploy.export.lowering import lower
from icf_deploy.network.network import ColorizationNetwork


@pytest.mark.parametrize("before", [(), ("skip-norm",), ("spectral-norm", "skip-norm", "layer-norm-affine")])
def test_the_eight_of_ddcolor(
    ddcolor: ColorizationNetwork, before: tuple[str, ...], applies_exactly: Callable[..., Any]
) -> None:
    """With weight and bias, with another weight and bias, and with none."""
    assert applies_exactly(ddcolor, *before, "layer-norm-op").outcomes


def test_no_mean_is_left_in_the_graph(ddcolor: ColorizationNetwork) -> None:
    """Two each for the stem and four stages; a skip and the downsampling beside it share theirs."""

    def means(model: onnx.ModelProto) -> int:
        return sum(node.op_type == "ReduceMean" for node in model.graph.node)

    single = ddcolor.float()
    gray = (example_gray((64, 64)),)
    assert means(to_onnx(lower(single, (64, 64), keep=["layer-norm-op"]).network, gray)) == 10
    assert means(to_onnx(lower(single, (64, 64)).network, gray)) == 0


def test_another_backbone_is_left_alone(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(edge, "layer-norm-op", reason="no LayerNorm over channels")
