"""Statistics of a tensor over any number of photos, in memory that does not grow: what ranges are chosen from.

The histogram is of magnitudes, since scales are symmetric. Its bins double in width whenever a value does not fit, which
joins neighbours exactly: no photo is kept and none has to be seen twice (the idea of TensorRT's and of PyTorch's observers).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

BINS = 2048  # of one histogram: 16 KB; 16 for each of the 128 steps of int8
FIRST_TOP = 2.0**-20  # where a histogram begins to grow from; below it a tensor is zero for every purpose here


@dataclass
class Histogram:
    """Counts of |x| in BINS equal bins from 0 to `top`, a power of two times FIRST_TOP."""

    top: float = FIRST_TOP
    counts: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, magnitudes: FloatArray, largest: float) -> None:
        """Count magnitudes (float32, any shape), the largest of which is `largest`; it must be finite."""
        while largest >= self.top:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
            self.top *= 2
        index = (magnitudes.ravel() * np.float32(BINS / self.top)).astype(np.int32)
        self.counts += np.bincount(index, minlength=BINS)[:BINS]

    @property
    def width(self) -> float:
        """Of one bin."""
        return self.top / BINS


@dataclass
class Observer:
    """What was seen of one tensor. low, high: extremes. finite: whether every value was. histogram: of magnitudes.

    counts: whether a histogram is needed; extremes alone are cheaper.
    """

    counts: bool = True
    low: float = np.inf
    high: float = -np.inf
    finite: bool = True
    histogram: Histogram = field(default_factory=Histogram)

    def add(self, x: FloatArray) -> None:
        """Take in one activation, float32 of any shape."""
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            self.finite = False
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.counts:
            self.histogram.add(np.abs(x), max(-low, high))

    @property
    def largest(self) -> float:
        """The largest magnitude; infinite where a value was no number."""
        return max(-self.low, self.high, 0.0) if self.finite else np.inf
