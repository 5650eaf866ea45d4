"""The drift that each part of a network causes alone in int8: all blocks, then the products of the blocks that matter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from icf_deploy.bundle.sensitivity import Part
from icf_deploy.export.precision.calibration import Calibration
from icf_deploy.export.precision.int8 import NOISE_LIMIT
from icf_deploy.export.precision.measuring import Measuring
from icf_deploy.export.precision.probe import PROBE_ENGINE
from icf_deploy.export.precision.search import Drifted
from icf_deploy.export.precision.space import FLOAT32, INT8, Parts

MOST_BLOCKS = 3  # that are looked into
MOST_NODES = 24  # products of one block that are measured; those with the most noise in calibration
MATTERS = 0.5  # of the metric: a block below it is inside every budget, and leaving it wide as a whole is fine enough
LEFT = 0.5  # share of a block's drift that `int8-careful` may keep
NOTHING_LEFT = 0.9  # share of a block's products: where more would stay wide, the block is not in int8 at all


@dataclass(frozen=True)
class NodeSensitivity:
    """parts: products alone in int8, worst first within each block. careful: by block, products to leave wide."""

    parts: tuple[Part, ...]
    careful: Mapping[str, tuple[str, ...]]


def noisy_products(calibration: Calibration) -> dict[str, str]:
    """{key: reason} of products that int8 drowns in noise, by the statistics of what they read."""
    return {
        key: f"int8 noise is {noise:.2g} of its signal"
        for key, noise in calibration.noise.items()
        if noise > NOISE_LIMIT and math.isfinite(noise)
    }


def node_sensitivity(parts: Parts, calibration: Calibration, measuring: Measuring) -> NodeSensitivity:
    """Measure the products of the blocks that drift most in int8, each alone, and say which of them to leave wide."""
    space = parts.space((INT8,))
    blocks = [
        (measuring.drift(PROBE_ENGINE, parts.recipe(space.blocks, choice), space.words(choice)), space.block_alone(choice))
        for choice in space.alone()
    ]
    worst = sorted((found for found in blocks if found[0].value > MATTERS), key=lambda found: -found[0].value)[:MOST_BLOCKS]
    found: list[Part] = []
    careful = {}
    for drift, block in worst:
        keys = sorted(parts.products[block], key=lambda key: -calibration.noise[key])[:MOST_NODES]
        nodes = [_node(key, block, measuring, parts) for key in keys]
        nodes.sort(key=lambda part: -part.de2000_p95)
        found += nodes
        wide = _worst(nodes, drift)
        if wide and len(wide) <= NOTHING_LEFT * len(parts.products[block]):
            careful[block] = wide
    return NodeSensitivity(tuple(found), careful)


def _node(key: str, block: str, measuring: Measuring, parts: Parts) -> Part:
    recipe = replace(parts.base, default=FLOAT32, blocks={}, nodes={key: INT8}, reasons={})
    drift = measuring.drift(PROBE_ENGINE, recipe, f"{key} {INT8}")
    return Part(key, block, INT8, PROBE_ENGINE, drift.value, drift.mean)


def _worst(nodes: list[Part], block: Drifted) -> tuple[str, ...]:
    """The fewest products without which LEFT of the block's drift remains, if errors add as squares; worst first."""
    left = block.value**2
    wide = []
    for part in nodes:
        if left <= (LEFT * block.value) ** 2:
            break
        wide.append(part.name)
        left -= part.de2000_p95**2
    return tuple(wide)
