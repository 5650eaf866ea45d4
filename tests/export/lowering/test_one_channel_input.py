"""One gray channel in, normalization in the first weights; exact at the borders, where a naive fold is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from icf_deploy.export.lowering.lean_backbone import LeanConvNeXt
from icf_deploy.export.lowering.one_channel_input import CentredEfficientNetLite0
from icf_deploy.network.backbones.efficientnet_lite import NORMALIZE_SCALE, NORMALIZE_SHIFT, EfficientNetLite0
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.network.presets import EdgeConfig, build_edge


def test_ddcolors_stem_and_gray_term_take_one_channel(
    ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]
) -> None:
    lowered = applies_exactly(ddcolor, "spectral-norm", "one-channel-input").network
    assert isinstance(lowered.backbone, LeanConvNeXt)
    assert lowered.backbone.stem.weight.shape == (16, 1, 4, 4)
    assert lowered.fusion.get_submodule("on_gray.1").weight.shape == (2, 1, 1, 1)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_edge_family_takes_it_at_every_stride(stride: int, applies_exactly: Callable[..., Any]) -> None:
    torch.manual_seed(stride)
    edge = build_edge(EdgeConfig(stride=stride)).double().eval().requires_grad_(False)
    edge.fusion.gray_weight.copy_(torch.tensor([3.0, -2.0]))
    lowered = applies_exactly(edge, "one-channel-input").network
    assert isinstance(lowered.backbone, CentredEfficientNetLite0)
    assert lowered.fusion.get_submodule("on_gray.1").weight.shape == (2, 1, stride, stride)


def test_a_shift_folded_into_the_bias_would_be_wrong_at_the_bottom_and_the_right_and_nowhere_else(
    edge: ColorizationNetwork, gray: Callable[[tuple[int, int]], Tensor]
) -> None:
    """What the rewrite must not do, so that the tests above are seen to look where it matters."""
    assert isinstance(edge.backbone, EfficientNetLite0)
    conv = edge.backbone.stem[0]
    assert isinstance(conv, nn.Conv2d)
    naive = copy.deepcopy(conv)
    naive.weight.mul_(NORMALIZE_SCALE)
    shift = NORMALIZE_SHIFT * conv.weight.sum((1, 2, 3))
    wrong = (naive(gray((64, 96))) + shift[:, None, None] - conv(gray((64, 96)) * NORMALIZE_SCALE + NORMALIZE_SHIFT)).abs()
    assert wrong[..., :-1, :-1].max() < 1e-12
    assert wrong[..., -1, :].max() > 0.1
    assert wrong[..., :, -1].max() > 0.1


def test_a_stem_that_pads_is_left_alone(ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    stem = nn.Conv2d(3, 16, 6, stride=4, padding=1).double().requires_grad_(False)
    ddcolor.backbone.set_submodule("downsample_layers.0.0", stem)
    leaves_alone(ddcolor, "one-channel-input", reason="the stem pads")


def test_a_stem_that_pads_does_not_keep_the_gray_term(
    ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]
) -> None:
    stem = nn.Conv2d(3, 16, 6, stride=4, padding=1).double().requires_grad_(False)
    ddcolor.backbone.set_submodule("downsample_layers.0.0", stem)
    lowered = applies_exactly(ddcolor, "spectral-norm", "one-channel-input")
    outcome = next(found for found in lowered.outcomes if found.name == "one-channel-input")
    assert outcome.reason == "gray term, the stem pads, and what it pads is not normalized"
