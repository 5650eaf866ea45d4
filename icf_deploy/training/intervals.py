"""Means over photos with bootstrap intervals (Efron 1979; percentile method), seeded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000  # the interval's ends then vary by about 2 % of its width
TAILS = (2.5, 97.5)  # percent; the middle 95 %


@dataclass(frozen=True)
class Interval:
    """A mean over photos and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap_means(values: npt.NDArray[np.float64], seed: int) -> tuple[Interval, ...]:
    """values [photos, metrics] -> one interval per metric; all metrics see the same resampled photos."""
    means = np.stack([values[chosen].mean(axis=0) for chosen in _resamples(len(values), seed)])
    low, high = np.percentile(means, TAILS, axis=0)
    return tuple(Interval(float(m), float(a), float(b)) for m, a, b in zip(values.mean(axis=0), low, high, strict=True))


def bootstrap_ratio(numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64], seed: int) -> Interval:
    """Ratio of the means of two values per photo [photos]; NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = [numerator[chosen].mean() / denominator[chosen].mean() for chosen in _resamples(len(numerator), seed)]
        low, high = np.percentile(ratios, TAILS)
        return Interval(float(numerator.mean() / denominator.mean()), float(low), float(high))


def _resamples(count: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
