"""How much drift is allowed: `metric<=number`, several joined by commas, e.g. `de2000_p95<=1.0,ab_psnr>=40`.

The names are those of `table.METRICS`; a metric that is better when higher takes `>=`.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icf_deploy.errors import BudgetError, UsageError
from icf_deploy.quality.table import METRICS

if TYPE_CHECKING:
    from icf_deploy.quality.table import DriftTable

_LIMIT = re.compile(r"\s*([a-z0-9_]+)\s*(<=|>=)\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Limit:
    """One metric of METRICS and the value that it must not pass."""

    metric: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{METRICS[self.metric].operator}{self.bound:g}"


@dataclass(frozen=True)
class Miss:
    """A limit that was not kept: the value found, by how much it passes the bound, and the photo that is worst in it."""

    limit: Limit
    value: float
    photo: str
    photo_value: float

    @property
    def by(self) -> float:
        """Distance to the bound, 0 or more; infinite where the engine gave no colour at all."""
        return abs(self.value - self.limit.bound)

    def __str__(self) -> str:
        side = "above" if METRICS[self.limit.metric].better == "lower" else "below"
        return (
            f"{self.limit.metric} is {self.value:.3g}, {self.by:.3g} {side} the allowed {self.limit.bound:g} "
            f"(worst photo: {self.photo}, {self.photo_value:.3g})"
        )


@dataclass(frozen=True)
class Budget:
    """Limits that must all hold."""

    limits: tuple[Limit, ...]

    def __str__(self) -> str:
        return ",".join(str(limit) for limit in self.limits)

    @property
    def against_truth(self) -> tuple[str, ...]:
        """Names of its metrics that compare with the photos' own colours: they need colour photos."""
        return tuple(limit.metric for limit in self.limits if METRICS[limit.metric].against == "truth")

    def require_photos(self) -> None:
        """UsageError where a limit needs the photos' own colours, for a caller that has none."""
        if self.against_truth:
            raise UsageError(
                f"{', '.join(self.against_truth)} compares with the photos' own colours, and the reference set has none: "
                "give a folder of colour photos with --photos DIR"
            )

    def excess(self, table: DriftTable) -> float:
        """How far `table` is outside, relative to the bound that it passes most; 0 inside, infinite where colour is lost."""
        if table.problems:
            return math.inf
        return max((miss.by / (miss.limit.bound or 1) for miss in self.misses(table)), default=0.0)

    def misses(self, table: DriftTable) -> tuple[Miss, ...]:
        """The limits that `table` does not keep, in the budget's order."""
        return tuple(_miss(limit, table) for limit in self.limits if not _keeps(limit, table))

    def check(self, table: DriftTable) -> None:
        """Raise BudgetError where a limit is not kept, or where the engine's colours have a problem at all."""
        complaints = [str(miss) for miss in self.misses(table)] + list(table.problems)
        if complaints:
            raise BudgetError(f"drift is outside the budget {self}: {'; '.join(complaints)}")


def parse(text: str) -> Budget:
    """The budget that `text` states. UsageError for a name, an operator or a number that makes no sense."""
    limits: list[Limit] = []
    for part in text.split(","):
        match = _LIMIT.fullmatch(part)
        if match is None:
            raise UsageError(f"budget {part.strip()!r} is not of the form metric<=number, e.g. de2000_p95<=1.0")
        name, operator, number = match[1].lower(), match[2], float(match[3])
        metric = METRICS.get(name)
        if metric is None:
            close = difflib.get_close_matches(name, METRICS, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"there is no metric {name!r}: {hint}There are: {', '.join(METRICS)}")
        if operator != metric.operator:
            raise UsageError(f"{name} is better when {metric.better}: write {name}{metric.operator}{number:g}")
        if not math.isfinite(number):
            raise UsageError(f"the limit of {name} is not a finite number: {match[3]}")
        if any(limit.metric == name for limit in limits):
            raise UsageError(f"the budget limits {name} twice: keep one of them")
        limits.append(Limit(name, number))
    return Budget(tuple(limits))


def _keeps(limit: Limit, table: DriftTable) -> bool:
    value = table.value(limit.metric)
    return value <= limit.bound if METRICS[limit.metric].better == "lower" else value >= limit.bound


def _miss(limit: Limit, table: DriftTable) -> Miss:
    photo, photo_value = table.worst(limit.metric)
    return Miss(limit, table.value(limit.metric), photo, photo_value)
