"""What a search believes about recipes that it has not measured: a linear model with Gaussian weights.

Latency over that of the base is 1 + the changes of the blocks + a correction for every two blocks that are both
narrow: they share a border at which nothing is converted. The square of the drift is a sum in the same way, since rounding
errors of different blocks hardly know of each other; the correction is for what they do know (2 rho d1 d2, rho a correlation).
What blocks do alone is measured, so it is the mean of their weights; the corrections have mean 0. Every recipe that is
measured whole moves the weights by Bayes' rule (Bishop, "Pattern recognition and machine learning", section 3.3).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icf_deploy.export.precision.space import Choice, Space

FloatArray = npt.NDArray[np.float64]

TIME_NOISE = 0.01  # of the ratio: what two runs of one pair of graphs differ by
BORDER = 0.03  # of the wide graph's latency: what the border between two blocks may cost or save
NO_BORDER = 0.005  # the same where neither reads what the other gives: caches, and what fusion does elsewhere
CORRELATION = 0.3  # of the drifts of two blocks
DRIFT_NOISE = 0.1  # of the squared drift: p95 of a sum is not the sum's p95


@dataclass(frozen=True)
class Alone:
    """One block's option with everything else as in the base: latency over the base's, and drift in the budget's metric."""

    ratio: float
    drift: float


@dataclass(frozen=True)
class Belief:
    """Mean and standard deviation for every choice of a list: [n] each."""

    mean: FloatArray
    deviation: FloatArray


class Model:
    """Believes in `alone` ({(block, option): Alone}) until `learn` tells more. base_drift: of the space's base there."""

    def __init__(self, space: Space, alone: Mapping[tuple[str, str], Alone], base_drift: float = 0.0) -> None:
        self._columns = [(block, option) for block, options in zip(space.blocks, space.options, strict=True)
                         for option in options[1:]]  # fmt: skip
        self._pairs = list(itertools.combinations(range(len(space.blocks)), 2))
        self._blocks, self._floor = space.blocks, base_drift**2
        self._base = np.array(space.base, dtype=object)
        self._seen: tuple[Sequence[Choice], FloatArray] = ((), np.zeros((0, 0)))  # the last list asked for, and its features
        time = np.array([alone[column].ratio - 1 for column in self._columns])
        drift = np.array([max(alone[column].drift ** 2 - self._floor, 0.0) for column in self._columns])
        worst = [max((d for (block, _), d in zip(self._columns, drift, strict=True) if block == name), default=0.0)
                 for name in space.blocks]  # fmt: skip
        together = np.array([2 * CORRELATION * np.sqrt(worst[i] * worst[j]) for i, j in self._pairs])
        zeros = np.zeros(len(self._pairs))
        shared = [BORDER if (space.blocks[i], space.blocks[j]) in space.borders else NO_BORDER for i, j in self._pairs]
        self._time = _Weights(np.r_[time, zeros], np.r_[np.full(len(time), TIME_NOISE), shared])
        self._drift = _Weights(np.r_[drift, zeros], np.r_[drift * DRIFT_NOISE, together])

    def learn(self, choice: Choice, *, ratio: float | None = None, drift: float | None = None) -> None:
        """Take in what was measured of a whole choice."""
        x = self._features_of([choice])[0]
        if ratio is not None:
            self._time.learn(x, ratio - 1, TIME_NOISE)
        if drift is not None and np.isfinite(drift):
            self._drift.learn(x, drift**2 - self._floor, max(DRIFT_NOISE * drift**2, 1e-6))

    def time(self, choices: Sequence[Choice]) -> Belief:
        """Of the latency over the base's."""
        found = self._time.predict(self._features(choices))
        return Belief(1 + found.mean, found.deviation)

    def drift(self, choices: Sequence[Choice]) -> Belief:
        """Of the drift. Its deviation follows from that of the square to first order."""
        found = self._drift.predict(self._features(choices))
        mean = np.sqrt(np.maximum(found.mean + self._floor, 0))
        return Belief(mean, found.deviation / np.maximum(2 * mean, np.sqrt(np.maximum(found.deviation, 1e-12))))

    def _features(self, choices: Sequence[Choice]) -> FloatArray:
        if len(choices) == 1:
            return self._features_of(choices)
        if choices is not self._seen[0]:
            self._seen = (choices, self._features_of(choices))
        return self._seen[1]

    def _features_of(self, choices: Sequence[Choice]) -> FloatArray:
        table = np.array(choices, dtype=object).reshape(len(choices), len(self._blocks))
        single = [(table[:, self._blocks.index(block)] == option).astype(np.float64) for block, option in self._columns]
        narrow = table != self._base
        both = [(narrow[:, i] & narrow[:, j]).astype(np.float64) for i, j in self._pairs]
        return np.stack([*single, *both], axis=1) if single else np.zeros((len(choices), len(both)))


class _Weights:
    """Gaussian weights of a linear function, updated one observation at a time (the Kalman filter of a constant state)."""

    def __init__(self, mean: FloatArray, deviation: FloatArray) -> None:
        self._mean, self._covariance = mean.astype(np.float64), np.diag(deviation.astype(np.float64) ** 2)

    def learn(self, x: FloatArray, y: float, noise: float) -> None:
        direction = self._covariance @ x
        variance = float(x @ direction) + noise**2
        self._mean = self._mean + direction * ((y - float(x @ self._mean)) / variance)
        self._covariance = self._covariance - np.outer(direction, direction) / variance

    def predict(self, x: FloatArray) -> Belief:
        variance = np.einsum("ij,jk,ik->i", x, self._covariance, x, optimize=True)
        return Belief(x @ self._mean, np.sqrt(np.maximum(variance, 0.0)))
