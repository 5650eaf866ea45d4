"""Two candidates measured side by side: their ratio, its interval, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from icf_deploy.benchmarks.stats import CONFIDENCE, student_quantile
from icf_deploy.errors import UsageError

POWER = 0.8  # chance with which the smallest visible effect would have been seen
FEWEST_ROUNDS = 2  # a spread needs two

Verdict = Literal["faster", "slower", "no difference shown"]


@dataclass(frozen=True)
class PairedRatio:
    """Latency of a candidate over the latency of the baseline, paired by round.

    ratio: geometric mean over the rounds; below 1 the candidate is faster. low, high: its 95 % interval.
    smallest_effect: the relative difference that this run would have seen four times out of five; 0.02 is 2 %.
    rounds: pairs that went in. groups: independent groups of them, from whose spread the interval comes.
    """

    ratio: float
    low: float
    high: float
    smallest_effect: float
    rounds: int
    groups: int

    @property
    def verdict(self) -> Verdict:
        """`faster` or `slower` only where the whole interval lies on one side of 1."""
        if self.high < 1:
            return "faster"
        return "slower" if self.low > 1 else "no difference shown"


def paired_ratio(candidate: Sequence[float], baseline: Sequence[float], groups: Sequence[int] | None = None) -> PairedRatio:
    """Ratio of two latencies that were measured round by round.

    candidate, baseline: one typical latency (> 0) per round, in the same order and unit. Student's t on the log ratios: a
    drift of the machine that both share in a round cancels, and few rounds give a wide interval rather than a false
    difference (a percentile bootstrap of 5 to 10 rounds gave 6 to 16 % of them).

    groups: the process in which each round ran. Rounds of one process share its layout of memory, so they count as one
    measurement: their mean goes in. Without groups, or with a single one, every round counts for itself.
    Raises UsageError for fewer than two rounds or unequal lengths.
    """
    rounds = len(candidate)
    if rounds != len(baseline) or rounds < FEWEST_ROUNDS:
        raise UsageError(f"a paired ratio needs two or more rounds of both candidates, got {rounds} and {len(baseline)}")
    logs = np.log(np.asarray(candidate, np.float64)) - np.log(np.asarray(baseline, np.float64))
    if groups is not None and len(set(groups)) > 1:
        numbers = np.asarray(groups)
        logs = np.array([logs[numbers == number].mean() for number in np.unique(numbers)])
    count = len(logs)
    centre = float(np.mean(logs))
    error = float(np.std(logs, ddof=1)) / math.sqrt(count)
    seen = student_quantile(0.5 + CONFIDENCE / 2, count - 1)
    return PairedRatio(
        ratio=math.exp(centre),
        low=math.exp(centre - seen * error),
        high=math.exp(centre + seen * error),
        smallest_effect=math.exp((seen + student_quantile(POWER, count - 1)) * error) - 1,
        rounds=rounds,
        groups=count,
    )
