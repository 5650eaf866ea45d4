"""Take the constants of keys and values out of attention.

1. softmax(q . (k_t + c)) = softmax(q . k_t): a constant in every key adds q . c to every score of a query and cancels. So the
   key bias goes, and with it Wk times everything that all tokens of a level share (input projection bias, level embedding).
2. The weights of a softmax sum to one, so a constant c in every value comes out as c: the value bias, and Wv times what all
   tokens share, move through Wo into the output bias, b_o' = b_o + Wo c.

Precondition: the keys go into a softmax over the tokens and nowhere else (the colour decoder of both families), and the input
projection is a layer with a bias of its own.
Saves: up to five bias additions per block on tensors as long as the map.
"""

from __future__ import annotations

import torch
from torch import nn

from icf_deploy.export.lowering.affine import add_bias, drop_bias
from icf_deploy.export.lowering.lean_decoder import (
    LeanBlock,
    SeparateSelfAttention,
    TokenSource,
    is_convertible,
    lean_decoder,
)
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.network import ColorizationNetwork


def cancel_constants(network: ColorizationNetwork, context: Context) -> Result:
    """Drop the key constants, move the value constants into the output biases."""
    if not is_convertible(network):
        return skipped("the colour decoder is not known to put its keys into a softmax and nowhere else")
    decoder = lean_decoder(network, context)
    sources = [source for source in decoder.sources if isinstance(source, TokenSource)]
    blocks = decoder.lean_blocks()
    among = [block.among for block in blocks if isinstance(block.among, SeparateSelfAttention)]
    if len(sources) < len(decoder.sources) or len(among) < len(blocks):
        return skipped("keys or values are not products of tokens any more")
    for i, source in enumerate(sources):
        _cancel_in_source(source, decoder.blocks_of_level(i))
    for attention in among:
        drop_bias(attention.key)
        bias = drop_bias(attention.value)
        if bias is not None:
            add_bias(attention.out, attention.out.weight.detach() @ bias)
    return applied(counted(2 * len(blocks), "attention"))


def _cancel_in_source(source: TokenSource, blocks: list[LeanBlock]) -> None:
    shared = drop_bias(source.project)
    if source.level is not None:
        shared = source.level.detach() if shared is None else shared + source.level.detach()
        source.level = None
    for key, value, block in zip(source.keys, source.values, blocks, strict=True):
        assert isinstance(key, nn.Linear) and isinstance(value, nn.Linear)
        drop_bias(key)
        constant = drop_bias(value)
        constant = torch.zeros_like(value.weight[:, 0]) if constant is None else constant
        if shared is not None:
            constant = constant + value.weight.detach() @ shared
        add_bias(block.out, block.out.weight.detach() @ constant)
