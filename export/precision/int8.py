"""Which parts `--precision int8` leaves wide: as few products as the budget needs, found by measuring.

1. A product whose own int8 noise, by the statistics of its input, is more than NOISE_LIMIT of its signal is wide from the
   start: no budget on the whole network may excuse a layer that int8 destroys (channel ranges that differ by thousands).
2. If the rest keeps the target on the calibration photos, that is the recipe.
3. Else each block is measured alone in int8. What drifts most comes first: a block is looked into, each of its products
   measured alone; a product becomes wide. That goes on until the target is kept.

Half of what is measured on is out of focus (`photos`), which drifts more than most photos do: that is the margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from icf_deploy.errors import BudgetError
from icf_deploy.export.precision.apply import AppliedGraph
from icf_deploy.export.precision.blocks import BLOCKS, block_of
from icf_deploy.export.precision.calibration import Calibration
from icf_deploy.export.precision.probe import Probe
from icf_deploy.export.precision.recipe import Recipe

METRIC = "de2000_p95"
TARGET = 1.0  # of METRIC: the budget that the eye asks for
NOISE_LIMIT = 0.3  # error over signal, about 10 dB; sound layers have 0.003 to 0.1
WIDE = "fp32"
HOPE = 1.4  # of the target; drift of several products is at least about that much less than their squares say

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Measured:
    """The value of METRIC with one part in int8 and everything else in float32."""

    part: str
    drift: float


@dataclass(frozen=True)
class Int8Choice:
    """The recipe, its graph, METRIC of it on the calibration photos, and what was measured on the way, worst first."""

    recipe: Recipe
    applied: AppliedGraph
    drift: float
    blocks: tuple[Measured, ...] = ()
    nodes: tuple[Measured, ...] = ()


def choose_int8(
    base: Recipe,
    calibration: Calibration,
    probe: Probe,
    *,
    target: float = TARGET,
    given: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Int8Choice:
    """The int8 recipe of a network. base: any recipe of it; its formats do not matter. target: of METRIC. given:
    products that are wide in any case, {key: reason}.

    Raises BudgetError where not even every product in float32 would do, which is a defect of this code.
    """
    say = progress or (lambda _what, _done, _of: None)
    noisy = {key: noise for key, noise in calibration.noise.items() if noise > NOISE_LIMIT and math.isfinite(noise)}
    reasons = {key: f"int8 noise is {noise:.2g} of its signal" for key, noise in noisy.items()}
    reasons |= {key: reason for key, reason in (given or {}).items() if key in calibration.weights}
    products = [key for key in calibration.weights if key not in reasons]
    wide = dict.fromkeys(reasons, WIDE)
    recipe = replace(base, default="int8", blocks={}, nodes=wide, reasons=reasons)
    table, applied = probe.measure(recipe)
    if table.value(METRIC) <= target:
        return Int8Choice(recipe, applied, table.value(METRIC))
    present = [block for block in BLOCKS if any(block_of(key) == block for key in products)]
    blocks = _alone(base, probe, {block: [key for key in products if block_of(key) == block] for block in present}, say)
    nodes: list[Measured] = []
    waiting = list(blocks)  # blocks not looked into and products not widened: what drifts is among them
    while waiting:
        waiting.sort(key=lambda found: -found.drift)
        worst = waiting.pop(0)
        if worst in blocks:
            inside = [key for key in products if block_of(key) == worst.part]
            found_inside = _alone(base, probe, {key: [key] for key in inside}, say)
            nodes += found_inside
            waiting += found_inside
            continue
        wide[worst.part] = WIDE
        reasons[worst.part] = f"alone in int8 it drifts by {METRIC} {worst.drift:.2f}"
        if math.hypot(*(found.drift for found in waiting)) > HOPE * target and waiting:
            continue  # independent errors add as squares: what is left is sure to miss
        say(f"int8 with {len(wide)} products in {WIDE}", len(wide), len(calibration.weights))
        recipe = replace(recipe, nodes=dict(wide), reasons=dict(reasons))
        table, applied = probe.measure(recipe)
        if table.value(METRIC) <= target:
            nodes.sort(key=lambda found: -found.drift)
            return Int8Choice(recipe, applied, table.value(METRIC), tuple(blocks), tuple(nodes))
    raise BudgetError(
        f"int8 misses {METRIC} {target:g} on the calibration photos ({table.value(METRIC):.2f}) with every product in float32; "
        f"worst blocks: {', '.join(f'{found.part} {found.drift:.2f}' for found in blocks[:3])}"
    )


def _alone(base: Recipe, probe: Probe, parts: dict[str, list[str]], say: Progress) -> list[Measured]:
    """METRIC with each part alone in int8, worst first."""
    found = []
    for number, (part, keys) in enumerate(parts.items()):
        say(f"int8 in {part} alone", number, len(parts))
        table, _ = probe.measure(replace(base, default=WIDE, blocks={}, nodes=dict.fromkeys(keys, "int8"), reasons={}))
        found.append(Measured(part, table.value(METRIC)))
    return sorted(found, key=lambda measured: -measured.drift)
