"""The expansion in pieces: as many as divide the sub-pixels, and as few as bring a piece down to what caches hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from icf_deploy.export.lowering import lower
from icf_deploy.export.lowering.split_expansion import PIECE_BYTES
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.network.presets import EdgeConfig, build_edge

BEFORE = ("spectral-norm", "palette", "project-first")


@pytest.mark.parametrize("pieces", [2, 4, 8, 16])
def test_pieces_that_divide_the_sixteen_sub_pixels(
    ddcolor: ColorizationNetwork, pieces: int, applies_exactly: Callable[..., Any]
) -> None:
    lowered = applies_exactly(ddcolor, *BEFORE, "split-expansion", pieces=pieces).network
    assert len(lowered.fusion.expand) == pieces


def test_the_edge_family(edge: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    applies_exactly(edge, "batch-norm", "project-first", "split-expansion", pieces=2)


@pytest.mark.parametrize("pieces", [3, 32])
def test_pieces_that_do_not_divide_are_refused(
    ddcolor: ColorizationNetwork, pieces: int, leaves_alone: Callable[..., Any]
) -> None:
    leaves_alone(ddcolor, *BEFORE, "split-expansion", pieces=pieces, reason=f"{pieces} pieces do not divide 16 sub-pixels")


def test_one_piece_is_no_split(ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(ddcolor, *BEFORE, "split-expansion", pieces=1, reason="one piece was asked for")


def test_a_projection_behind_the_shuffle_is_left_alone(ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(ddcolor, *BEFORE[:-1], "split-expansion", pieces=4, reason="projection comes after the shuffle")


@pytest.mark.parametrize(("side", "pieces"), [(256, 1), (512, 2), (1024, 4)])
def test_left_to_itself_it_takes_the_fewest_pieces_that_fit(side: int, pieces: int) -> None:
    """128 channels of float32 at a quarter of the side: 2, 8 and 32 MiB, for pieces of 4 MiB and at most 4 sub-pixels."""
    network = build_edge(EdgeConfig(stride=2)).eval()
    assert 4 * 128 * (side // 4) ** 2 / (pieces if pieces < 4 else 8) <= PIECE_BYTES
    fusion = lower(network, (side, side)).network.fusion
    assert (len(fusion.expand) if fusion.expand[0].__class__.__name__ == "Sequential" else 1) == pieces
