"""Compute before deployment what the first block does before it sees the photo.

1. Every photo starts from the same state s0 [Q,C], so the first queries q0 = s0 Wq + t are a constant.
2. The first residual sum is s0 + Wo a + b_o: s0 + b_o is one constant [Q,C], and s0 needs no copy per photo.

Precondition: the query constants are folded (`query-constants`), and the start is a parameter.
Saves: one product, one sum and a bias addition.
"""

from __future__ import annotations

from torch import Tensor, nn

from icf_deploy.export.lowering.affine import drop_bias
from icf_deploy.export.lowering.lean_decoder import LeanColorDecoder
from icf_deploy.export.lowering.query_constants import TableQuery
from icf_deploy.export.lowering.rewrite import Context, Result, applied, skipped
from icf_deploy.network.network import ColorizationNetwork


class ConstantQuery(nn.Module):
    """The same q [1,heads,Q,d] whatever the state."""

    query: Tensor

    def __init__(self, query: Tensor) -> None:
        super().__init__()
        self.register_buffer("query", query)

    def forward(self, _: Tensor, __: Tensor) -> Tensor:
        """state [N,Q,C], position [Q,C] -> [1,heads,Q,d]."""
        return self.query


def fold_first_block(network: ColorizationNetwork, _: Context) -> Result:
    """Make the first block's queries and the constant part of its first sum parameters."""
    decoder = network.color_decoder
    if not isinstance(decoder, LeanColorDecoder) or not isinstance(decoder.lean_blocks()[0].query, TableQuery):
        return skipped("the first block's query projection is not a product plus a table")
    first = decoder.lean_blocks()[0]
    first.query = ConstantQuery(first.query(decoder.start, decoder.position).detach().contiguous())
    bias = drop_bias(first.out)
    if bias is not None:
        decoder.start = nn.Parameter(decoder.start.detach() + bias)
    decoder.starts_per_photo = False
    return applied("the first query projection is a constant")
