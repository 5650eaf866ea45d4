"""The colour decoder in a form whose parts rewrites can replace one by one. As built it computes what ColorDecoder computes.

sources[l].prepare(level)         -> what the blocks that look at level l share
sources[l].keys_values(shared, j) -> keys [N,heads,d,T] and values [N,heads,T,d] of the j-th of them
blocks[i]                         -> cross-attention, self-attention, feed-forward of round i
query(state, position)            -> q [N,heads,Q,d], already divided by sqrt(d)
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from icf_deploy.export.lowering.affine import linear
from icf_deploy.export.lowering.rewrite import Context
from icf_deploy.network.color_decoder import ColorDecoder, CrossAttention, SelfAttention
from icf_deploy.network.layers import Attention, sine_position
from icf_deploy.network.network import ColorizationNetwork

KeysValues = tuple[Tensor, Tensor]
Prepared = tuple[Tensor, Tensor]


class Source(Protocol):
    """A level as the blocks see it. Keys and values are made block by block: all at once they would be alive at once."""

    def prepare(self, level: Tensor) -> Prepared:
        """level [N,C_l,h,w] -> what keys are made from, what values are made from."""
        ...

    def keys_values(self, prepared: Prepared, block: int) -> KeysValues:
        """Keys [N,heads,d,T] and values [N,heads,T,d] of the block-th block that looks at this level."""
        ...


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[N,T,C] -> [N,heads,T,d]."""
    split: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """query [N,h,Q,d], keys [N,h,d,T], values [N,h,T,d] -> [N,Q,C]."""
    return (torch.softmax(query @ keys, dim=-1) @ values).transpose(1, 2).flatten(2)


class TokenSource(nn.Module):
    """A level as tokens; keys and values of each block by products of their own.

    position: [1,T,C]. level: [C], the level embedding; None once its effect is elsewhere.
    """

    position: Tensor
    level: nn.Parameter | None

    def __init__(
        self, project: nn.Conv2d, level: Tensor, position: Tensor, *, keys: nn.ModuleList, values: nn.ModuleList, heads: int
    ) -> None:
        super().__init__()
        self.project = project
        self.level = nn.Parameter(level.detach())
        self.register_buffer("position", position)
        self.keys = keys
        self.values = values
        self.heads = heads

    def prepare(self, level: Tensor) -> Prepared:
        """level [N,C_l,h,w] -> tokens with and without positions, [N,T,C] each."""
        tokens = self.project(level).flatten(2).transpose(1, 2)
        if self.level is not None:
            tokens = tokens + self.level
        return tokens + self.position, tokens

    def keys_values(self, prepared: Prepared, block: int) -> KeysValues:
        """Keys [N,heads,d,T] and values [N,heads,T,d] of one of the blocks that look at this level."""
        placed, tokens = prepared
        keys = split_heads(self.keys[block](placed), self.heads).transpose(2, 3)
        return keys, split_heads(self.values[block](tokens), self.heads)


class PlacedQuery(nn.Module):
    """q = (state + query position) Wq + bq, over sqrt(d)."""

    def __init__(self, project: nn.Linear, heads: int) -> None:
        super().__init__()
        self.project = project
        self.heads = heads

    @property
    def scale(self) -> float:
        """1 / sqrt(d)."""
        return float((self.project.out_features / self.heads) ** -0.5)

    def forward(self, state: Tensor, position: Tensor) -> Tensor:
        """state [N,Q,C], position [Q,C] -> [N,heads,Q,d]."""
        return split_heads(self.project(state + position), self.heads) * self.scale


class SeparateSelfAttention(nn.Module):
    """Self-attention with a product each for q, k and v. Without residual and norm."""

    def __init__(self, query: PlacedQuery, key: nn.Linear, value: nn.Linear, out: nn.Linear) -> None:
        super().__init__()
        self.query = query
        self.key = key
        self.value = value
        self.out = out

    def forward(self, state: Tensor, position: Tensor) -> Tensor:
        """state [N,Q,C], position [Q,C] -> [N,Q,C]."""
        heads = self.query.heads
        keys = split_heads(self.key(state + position), heads).transpose(2, 3)
        mixed: Tensor = self.out(attend(self.query(state, position), keys, split_heads(self.value(state), heads)))
        return mixed


