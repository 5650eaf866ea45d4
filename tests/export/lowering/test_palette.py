"""Embeddings and fusion weights are multiplied first, where nothing stands between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from icf_deploy.export.lowering.lean_fusion import MapsFusion
from icf_deploy.export.lowering.palette import collapse_to_palette
from icf_deploy.export.lowering.rewrite import Context
from icf_deploy.network.network import ColorizationNetwork

CONTEXT = Context((64, 64), ((4, 4), (8, 8), (16, 16)))


def test_ddcolors_maps_are_never_made(
    ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any], gray: Callable[[tuple[int, int]], Tensor]
) -> None:
    """No tensor of the lowered fusion has the queries' number of channels at full resolution."""
    lowered = applies_exactly(ddcolor, "spectral-norm", "palette").network
    for network, expected in ((ddcolor, True), (lowered, False)):
        with torch.no_grad(), torch.profiler.profile(record_shapes=True) as profile:
            network(gray((64, 96)))
        shapes = [shape for event in profile.events() for shape in event.input_shapes]
        assert ([2, 12 + 3, 64, 96] in shapes) == expected


def test_a_squashed_fusion_is_left_alone(ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    class SquashedMaps(MapsFusion):
        def forward(self, embeddings: Tensor, features: Tensor, gray: Tensor) -> Tensor:
            return torch.tanh(super().forward(embeddings, features, gray))

    lowered = applies_exactly(ddcolor, "spectral-norm").network
    lowered.fusion.__class__ = SquashedMaps
    result = collapse_to_palette(lowered, CONTEXT)
    assert not result.applied
    assert "SquashedMaps is not known to be linear" in result.reason
    assert type(lowered.fusion) is SquashedMaps


def test_with_a_spectral_norm_in_the_way_it_is_left_alone(
    ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]
) -> None:
    leaves_alone(ddcolor, "palette", reason="spectral norm")


def test_a_fusion_that_has_a_palette_is_left_alone(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(edge, "palette", reason="already multiplies with a palette")
