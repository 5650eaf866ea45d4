"""Spectral norms are divided out exactly, where nothing moves them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from icf_deploy.export.lowering.rewrite import Context
from icf_deploy.export.lowering.spectral_norm import fold_spectral_norm
from icf_deploy.network.fusion import DDColorFusion
from icf_deploy.network.layers import SpectralNormConv2d
from icf_deploy.network.network import ColorizationNetwork

CONTEXT = Context((64, 64), ((4, 4), (8, 8), (16, 16)))


def _norms(network: ColorizationNetwork) -> int:
    return sum(isinstance(layer, SpectralNormConv2d) for layer in network.modules())


def test_all_eight_are_divided_out(ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    lowered = applies_exactly(ddcolor, "spectral-norm")
    assert (_norms(ddcolor), _norms(lowered.network)) == (8, 0)


def test_the_divisor_is_that_of_the_stored_vectors(ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    """Vectors that are not yet the singular ones: the stored estimate counts, not the true norm."""
    for layer in ddcolor.modules():
        if isinstance(layer, SpectralNormConv2d):
            layer.weight_u.mul_(0.7)
    applies_exactly(ddcolor, "spectral-norm")


def test_in_training_mode_it_is_left_alone(ddcolor: ColorizationNetwork) -> None:
    ddcolor.train()
    before = copy.deepcopy(ddcolor.state_dict())
    result = fold_spectral_norm(ddcolor, CONTEXT)
    assert not result.applied
    assert "training" in result.reason
    assert all(torch.equal(before[name], value) for name, value in ddcolor.state_dict().items())


def test_a_fusion_that_is_not_known_keeps_its_own(ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    class SquashedFusion(DDColorFusion):
        def forward(self, embeddings: Tensor, features: Tensor, gray: Tensor) -> Tensor:
            return torch.tanh(super().forward(embeddings, features, gray))

    ddcolor.fusion.__class__ = SquashedFusion
    lowered = applies_exactly(ddcolor, "spectral-norm")
    assert _norms(lowered.network) == 2


def test_without_any_it_says_so(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(edge, "spectral-norm", reason="no convolution has a spectral norm")
