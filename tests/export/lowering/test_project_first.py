"""Two channels are shuffled and blurred instead of all, border rows included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from icf_deploy.export.lowering.lean_fusion import PaletteFusion
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.network.presets import EdgeConfig, build_edge

BEFORE = ("spectral-norm", "palette")


@pytest.mark.parametrize("before", [BEFORE, (*BEFORE, "batch-norm-forward", "one-channel-input")])
def test_ddcolor(ddcolor: ColorizationNetwork, before: tuple[str, ...], applies_exactly: Callable[..., Any]) -> None:
    applies_exactly(ddcolor, *before, "project-first")


@pytest.mark.parametrize("stride", [1, 2])
def test_the_edge_family_where_it_shuffles(stride: int, applies_exactly: Callable[..., Any]) -> None:
    torch.manual_seed(stride)
    edge = build_edge(EdgeConfig(stride=stride)).double().eval().requires_grad_(False)
    applies_exactly(edge, "batch-norm", "project-first")


def test_where_it_does_not_shuffle_it_is_left_alone(leaves_alone: Callable[..., Any]) -> None:
    torch.manual_seed(4)
    edge = build_edge(EdgeConfig(stride=4)).double().eval().requires_grad_(False)
    leaves_alone(edge, "batch-norm", "project-first", reason="does not shuffle")


def test_with_a_map_per_query_it_is_left_alone(ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(ddcolor, "spectral-norm", "project-first", reason="the palette is not multiplied in")


def test_a_batch_norm_in_the_expansion_keeps_it(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(edge, "project-first", reason="not a 1x1 convolution and an activation")


def test_an_activation_that_mixes_channels_keeps_it(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    edge.fusion.expand.append(nn.Softmax(dim=1))
    leaves_alone(edge, "batch-norm", "project-first", reason="not a 1x1 convolution and an activation")


def test_something_between_palette_and_ab_keeps_it(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    from icf_deploy.network.fusion import EdgeFusion

    class SquashedFusion(EdgeFusion):
        def paint(self, palette: Tensor, features: Tensor, gray: Tensor) -> Tensor:
            return torch.tanh(super().paint(palette, features, gray))

    edge.fusion.__class__ = SquashedFusion
    assert not isinstance(edge.fusion, PaletteFusion)
    leaves_alone(edge, "batch-norm", "project-first", reason="the palette is not multiplied in")
