"""What latency samples can carry: percentiles, how many calls they need, and intervals that know about autocorrelation.

Definitions. The p-th percentile of n samples is the nearest-rank one, x_(ceil(p n)): always a latency that was really
measured, never an interpolation. No sample is ever clipped or dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from icf_deploy.errors import UsageError

Nanoseconds = npt.NDArray[np.int64]
Samples = npt.NDArray[np.float64] | npt.NDArray[np.int64]

CONFIDENCE = 0.95  # of every interval that is reported
ENOUGH_CONFIDENCE = 0.99  # that a percentile is really carried by the samples, MLPerf's rule
ALLOWED_EXCEEDANCES = 1  # so many samples above the percentile are allowed for that, MLPerf's rule
LEAST_BLOCK = 20  # calls; latencies of neighbouring calls resemble each other over about this many
MOST_BLOCKS = 10  # longer runs get longer blocks: with rho = 0.9 blocks of 20 calls cover only 87 %
RESAMPLES = 500  # the standard deviation of so many is known to 3 %
RESAMPLE_CHUNK = 4_000_000  # indices drawn at once, 32 MB


@dataclass(frozen=True)
class Interval:
    """A confidence interval; None where the samples give no bound on that side."""

    low: float | None
    high: float | None

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside, ends included."""
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class LogSpread:
    """Standard deviation of the logarithm of an estimate, and the degrees of freedom with which it is known."""

    deviation: float
    freedom: float


@dataclass(frozen=True)
class Percentile:
    """One percentile of a run, in the unit of the samples.

    percent: e.g. 90. n: samples. needed: samples that this percentile needs.
    value: nearest rank; None where n < needed.
    interval: 95 % by block bootstrap, valid for autocorrelated calls. order_interval: 95 % by order statistics, which
    takes the calls for independent. Both None where the value is.
    """

    percent: float
    n: int
    needed: int
    value: float | None
    interval: Interval | None
    order_interval: Interval | None

    @property
    def label(self) -> str:
        """`p90`, `p99.9`."""
        return f"p{self.percent:g}"

    def why_not(self) -> str:
        """`p99: n/a (n=100 < 662)`; empty where there is a value."""
        return "" if self.value is not None else f"{self.label}: n/a (n={self.n} < {self.needed})"


def nearest_rank(samples: Samples, percent: float) -> float:
    """The percentile x_(ceil(p n)) of `samples` [n]. Raises UsageError without samples or outside 0 < percent <= 100."""
    n = len(samples)
    _check_percent(percent)
    if n == 0:
        raise UsageError("a percentile needs samples, got none")
    return float(np.partition(samples, _rank(n, percent) - 1)[_rank(n, percent) - 1])


