"""Make keys on the map instead of on tokens.

1. A product over channels is a 1x1 convolution of the map, whose output [heads, d, T] is what q @ k wants: the keys, tensors as
   long as the map, are never permuted. The values stay products of tokens, which is what softmax @ v wants.
2. The positions, [T,C] for tokens, are a table [C,h,w] for the map, added once for all blocks of a level.

Precondition: keys are linear in tokens plus position. The table holds for one size.
Saves: a permutation per block of a tensor as long as the map.

The keys of the blocks that look at one level are not stacked into one product: cutting its output apart again costs more than
the larger product gains (docs/lowering.md has the measurement).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from icf_deploy.export.lowering.affine import add_bias, pointwise
from icf_deploy.export.lowering.lean_decoder import KeysValues, Prepared, TokenSource, is_convertible, lean_decoder, split_heads
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.export.lowering.tokens import to_tokens
from icf_deploy.network.network import ColorizationNetwork


class FullTable(nn.Module):
    """A map [N,C,h,w] plus a table [1,C,h,w]."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out."""
        return x + self.table

    def behind(self, weight: Tensor) -> FullTable:
        """The table that adds, behind a product with `weight` [C',C], what this one adds before it."""
        return FullTable((weight @ self.table.flatten(2)).unflatten(2, self.table.shape[2:]))


class MapSource(nn.Module):
    """Keys and values of every block that looks at a level.

    project: the level's input projection, Identity once it is folded. place: adds the positions before the keys are made.
    Per block a 1x1 convolution in `keys`, what adds its part of the positions behind that in `places` (Identity while `place`
    does it), and a linear layer in `values`.
    """

    def __init__(
        self, project: nn.Module, place: nn.Module, keys: Iterable[nn.Conv2d], values: Iterable[nn.Linear], heads: int
    ) -> None:
        super().__init__()
        self.project = project
        self.place = place
        self.keys = nn.ModuleList(keys)
        self.places = nn.ModuleList(nn.Identity() for _ in self.keys)
        self.values = nn.ModuleList(values)
        self.heads = heads

    def prepare(self, level: Tensor) -> Prepared:
        """level [N,C_l,h,w] -> map with positions [N,C,h,w], tokens without [N,T,C]."""
        x = self.project(level)
        return self.place(x), to_tokens(x)

    def keys_values(self, prepared: Prepared, block: int) -> KeysValues:
        """Keys [N,heads,d,T] and values [N,heads,T,d] of one of the blocks that look at this level."""
        placed, tokens = prepared
        keys = self.places[block](self.keys[block](placed)).flatten(2).unflatten(1, (self.heads, -1))
        return keys, split_heads(self.values[block](tokens), self.heads)


def move_keys_onto_map(network: ColorizationNetwork, context: Context) -> Result:
    """Turn every level's keys into convolutions of its map."""
    if not is_convertible(network):
        return skipped("the colour decoder is not known to make its keys from tokens plus position")
    decoder = lean_decoder(network, context)
    sources = [source for source in decoder.sources if isinstance(source, TokenSource)]
    if len(sources) < len(decoder.sources):
        return skipped("the keys of a level are not products of its tokens")
    for i, (source, size) in enumerate(zip(sources, context.level_sizes, strict=True)):
        decoder.sources[i] = _on_map(source, size)
    return applied(counted(len(decoder.blocks), "block"))


def map_sources(network: ColorizationNetwork) -> list[MapSource]:
    """The levels whose keys are made on their map."""
    return [source for source in network.color_decoder.modules() if isinstance(source, MapSource)]


def _on_map(source: TokenSource, size: tuple[int, int]) -> MapSource:
    keys = [
        pointwise(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
        for layer in source.keys
        if isinstance(layer, nn.Linear)
    ]
    values = [layer for layer in source.values if isinstance(layer, nn.Linear)]
    if source.level is not None:
        add_bias(source.project, source.level.detach())
    place = FullTable(source.position.transpose(1, 2).unflatten(2, size).contiguous())
    return MapSource(source.project, place, keys, values, source.heads)
