"""Fold what does not depend on the photo out of the query projections.

1. Looking at a level: (state + e) Wq + b_q = state Wq + t with the table t = e Wq + b_q, [Q,C], one constant per block.
2. 1 / sqrt(d) goes into Wq and b_q (or t).
3. Looking at each other: q and k are products with the same state + e, so one product of 2C columns. It keeps the sum: tables
   here would have [Q,2C] numbers per block, more than all other rewrites save in the file.

Precondition: the query position e is a parameter, the same for every photo (the colour decoder of both families).
Saves: per block a sum of state and position, two scalings, a product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icf_deploy.export.lowering.affine import linear
from icf_deploy.export.lowering.lean_decoder import (
    PlacedQuery,
    SeparateSelfAttention,
    attend,
    is_convertible,
    lean_decoder,
    split_heads,
)
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.network import ColorizationNetwork


class TableQuery(nn.Module):
    """q = state W + table, with 1/sqrt(d) inside both. table: [Q,C]."""

    table: Tensor

    def __init__(self, project: nn.Linear, table: Tensor, heads: int) -> None:
        super().__init__()
        self.project = project
        self.register_buffer("table", table)
        self.heads = heads

    def forward(self, state: Tensor, _: Tensor) -> Tensor:
        """state [N,Q,C] -> [N,heads,Q,d]."""
        return split_heads(self.project(state) + self.table, self.heads)


class MergedSelfAttention(nn.Module):
    """Self-attention whose q and k are one product. Without residual and norm."""

    def __init__(self, queries_keys: nn.Linear, value: nn.Linear, out: nn.Linear, heads: int) -> None:
        super().__init__()
        self.queries_keys = queries_keys
        self.value = value
        self.out = out
        self.heads = heads

    def forward(self, state: Tensor, position: Tensor) -> Tensor:
        """state [N,Q,C], position [Q,C] -> [N,Q,C]."""
        q, k = split_heads(self.queries_keys(state + position), 2 * self.heads).chunk(2, dim=1)
        mixed: Tensor = self.out(attend(q, k.transpose(2, 3), split_heads(self.value(state), self.heads)))
        return mixed


def fold_query_constants(network: ColorizationNetwork, context: Context) -> Result:
    """Replace the query projections of every block, and the three products of its self-attention by one."""
    if not is_convertible(network):
        return skipped("the colour decoder is not known to have the same query positions for every photo")
    decoder = lean_decoder(network, context)
    blocks = decoder.lean_blocks()
    if not all(isinstance(block.query, PlacedQuery) and isinstance(block.among, SeparateSelfAttention) for block in blocks):
        return skipped("the query constants are folded already")
    for block in blocks:
        assert isinstance(block.query, PlacedQuery) and isinstance(block.among, SeparateSelfAttention)
        block.query = _table(block.query, decoder.position.detach())
        block.among = _merge(block.among)
    return applied(counted(len(blocks), "block"))


def _table(query: PlacedQuery, position: Tensor) -> TableQuery:
    weight = query.project.weight.detach() * query.scale
    return TableQuery(linear(weight), query.project(position).detach() * query.scale, query.heads)


def _merge(among: SeparateSelfAttention) -> MergedSelfAttention:
    query, key = among.query, among.key
    weight = torch.cat([query.project.weight.detach() * query.scale, key.weight.detach()])
    key_bias = torch.zeros_like(query.project.bias) if key.bias is None else key.bias.detach()
    bias = torch.cat([query.project.bias.detach() * query.scale, key_bias])
    return MergedSelfAttention(linear(weight, bias), among.value, among.out, query.heads)
