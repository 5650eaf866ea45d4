"""A BatchNorm directly behind a convolution goes into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from icf_deploy.network.network import ColorizationNetwork


def _batch_norms(network: ColorizationNetwork) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def test_every_one_of_the_edge_family_goes(edge: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    lowered = applies_exactly(edge, "batch-norm")
    assert _batch_norms(edge) == 59
    assert _batch_norms(lowered.network) == 0


def test_ddcolors_three_behind_1x1_convolutions_go(ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    lowered = applies_exactly(ddcolor, "spectral-norm", "batch-norm")
    assert _batch_norms(ddcolor) - _batch_norms(lowered.network) == 3


def test_a_spectral_norm_between_them_keeps_it(ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(ddcolor, "batch-norm", reason="no BatchNorm .* behind a plain convolution")


@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_one_that_computes_statistics_from_the_batch_is_left_alone(
    networks: dict[str, ColorizationNetwork], family: str, applies_exactly: Callable[..., Any]
) -> None:
    network = networks[family]
    norm = next(layer for layer in network.image_decoder.modules() if isinstance(layer, nn.BatchNorm2d))
    norm.running_mean = norm.running_var = None
    norm.track_running_stats = False
    before = _batch_norms(network)
    lowered = applies_exactly(network, "spectral-norm", "batch-norm")
    assert _batch_norms(lowered.network) == before - (2 if family == "ddcolor" else 58)
