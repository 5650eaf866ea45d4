"""The LayerNorm of a skip carries the BatchNorm behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from icf_deploy.network.network import ColorizationNetwork


@pytest.mark.parametrize("before", [(), ("layer-norm-op",), ("spectral-norm", "batch-norm")])
def test_the_three_of_ddcolor_are_merged(
    ddcolor: ColorizationNetwork, before: tuple[str, ...], applies_exactly: Callable[..., Any]
) -> None:
    lowered = applies_exactly(ddcolor, *before, "skip-norm").network
    assert all(isinstance(block.bn, nn.Identity) for block in lowered.image_decoder.layers)


def test_a_batch_norm_that_computes_its_statistics_is_left_alone(
    ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]
) -> None:
    norm = ddcolor.image_decoder.get_submodule("layers.1.bn")
    norm.running_mean = norm.running_var = None
    leaves_alone(ddcolor, "skip-norm", reason="statistics from the batch")


def test_a_skip_without_one_is_left_alone(ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    ddcolor.image_decoder.set_submodule("layers.1.bn", nn.GroupNorm(4, 32).double())
    leaves_alone(ddcolor, "skip-norm", reason="a skip has no BatchNorm")


def test_another_family_is_left_alone(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(edge, "skip-norm", reason="no skip has a LayerNorm")
