"""What a search chooses among: for each block of a network, the ways in which one engine can compute it.

| option | products with constant weights | everything else in the block |
|---|---|---|
| wide | as the engine runs float32 | the same |
| bf16 | bf16 | bf16 |
| int8 | int8 | as the engine runs float32 |
| int8/bf16 | int8 | bf16 |
| int8-careful | int8, but those that drift most | as the engine runs float32 |

Products that int8 drowns in noise (`int8.NOISE_LIMIT`) stay wide in every option.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from icf_deploy.export.precision.blocks import BLOCKS, block_of
from icf_deploy.export.precision.nodes import is_product, node_keys
from icf_deploy.export.precision.recipe import Recipe

WIDE = "wide"
BF16, INT8, INT8_BF16, CAREFUL = "bf16", "int8", "int8/bf16", "int8-careful"
FLOAT32 = "fp32"

Choice = tuple[str, ...]
"""The option of every block of a space, in its order."""


@dataclass(frozen=True)
class Space:
    """blocks: of the network, in its order. options: of each block; the first is what single blocks are compared with.

    borders: pairs of blocks of which one reads what the other gives, in their order.
    """

    blocks: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    borders: frozenset[tuple[str, str]] = frozenset()

    @property
    def base(self) -> Choice:
        """The first option everywhere."""
        return tuple(options[0] for options in self.options)

    def alone(self) -> list[Choice]:
        """Every choice in which one block alone has another option than the first."""
        base = self.base
        return [
            (*base[:number], option, *base[number + 1 :])
            for number, options in enumerate(self.options)
            for option in options[1:]
        ]

    def is_alone(self, choice: Choice) -> bool:
        """Whether it is one of `alone`."""
        return sum(option != first for option, first in zip(choice, self.base, strict=True)) == 1

    def block_alone(self, choice: Choice) -> str:
        """The one block in which a choice of `alone` differs."""
        return next(self.blocks[i] for i, (option, first) in enumerate(zip(choice, self.base, strict=True)) if option != first)

    def words(self, choice: Choice) -> str:
        """`backbone.2, fusion int8`; `wide`."""
        inside: dict[str, list[str]] = {}
        for block, option in zip(self.blocks, choice, strict=True):
            inside.setdefault(option, []).append(block)
        narrow = {option: blocks for option, blocks in inside.items() if option != WIDE}
        if len(narrow) == 1 and WIDE not in inside:
            return f"everything {next(iter(narrow))}"
        return "; ".join(f"{', '.join(blocks)} {option}" for option, blocks in narrow.items()) or "everything wide"

    def uniform(self, option: str) -> Choice:
        """The option in every block that has it, the first one elsewhere."""
        return tuple(option if option in options else options[0] for options in self.options)


@dataclass(frozen=True)
class Parts:
    """The nodes of one network that options are about.

    base: any recipe of the network. nodes: keys of all nodes, by block. products: of those that int8 may compute. noisy: {key:
    reason} of products that stay wide. careful: by block, products that `int8-careful` leaves wide. borders: as in `Space`.
    """

    base: Recipe
    nodes: Mapping[str, tuple[str, ...]]
    products: Mapping[str, tuple[str, ...]]
    noisy: Mapping[str, str] = field(default_factory=dict)
    careful: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    borders: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def of(cls, base: Recipe, graph: ir.Graph, noisy: Mapping[str, str]) -> Parts:
        """The parts of a float32 graph."""
        keys = node_keys(graph)
        block = {node: block_of(key) for node, key in keys.items()}
        nodes = {name: tuple(key for node, key in keys.items() if block[node] == name) for name in BLOCKS}
        products = {keys[node] for node in graph if is_product(node)} - set(noisy)
        present = {name: inside for name, inside in nodes.items() if inside}
        borders = {
            (block[producer], block[node])
            for node in graph
            for value in node.inputs
            if value is not None and (producer := value.producer()) is not None
        }
        order = {name: number for number, name in enumerate(BLOCKS)}
        return cls(
            base,
            present,
            {name: tuple(key for key in inside if key in products) for name, inside in present.items()},
            dict(noisy),
            borders=frozenset((a, b) if order[a] < order[b] else (b, a) for a, b in borders if a != b),
        )

    def narrowest(self, recipe: Recipe) -> dict[str, str]:
        """The narrowest format that a recipe asks for in each block."""
        found = {}
        for block, keys in self.nodes.items():
            formats = {recipe.format_of(key) for key in keys} - {INT8}
            if any(recipe.format_of(key) == INT8 for key in self.products[block]):
                formats = {INT8}
            found[block] = next((form for form in (INT8, BF16) if form in formats), FLOAT32)
        return found

    def space(self, formats: Collection[str]) -> Space:
        """The choices for an engine that computes `formats` where a graph asks for them."""
        return Space(tuple(self.products), tuple(self._options(block, formats) for block in self.products), self.borders)

    def recipe(self, blocks: Sequence[str], choice: Choice) -> Recipe:
        """The recipe of a choice. Its graph leaves `wide` in float32: what that becomes is the engine's business."""
        formats: dict[str, str] = {}
        nodes: dict[str, str] = {}
        reasons: dict[str, str] = {}
        for block, option in zip(blocks, choice, strict=True):
            formats[block] = {WIDE: FLOAT32, BF16: BF16, INT8: INT8, INT8_BF16: BF16, CAREFUL: INT8}[option]
            if option == INT8_BF16:
                nodes |= dict.fromkeys(self.products[block], INT8)
            if option == CAREFUL:
                nodes |= dict.fromkeys(self.careful[block], FLOAT32)
                reasons |= dict.fromkeys(self.careful[block], "drifts most of its block in int8")
            if option in (INT8, CAREFUL):
                noisy = [key for key in self.noisy if block_of(key) == block]
                nodes |= dict.fromkeys(noisy, FLOAT32)
                reasons |= {key: self.noisy[key] for key in noisy}
        return replace(self.base, default=FLOAT32, blocks=formats, nodes=nodes, reasons=reasons)

    def _options(self, block: str, formats: Collection[str]) -> tuple[str, ...]:
        found = [WIDE]
        found += [BF16] if BF16 in formats else []
        if INT8 in formats and self.products[block]:
            found.append(INT8)
            found += [INT8_BF16] if BF16 in formats else []
            found += [CAREFUL] if self.careful.get(block) else []
        return tuple(found)
