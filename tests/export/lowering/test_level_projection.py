"""A level's projection is folded where that saves multiplications, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from icf_deploy.export.lowering.level_projection import fold_level_projection
from icf_deploy.export.lowering.rewrite import Context
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.network.presets import DDColorConfig, build_ddcolor

CONTEXT = Context((64, 96), ((4, 6), (8, 12), (16, 24)))
BEFORE = (("keys-on-map",), ("keys-on-map", "position-tables"), ("attention-constants", "keys-on-map", "position-tables"))


def _folded(network: ColorizationNetwork) -> list[bool]:
    return [isinstance(source.project, nn.Identity) for source in network.color_decoder.sources]


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(("family", "folded"), [("ddcolor", [False, False, True]), ("edge", [True, True, True])])
def test_the_levels_where_it_saves(
    networks: dict[str, ColorizationNetwork],
    family: str,
    folded: list[bool],
    before: tuple[str, ...],
    applies_exactly: Callable[..., Any],
) -> None:
    """Full tables and tables per axis, biases and none. DDColor's coarser levels have twice the channels that keys have."""
    assert _folded(applies_exactly(networks[family], *before, "level-projection").network) == folded


def test_where_it_saves_nothing_it_is_left_alone(leaves_alone: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    wide = DDColorConfig(
        (1, 1, 1, 1), (16, 16, 16, 16), channels=64, queries=8, blocks=3, color_channels=16, hidden=16, heads=2
    )
    network = build_ddcolor(wide).double().eval().requires_grad_(False)
    leaves_alone(network, "keys-on-map", "level-projection", reason="would cost more multiplications")


def test_a_projection_that_is_no_1x1_convolution_is_left_alone(
    ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]
) -> None:
    ddcolor.color_decoder.set_submodule("input_proj.2", nn.Conv2d(32, 32, 3, padding=1).double().requires_grad_(False))
    lowered = applies_exactly(ddcolor, "keys-on-map").network
    result = fold_level_projection(lowered, CONTEXT)
    assert (result.applied, _folded(lowered)) == (False, [False] * 3)


def test_keys_of_tokens_are_left_alone(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(edge, "level-projection", reason="no level's keys are made on its map")