class LeanBlock(nn.Module):
    """One round: look at a level, at each other, feed forward; each with residual and post-norm."""

    def __init__(
        self, query: nn.Module, out: nn.Linear, norm: nn.Module, *, among: nn.Module, among_norm: nn.Module, feed: nn.Module
    ) -> None:
        super().__init__()
        self.query = query
        self.out = out
        self.norm = norm
        self.among = among
        self.among_norm = among_norm
        self.feed = feed

    def forward(self, state: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """state [N,Q,C] (or [1,Q,C], the same for every photo), position [Q,C], keys and values of this round -> [N,Q,C]."""
        state = self.norm(state + self.out(attend(self.query(state, position), keys, values)))
        state = self.among_norm(state + self.among(state, position))
        fed: Tensor = self.feed(state)
        return fed


class LeanColorDecoder(nn.Module):
    """Levels [N,C_l,h_l,w_l] -> E [N,Q,embedding], at the one size that its sources were made for.

    start, position: [Q,C], the queries' first state and their position.
    """

    def __init__(
        self,
        start: Tensor,
        position: Tensor,
        *,
        sources: list[TokenSource],
        blocks: list[LeanBlock],
        decoder_norm: nn.Module,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.start = nn.Parameter(start.detach()[None])
        self.position = nn.Parameter(position.detach())
        self.sources = nn.ModuleList(sources)
        self.blocks = nn.ModuleList(blocks)
        self.decoder_norm = decoder_norm
        self.color_embed = head
        self.starts_per_photo = True

    def forward(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Levels, coarse to fine -> E [N,Q,embedding]."""
        sources = cast("list[Source]", list(self.sources))
        prepared = [source.prepare(level) for source, level in zip(sources, levels, strict=True)]
        state: Tensor = self.start
        if self.starts_per_photo:
            state = state.expand(levels[0].shape[0], -1, -1)
        for i, block in enumerate(self.blocks):
            at = i % len(levels)
            state = block(state, self.position, *sources[at].keys_values(prepared[at], i // len(levels)))
        embeddings: Tensor = self.color_embed(self.decoder_norm(state))
        return embeddings

    def lean_blocks(self) -> list[LeanBlock]:
        """The rounds, in order."""
        return [block for block in self.blocks if isinstance(block, LeanBlock)]

    def blocks_of_level(self, level: int) -> list[LeanBlock]:
        """The rounds that look at this level, in order."""
        return self.lean_blocks()[level :: len(self.sources)]


def lean_decoder(network: ColorizationNetwork, context: Context) -> LeanColorDecoder:
    """The network's colour decoder in this form, converted where it is not yet. Only where `is_convertible` holds."""
    if isinstance(network.color_decoder, ColorDecoder):
        network.color_decoder = _convert(network.color_decoder, context)
    assert isinstance(network.color_decoder, LeanColorDecoder)
    return network.color_decoder


def is_convertible(network: ColorizationNetwork) -> bool:
    """Whether the colour decoder is the one that both families have, as published or in this form already."""
    decoder = network.color_decoder
    if type(decoder) is not ColorDecoder:
        return isinstance(decoder, LeanColorDecoder)
    return (
        all(type(layer) is CrossAttention for layer in decoder.transformer_cross_attention_layers)
        and all(type(layer) is SelfAttention for layer in decoder.transformer_self_attention_layers)
        and all(type(project) is nn.Conv2d for project in decoder.input_proj)
    )


def _convert(decoder: ColorDecoder, context: Context) -> LeanColorDecoder:
    cross = [layer for layer in decoder.transformer_cross_attention_layers if isinstance(layer, CrossAttention)]
    among = [layer for layer in decoder.transformer_self_attention_layers if isinstance(layer, SelfAttention)]
    projects = [project for project in decoder.input_proj if isinstance(project, nn.Conv2d)]
    place = decoder.query_embed.weight.detach()
    levels = len(projects)
    blocks = []
    for looking, mixing, feed in zip(cross, among, decoder.transformer_ffn_layers, strict=True):
        attention, mutual = looking.multihead_attn, mixing.self_attn
        q, _, _ = _projections(attention)
        own_q, own_k, own_v = _projections(mutual)
        self_attention = SeparateSelfAttention(PlacedQuery(own_q, mutual.heads), own_k, own_v, mutual.out_proj)
        query = PlacedQuery(q, attention.heads)
        blocks.append(
            LeanBlock(query, attention.out_proj, looking.norm, among=self_attention, among_norm=mixing.norm, feed=feed)
        )
    sources = []
    for i, (project, (height, width)) in enumerate(zip(projects, context.level_sizes, strict=True)):
        looking_here = [layer.multihead_attn for layer in cross[i::levels]]
        keys = nn.ModuleList(_projections(attention)[1] for attention in looking_here)
        values = nn.ModuleList(_projections(attention)[2] for attention in looking_here)
        position = sine_position(height, width, place.shape[1]).to(place)
        level = decoder.level_embed.weight.detach()[i]
        sources.append(TokenSource(project, level, position, keys=keys, values=values, heads=cross[0].multihead_attn.heads))
    return LeanColorDecoder(
        decoder.query_feat.weight,
        place,
        sources=sources,
        blocks=blocks,
        decoder_norm=decoder.decoder_norm,
        head=decoder.color_embed,
    )


def _projections(attention: Attention) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """The three projections of an attention as layers: query, key, value."""
    weights = attention.in_proj_weight.detach().chunk(3)
    biases = attention.in_proj_bias.detach().chunk(3)
    q, k, v = (linear(weight, bias.clone()) for weight, bias in zip(weights, biases, strict=True))
    return q, k, v
