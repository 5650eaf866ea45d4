"""What the first block computes from constants is a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from icf_deploy.export.lowering.first_block import ConstantQuery
from icf_deploy.network.network import ColorizationNetwork


@pytest.mark.parametrize("before", [("query-constants",), ("attention-constants", "keys-on-map", "query-constants")])
@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_both_families(
    networks: dict[str, ColorizationNetwork], family: str, before: tuple[str, ...], applies_exactly: Callable[..., Any]
) -> None:
    decoder = applies_exactly(networks[family], *before, "first-block").network.color_decoder
    assert [isinstance(block.query, ConstantQuery) for block in decoder.blocks] == [True] + [False] * (len(decoder.blocks) - 1)
    assert decoder.blocks[0].out.bias is None


def test_a_query_that_is_no_product_plus_a_table_is_left_alone(
    ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]
) -> None:
    leaves_alone(ddcolor, "attention-constants", "first-block", reason="not a product plus a table")
