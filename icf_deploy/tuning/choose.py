"""Which engine it is: the fastest inside the budget, and among those that were not shown to differ in speed the one nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icf_deploy.benchmarks.measured import ratio_of
from icf_deploy.benchmarks.result_file import DRIFT_FLOOR
from icf_deploy.quality.budget import Budget
from icf_deploy.quality.table import METRICS
from icf_deploy.tuning.checking import main_metric
from icf_deploy.tuning.result import TuneRow

CIEDE = "de2000"  # how the metrics in units of CIEDE2000 begin: in them a difference below DRIFT_FLOOR is none
MATTERS = 0.05  # of a latency: nobody takes more drift for less than that, and a run should be able to see it


@dataclass(frozen=True)
class Choice:
    """The chosen row, why in words, and the others inside the budget that were not shown to be slower or faster."""

    row: TuneRow
    why: str
    tied: tuple[TuneRow, ...] = ()


def choose(rows: Sequence[TuneRow], budget: Budget) -> Choice | None:
    """The choice among the rows that were timed in pairs and are inside; None where there is none.

    The fastest is the one with the lowest latency, paired by round. Those that were not shown to be slower, and seem so by
    MATTERS at most, count as equally fast: of these the one that drifts least in the budget's first metric is taken, and of
    those that drift alike the fastest.
    """
    inside = _inside(rows, budget)
    if not inside:
        return None
    fastest = inside[0]
    equal = [row for row in inside if row is fastest or _is_tied(row, fastest)]
    metric = main_metric(budget)
    nearest = min(_drift(row, metric) for row in equal)
    chosen = next(row for row in equal if _drift(row, metric) <= nearest + _alike(metric))
    tied = tuple(row for row in equal if row is not chosen)
    return Choice(chosen, _why(chosen, fastest, tied, inside, metric), tied)


def undecided(rows: Sequence[TuneRow], budget: Budget) -> list[TuneRow]:
    """The fastest and those that may be faster than it, where the run could not have seen a difference that matters."""
    inside = _inside(rows, budget)
    open_ones = [row for row in inside[1:] if _is_open(row, inside[0])]
    return [inside[0], *open_ones] if open_ones else []


def _inside(rows: Sequence[TuneRow], budget: Budget) -> list[TuneRow]:
    """Those that were timed in pairs and are inside, the fastest first.

    By the paired ratio to one of them: what was measured again was so in other minutes, and plain medians would mix them.
    """
    found = [row for row in rows if row.is_inside(budget) and row.is_paired and row.error is None and row.milliseconds()]
    if not found:
        return []
    base = max(found, key=lambda row: (len(row.timed.turns), -(row.milliseconds() or 0.0)))

    def relative(row: TuneRow) -> float:
        ratio = ratio_of(row.timed.turns, base.timed.turns)
        return (row.milliseconds() or 0.0) / (base.milliseconds() or 1.0) if ratio is None else ratio.ratio

    return sorted(found, key=relative)


def _is_open(row: TuneRow, fastest: TuneRow) -> bool:
    ratio = ratio_of(row.timed.turns, fastest.timed.turns)
    return ratio is not None and ratio.verdict == "no difference shown" and ratio.smallest_effect > MATTERS


def _is_tied(row: TuneRow, fastest: TuneRow) -> bool:
    ratio = ratio_of(row.timed.turns, fastest.timed.turns)
    return ratio is not None and ratio.verdict != "slower" and ratio.ratio <= 1 + MATTERS


def _drift(row: TuneRow, metric: str) -> float:
    """How far a row is off; lower is nearer."""
    assert row.drift is not None  # it is inside
    value = row.drift.value(metric)
    return -value if METRICS[metric].better == "higher" else value


def _alike(metric: str) -> float:
    """A difference in drift that nobody can see; 0 where a metric has none of its own."""
    return DRIFT_FLOOR if metric.startswith(CIEDE) else 0.0


def _why(chosen: TuneRow, fastest: TuneRow, tied: Sequence[TuneRow], inside: Sequence[TuneRow], metric: str) -> str:
    if not tied:
        others = [row for row in inside if row is not chosen]
        if not others:
            return "the fastest inside the budget"
        ratio = ratio_of(chosen.timed.turns, others[0].timed.turns)
        if ratio is None:
            return "the fastest inside the budget"
        chance = "" if ratio.verdict != "no difference shown" else ", which may be chance: the run was too restless to tell"
        return (
            f"the fastest inside the budget: {ratio.ratio:.2f} ({ratio.low:.2f} .. {ratio.high:.2f}) times the latency of "
            f"{others[0].label}{chance}"
        )
    names = ", ".join(row.label for row in tied)
    if chosen is not fastest:
        assert chosen.drift is not None and fastest.drift is not None
        return (
            f"{fastest.label} was not shown to be faster, and this one drifts less "
            f"({metric} {chosen.drift.value(metric):.3g} against {fastest.drift.value(metric):.3g})"
        )
    nearer = all(_drift(row, metric) > _drift(chosen, metric) + _alike(metric) for row in tied)
    rest = "it drifts less" if nearer else "they drift alike, and it is a little faster"
    return f"not shown to differ in speed from {names}: {rest}"
