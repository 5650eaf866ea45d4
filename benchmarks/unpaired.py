"""The ratio of two medians that were measured in runs of their own, without rounds to pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from icf_deploy.benchmarks.measured import Turn
from icf_deploy.benchmarks.ratio import POWER, Verdict
from icf_deploy.benchmarks.stats import CONFIDENCE, MOST_BLOCKS, concatenate, log_spread, nearest_rank, student_quantile


@dataclass(frozen=True)
class UnpairedRatio:
    """Median latency of one run over that of another.

    ratio: below 1 the candidate is faster. low, high: its 95 % interval; it knows what varied within each run, and not what
    changed between them. smallest_effect: the relative difference that would have been seen four times out of five.
    """

    ratio: float
    low: float
    high: float
    smallest_effect: float

    @property
    def verdict(self) -> Verdict:
        """`faster` or `slower` only where the whole interval lies on one side of 1."""
        if self.high < 1:
            return "faster"
        return "slower" if self.low > 1 else "no difference shown"


def unpaired_ratio(candidate: Sequence[Turn], baseline: Sequence[Turn]) -> UnpairedRatio | None:
    """Ratio of the medians over all calls; None where the turns of either hold too few calls for an interval.

    Each median's spread comes from the block bootstrap of `stats.log_spread`, and where there were several processes there
    are as many blocks as processes. The two are put together as Welch did (Biometrika 34, 1947): variances of the logarithms
    add, with the degrees of freedom of Welch and Satterthwaite.
    """
    spreads = []
    for turns in (candidate, baseline):
        processes = len({turn.process for turn in turns})
        samples = concatenate([turn.samples for turn in turns])
        spreads.append(log_spread(samples, most_blocks=processes if processes > 1 else MOST_BLOCKS) if len(samples) else None)
    mine, theirs = spreads
    if mine is None or theirs is None:
        return None
    centre = math.log(_median(candidate) / _median(baseline))
    variances = (mine.deviation**2, theirs.deviation**2)
    error = math.sqrt(sum(variances))
    weights = variances[0] ** 2 / mine.freedom + variances[1] ** 2 / theirs.freedom
    freedom = error**4 / weights if weights else mine.freedom + theirs.freedom
    seen = student_quantile(0.5 + CONFIDENCE / 2, freedom)
    return UnpairedRatio(
        ratio=math.exp(centre),
        low=math.exp(centre - seen * error),
        high=math.exp(centre + seen * error),
        smallest_effect=math.exp((seen + student_quantile(POWER, freedom)) * error) - 1,
    )


def _median(turns: Sequence[Turn]) -> float:
    return nearest_rank(concatenate([turn.samples for turn in turns]), 50)
