"""A BatchNorm behind a ReLU goes forward, where every reader can take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from icf_deploy.network.network import ColorizationNetwork

NAMES = ("spectral-norm", "batch-norm-forward")


def _ends(network: ColorizationNetwork) -> list[type[nn.Module]]:
    return [type(block.conv[-1]) for block in network.image_decoder.layers]


def test_the_three_of_ddcolor_go_forward(ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    assert _ends(applies_exactly(ddcolor, *NAMES).network) == [nn.Identity] * 3


def test_with_the_fusion_collapsed_and_the_skips_merged_too(
    ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]
) -> None:
    names = ("spectral-norm", "batch-norm", "skip-norm", "palette", "batch-norm-forward")
    assert _ends(applies_exactly(ddcolor, *names).network) == [nn.Identity] * 3


def test_a_reader_that_pads_keeps_them_all(ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    padded = nn.Conv2d(64, 32, 3, padding=1).double().requires_grad_(False)
    ddcolor.color_decoder.set_submodule("input_proj.1", padded)
    lowered = leaves_alone(ddcolor, *NAMES, reason="what reads block 1 is not only plain convolutions without padding")
    assert _ends(lowered.network) == [nn.BatchNorm2d] * 3


def test_into_a_padded_reader_it_would_be_wrong_at_the_border_and_nowhere_else() -> None:
    """Why the precondition is there."""
    torch.manual_seed(0)
    norm, conv = nn.BatchNorm2d(3).double().eval(), nn.Conv2d(3, 2, 3, padding=1).double()
    norm.running_mean = torch.tensor([0.3, -0.5, 0.8]).double()
    x = torch.rand(1, 3, 6, 6).double()
    scale = 1 / (torch.ones(3).double() + norm.eps).sqrt()
    folded, shift = conv.weight * scale[:, None, None], -scale * norm.running_mean
    moved = (conv.weight * shift[:, None, None]).sum((1, 2, 3))
    wrong = (nn.functional.conv2d(x, folded, conv.bias + moved, padding=1) - conv(norm(x))).abs()
    assert wrong[..., 1:-1, 1:-1].max() < 1e-12
    assert wrong[..., 0, :].min() > 1e-3


def test_between_graphs_they_stay(
    ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any], gray: Callable[[tuple[int, int]], Tensor]
) -> None:
    lowered = leaves_alone(ddcolor, *NAMES, split=True, reason="outputs of a graph").network
    with torch.no_grad():
        (features, levels), (expected, expected_levels) = lowered.features(gray((64, 96))), ddcolor.features(gray((64, 96)))
    for found, wanted in zip((features, *levels), (expected, *expected_levels), strict=True):
        assert (found - wanted).abs().max() < 1e-12 * wanted.std()


def test_behind_a_spectral_norm_they_stay(ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(ddcolor, "batch-norm-forward", reason="what reads block 0")


def test_one_that_computes_its_statistics_stays(ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    norm = ddcolor.image_decoder.get_submodule("layers.2.conv.2")
    norm.running_mean = norm.running_var = None
    leaves_alone(ddcolor, *NAMES, reason="block 2 does not end in a BatchNorm with stored statistics")


def test_another_family_is_left_alone(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(edge, "batch-norm-forward", reason="no BatchNorm stands behind an activation")
