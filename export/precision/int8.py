"""Which parts `--precision int8` leaves wide: as few products as the budget needs, found by measuring.

1. A product whose own int8 noise, by the statistics of its input, is more than NOISE_LIMIT of its signal is wide from the
   start: no budget on the whole network may excuse a layer that int8 destroys (channel ranges that differ by thousands).
2. If the rest keeps the target on the calibration photos, that is the recipe.
3. Else each block is measured alone in int8. What drifts most comes first. A part of several products is looked into: few are
   measured alone, each; many in groups of neighbours, since products that drift stand together (at the end of DDColor's colour
   decoder; how noisy a product is by itself says little about that). A single product becomes wide. That goes on until the
   target is kept.
4. After about MOST_PROBES such measurements no part is looked into any more: what drifts most becomes wide as it is.

Half of what is measured on is out of focus (`photos`), which drifts more than most photos do: that is the margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
FEW = 12  # products of a part that are measured each alone; more are first cut into groups
PIECES = 4  # groups that a part of many products is cut into
MOST_PROBES = 64  # parts measured alone before the rest is left as it is; DDColor has 167 products, at seconds each

Say = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """The value of METRIC with one part in int8 and everything else in float32. keys: of its products."""

    part: str
    keys: tuple[str, ...]
    drift: float


@dataclass(frozen=True)
class Int8Choice:
    """The recipe, its graph, METRIC of it on the calibration photos, and what was measured on the way, worst first."""

    recipe: Recipe
    applied: AppliedGraph
    drift: float
    blocks: tuple[Measured, ...] = ()
    parts: tuple[Measured, ...] = ()


def choose_int8(
    base: Recipe,
    calibration: Calibration,
    probe: Probe,
    *,
    target: float = TARGET,
    given: Mapping[str, str] | None = None,
    say: Say | None = None,
) -> Int8Choice:
    """The int8 recipe of a network. base: any recipe of it; its formats do not matter. target: of METRIC. given:
    products that are wide in any case, {key: reason}.

    Raises BudgetError where not even every product in float32 would do, which is a defect of this code.
    """
    tell = say or (lambda _line: None)
    noisy = {key: noise for key, noise in calibration.noise.items() if noise > NOISE_LIMIT and math.isfinite(noise)}
    reasons = {key: f"int8 noise is {noise:.2g} of its signal" for key, noise in noisy.items()}
    reasons |= {key: reason for key, reason in (given or {}).items() if key in calibration.weights}
    products = [key for key in calibration.weights if key not in reasons]
    wide = dict.fromkeys(reasons, WIDE)
    recipe = replace(base, default="int8", blocks={}, nodes=wide, reasons=reasons)
    table, applied = probe.measure(recipe)
    tell(f"{len(products)} products in int8: {METRIC} {table.value(METRIC):.2f}.")
    if table.value(METRIC) <= target:
        return Int8Choice(recipe, applied, table.value(METRIC))
    alone = _Alone(base, probe, tell)
    blocks = alone.measure([(block, [key for key in products if block_of(key) == block]) for block in BLOCKS])
    parts: list[Measured] = []
    waiting = list(blocks)  # blocks not looked into and products not widened: what drifts is among them
    while waiting:
        waiting.sort(key=lambda found: -found.drift)
        worst = waiting.pop(0)
        if len(worst.keys) > 1 and alone.left > 0:
            inside = alone.look_into(worst)
            parts += inside
            waiting += inside
            continue
        wide |= dict.fromkeys(worst.keys, WIDE)
        reasons |= dict.fromkeys(worst.keys, _reason(worst))
        if math.hypot(*(found.drift for found in waiting)) > HOPE * target and waiting:
            continue  # independent errors add as squares: what is left is sure to miss
        recipe = replace(recipe, nodes=dict(wide), reasons=dict(reasons))
        table, applied = probe.measure(recipe)
        tell(f"{len(wide)} of {len(calibration.weights)} products in {WIDE}: {METRIC} {table.value(METRIC):.2f}.")
        if table.value(METRIC) <= target:
            parts.sort(key=lambda found: -found.drift)
            return Int8Choice(recipe, applied, table.value(METRIC), tuple(blocks), tuple(parts))
    raise BudgetError(
        f"int8 misses {METRIC} {target:g} on the calibration photos ({table.value(METRIC):.2f}) with every product in float32; "
        f"worst blocks: {', '.join(f'{found.part} {found.drift:.2f}' for found in blocks[:3])}"
    )


class _Alone:
    """Measures parts alone in int8. left: how many more may be measured."""

    def __init__(self, base: Recipe, probe: Probe, say: Say) -> None:
        self._base, self._probe, self._say = base, probe, say
        self.left = MOST_PROBES

    def measure(self, parts: Sequence[tuple[str, Sequence[str]]]) -> list[Measured]:
        """METRIC with each part ((name, keys); empty ones are left out) alone in int8, worst first."""
        found = []
        for part, keys in parts:
            if not keys:
                continue
            table, _ = self._probe.measure(
                replace(self._base, default=WIDE, blocks={}, nodes=dict.fromkeys(keys, "int8"), reasons={})
            )
            found.append(Measured(part, tuple(keys), table.value(METRIC)))
            self._say(f"{part} alone in int8: {METRIC} {found[-1].drift:.2f}.")
            self.left -= 1
        if self.left <= 0:
            self._say(f"{MOST_PROBES - self.left} parts are measured: what drifts still is left in {WIDE} as it is.")
        return sorted(found, key=lambda measured: -measured.drift)

    def look_into(self, part: Measured) -> list[Measured]:
        """The products of a part, each alone; of many, PIECES groups of neighbours."""
        size = 1 if len(part.keys) <= FEW else math.ceil(len(part.keys) / PIECES)
        groups = [part.keys[start : start + size] for start in range(0, len(part.keys), size)]
        return self.measure([(group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}", group) for group in groups])


def _reason(found: Measured) -> str:
    alone = "alone in int8 it drifts" if len(found.keys) == 1 else f"{found.part} alone in int8 drift"
    return f"{alone} by {METRIC} {found.drift:.2f}"
