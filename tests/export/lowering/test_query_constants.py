"""Query positions and the scale of attention become constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from icf_deploy.export.lowering.query_constants import MergedSelfAttention, TableQuery
from icf_deploy.network.color_decoder import ColorDecoder
from icf_deploy.network.network import ColorizationNetwork


@pytest.mark.parametrize("before", [(), ("attention-constants",), ("keys-on-map",)])
@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_both_families(
    networks: dict[str, ColorizationNetwork], family: str, before: tuple[str, ...], applies_exactly: Callable[..., Any]
) -> None:
    decoder = applies_exactly(networks[family], *before, "query-constants").network.color_decoder
    assert all(isinstance(block.query, TableQuery) and isinstance(block.among, MergedSelfAttention) for block in decoder.blocks)


def test_another_decoder_is_left_alone(ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    class OtherDecoder(ColorDecoder):
        """Might have a query position per photo."""

    ddcolor.color_decoder.__class__ = OtherDecoder
    leaves_alone(ddcolor, "query-constants", reason="not known to have the same query positions")
