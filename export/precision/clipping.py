"""From what was seen of a tensor to the magnitude at which its int8 form saturates.

| method | the magnitude is | source |
|---|---|---|
| minmax | the largest one seen | - |
| percentile | that which 99.99 % of the values do not exceed | Wu et al. 2020, "Integer quantization for deep learning" |
| mse | that with the smallest mean squared rounding and clipping error | Sung, Shin & Hwang 2015; Banner et al. 2019 |
| entropy | that with the smallest Kullback-Leibler divergence | Migacz 2017, "8-bit inference with TensorRT" |
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from icf_deploy.errors import UsageError
from icf_deploy.export.precision.observers import BINS, Histogram, Observer

METHODS = ("minmax", "percentile", "mse", "entropy")
PERCENTILE = 0.9999
STEPS = 127  # positive codes of symmetric int8
CANDIDATES = 128  # magnitudes that `mse` tries, equally spaced up to the largest
ENTROPY_STRIDE = 16  # bins between the magnitudes that `entropy` tries; its optimum is flat
# The smallest magnitude worth a scale of its own: keeps a dead tensor's scale above the smallest normal fp16 number.
SMALLEST = 2.0**-7

FloatArray = npt.NDArray[np.float64]


def saturation(observer: Observer, method: str) -> float:
    """The magnitude at which int8 saturates: positive, at most the largest seen. UsageError for an unknown method."""
    if method not in METHODS:
        raise UsageError(f"there is no calibration method {method!r}: choose one of {', '.join(METHODS)}")
    largest = observer.largest
    if largest <= SMALLEST:
        return SMALLEST
    histogram = observer.histogram
    if method == "minmax":
        return largest
    if method == "percentile":
        return min(largest, _percentile(histogram))
    found = _least_squares(histogram, largest) if method == "mse" else _least_divergence(histogram, largest)
    return max(found, SMALLEST)


def _percentile(histogram: Histogram) -> float:
    total = histogram.counts.cumsum()
    place = int(np.searchsorted(total, PERCENTILE * total[-1]))
    return max((place + 1) * histogram.width, SMALLEST)


def _least_squares(histogram: Histogram, largest: float) -> float:
    """Every bin stands for its centre; the empty bins behind `largest` cost nothing."""
    centres = (np.arange(BINS) + 0.5) * histogram.width
    best, least = largest, np.inf
    for top in np.linspace(largest / CANDIDATES, largest, CANDIDATES):
        scale = top / STEPS
        error = float((histogram.counts * (centres - np.minimum(np.rint(centres / scale), STEPS) * scale) ** 2).sum())
        # A bin can be wider than a step; within one, rounding errors are those of a uniform spread.
        error += float(histogram.counts.sum()) * min(scale, histogram.width) ** 2 / 12 if scale < histogram.width else 0.0
        if error < least:
            best, least = float(top), error
    return best


def _least_divergence(histogram: Histogram, largest: float) -> float:
    """Migacz's search: the clipped distribution P against the same in 128 levels, Q."""
    counts = histogram.counts.astype(np.float64).copy()
    counts[0] = counts[1]  # exact zeros of a ReLU say nothing about the scale and would drown everything else
    used = min(BINS, int(np.ceil(largest / histogram.width)))
    best, least = largest, np.inf
    for stop in [*range(STEPS + 1, used, ENTROPY_STRIDE), used]:
        if stop < STEPS + 1:
            return largest
        p = counts[:stop].copy()
        p[-1] += counts[stop:].sum()
        q = _in_levels(counts[:stop])
        divergence = _divergence(p, q)
        if divergence < least:
            best, least = min(largest, stop * histogram.width), divergence
    return best


def _in_levels(counts: FloatArray) -> FloatArray:
    """The counts after rounding to STEPS + 1 levels: each level's mass spread evenly over its occupied bins."""
    level = np.arange(len(counts)) * (STEPS + 1) // len(counts)
    occupied = counts > 0
    mass = np.bincount(level, counts, STEPS + 1)
    bins = np.bincount(level, occupied, STEPS + 1)
    share = np.divide(mass, bins, out=np.zeros_like(mass), where=bins > 0)
    return np.where(occupied, share[level], 0.0)


def _divergence(p: FloatArray, q: FloatArray) -> float:
    if not p.sum() or not q.sum():
        return float(np.inf)
    p, q = p / p.sum(), q / q.sum()
    both = (p > 0) & (q > 0)
    lost = p[(p > 0) & (q == 0)].sum()  # mass that Q cannot express at all
    return float((p[both] * np.log(p[both] / q[both])).sum() + lost * np.log(BINS))