@lru_cache
def calls_needed(percent: float) -> int:
    """The fewest calls that carry a percentile: 64 for p90, 130 for p95, 662 for p99.

    The smallest n for which at most one exceedance has a probability of at most 1 % where the true rate of exceedances is
    1 - p, so that seeing so few is evidence for the percentile (MLPerf inference, early stopping, with one exceedance).
    """
    _check_percent(percent)
    if percent == 100:  # noqa: PLR2004 - the maximum has no number of calls that carries it
        raise UsageError("no number of calls carries p100; ask for a percentile below 100")
    exceed = 1 - percent / 100

    def too_few(n: int) -> bool:
        return binomial_cdf(ALLOWED_EXCEEDANCES, n, exceed) > 1 - ENOUGH_CONFIDENCE

    least, most = ALLOWED_EXCEEDANCES, ALLOWED_EXCEEDANCES + 1
    while too_few(most):
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if too_few(middle) else (least, middle)
    return most


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p)."""
    if k < 0:
        return 0.0
    return min(1.0, math.fsum(_binomial_terms(n, p)[: k + 1]))


def order_statistic_interval(samples: Samples, percent: float, confidence: float = CONFIDENCE) -> Interval:
    """Distribution-free interval (x_(l), x_(u)) of a percentile, for independent samples.

    With B ~ Binomial(n, p) the interval covers the true percentile with probability P(l <= B <= u - 1); l and u are chosen
    so that each tail holds at most half of what is left (David & Nagaraja, Order Statistics, section 7.1). A side on which
    no sample reaches that is None.
    """
    _check_percent(percent)
    n = len(samples)
    tail = (1 - confidence) / 2
    cumulative = np.cumsum(_binomial_terms(n, percent / 100))
    low = int(np.searchsorted(cumulative, tail, side="left"))
    high = int(np.searchsorted(cumulative, 1 - tail, side="left")) + 1
    ordered = np.sort(samples)
    return Interval(float(ordered[low - 1]) if low >= 1 else None, float(ordered[high - 1]) if high <= n else None)


def block_length(n: int, most_blocks: int = MOST_BLOCKS) -> int:
    """Calls per block of the bootstrap over n samples: at least 20, and a tenth of a long run (1 / most_blocks of it)."""
    return max(LEAST_BLOCK, n // most_blocks)


def block_bootstrap_interval(
    samples: Samples, percent: float = 50.0, *, most_blocks: int = MOST_BLOCKS, seed: int = 0
) -> Interval:
    """95 % interval of a percentile of autocorrelated, positive samples in the order in which they were measured.

    Circular block bootstrap (Politis & Romano 1992) of the logarithm; the half width is Student's t times the bootstrap's
    standard deviation, with as many degrees of freedom as there are blocks less one. Plain percentile bootstrap
    intervals cover only 75 to 90 % with so few blocks. Both sides None where the samples make fewer than two blocks.
    most_blocks: where the samples come from so many processes, the spread between those has to be seen, too.
    """
    spread = log_spread(samples, percent, most_blocks=most_blocks, seed=seed)
    if spread is None:
        return Interval(None, None)
    factor = math.exp(student_quantile(0.5 + CONFIDENCE / 2, spread.freedom) * spread.deviation)
    centre = nearest_rank(samples, percent)
    return Interval(centre / factor, centre * factor)


def log_spread(samples: Samples, percent: float = 50.0, *, most_blocks: int = MOST_BLOCKS, seed: int = 0) -> LogSpread | None:
    """How far the logarithm of a percentile would move from run to run; what `block_bootstrap_interval` is made of.

    None where the samples make fewer than two blocks.
    """
    n = len(samples)
    length = block_length(n, most_blocks)
    blocks = n / length
    if blocks < 2:  # noqa: PLR2004 - one block has no spread
        return None
    deviation = float(np.std(np.log(_resampled(samples, percent, length, seed)), ddof=1))
    return LogSpread(deviation * math.sqrt(blocks / (blocks - 1)), blocks - 1)


def percentile(samples: Samples, percent: float, *, most_blocks: int = MOST_BLOCKS) -> Percentile:
    """The percentile with both intervals, or without a value where the samples do not carry it."""
    n, needed = len(samples), calls_needed(percent)
    if n < needed:
        return Percentile(percent, n, needed, None, None, None)
    return Percentile(
        percent,
        n,
        needed,
        nearest_rank(samples, percent),
        block_bootstrap_interval(samples, percent, most_blocks=most_blocks),
        order_statistic_interval(samples, percent),
    )


def median_absolute_deviation(samples: Samples) -> float:
    """median(|x - median(x)|), unscaled, in the unit of the samples; medians are the mean of the two middle ones."""
    return float(np.median(np.abs(samples - np.median(samples))))


def coefficient_of_variation(samples: Samples) -> float:
    """Standard deviation (n - 1) over the mean; 0 for a single sample."""
    return float(np.std(samples, ddof=1) / np.mean(samples)) if len(samples) > 1 else 0.0


@lru_cache(maxsize=256)
def student_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t, for `probability` in 0.5 .. 1 exclusive; exact to about 1e-9. `freedom` may be fractional.

    Bisection on the distribution function, which is integrated by Gauss-Legendre after t = sqrt(freedom) tan(a): the
    density becomes proportional to cos(a)**(freedom - 1), smooth over a finite range.
    """
    if not 0.5 <= probability < 1 or freedom <= 0:  # noqa: PLR2004
        raise UsageError(f"a Student quantile needs 0.5 <= probability < 1 and freedom > 0, got {probability} and {freedom}")
    nodes, weights = np.polynomial.legendre.leggauss(128)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)

    def below(angle: float) -> float:
        points = (nodes + 1) * angle / 2
        return 0.5 + scale * float(np.sum(weights * np.cos(points) ** (freedom - 1))) * angle / 2

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < probability else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _resampled(samples: Samples, percent: float, length: int, seed: int) -> npt.NDArray[np.float64]:
    """The percentile of RESAMPLES circular block resamples of `samples`, in blocks of `length`."""
    n = len(samples)
    generator = np.random.default_rng(seed)
    rank = _rank(n, percent) - 1
    found: list[npt.NDArray[np.float64]] = []
    at_once = max(1, RESAMPLE_CHUNK // n)
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        starts = generator.integers(0, n, (count, math.ceil(n / length)))
        indices = ((starts[:, :, None] + np.arange(length)) % n).reshape(count, -1)[:, :n]
        found.append(np.partition(samples[indices], rank, axis=1)[:, rank].astype(np.float64))
    return np.concatenate(found)


def _binomial_terms(n: int, p: float) -> npt.NDArray[np.float64]:
    """P(X = k) for k = 0 .. n, through logarithms so that large n do not underflow to nothing."""
    if n == 0 or p in (0.0, 1.0):
        certain = np.zeros(n + 1)
        certain[n if p == 1.0 else 0] = 1.0
        return certain
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))])
    k = np.arange(n + 1)
    terms: npt.NDArray[np.float64] = np.exp(logs[n] - logs - logs[::-1] + k * math.log(p) + (n - k) * math.log1p(-p))
    return terms


def _rank(n: int, percent: float) -> int:
    """Rank of the nearest-rank percentile, 1 .. n. Rounded first: 0.9 * 10 is 9, not a little more."""
    return max(1, math.ceil(round(percent * n / 100, 9)))


def _check_percent(percent: float) -> None:
    if not 0 < percent <= 100:  # noqa: PLR2004
        raise UsageError(f"a percentile lies above 0 and at most at 100, got {percent}")


def concatenate(parts: Sequence[Nanoseconds]) -> Nanoseconds:
    """All samples of a run in the order in which they were measured; empty for no parts."""
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
