"""Round weights one after the other, each making good what the ones before it did wrong.

1. With the scale s of an output channel fixed, its codes q shall minimize the mean of ((s q - w) x)^2 over photos, that is
   (s q - w) H (s q - w)^T with H the covariance of x; the mean of x is the bias's business (`bias_correction`).
2. Rounding coordinate i with error e changes the optimum of the coordinates j > i that are still free by -e U[i,j] / U[i,i],
   where H^-1 = U^T U with U upper triangular (Cholesky).
3. So all output channels are rounded together, coordinate by coordinate, large variances first.

Frantar & Alistarh 2022, "Optimal Brain Compression"; Frantar et al. 2022, "GPTQ", whose ordering and damping these are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

STEPS = 127
TOGETHER = 64  # coordinates whose effect on those behind them is taken in one matrix product
DAMPING = 0.01  # share of the mean variance added to each: with few photos H is nearly singular

Array = npt.NDArray[np.float64]


def round_together(weights: Array, scales: Array, covariance: Array, limit: int = STEPS) -> Array:
    """Codes in -limit..limit, float64, of products side by side.

    weights [groups, out, length], scales [groups, out], covariance [groups, length, length] -> [groups, out, length]. A group
    whose input never varied is rounded to the nearest.
    """
    length = weights.shape[2]
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    damping = DAMPING * variance.mean(axis=1)
    alive = damping > 0
    order = np.argsort(-variance, axis=1, kind="stable")
    matrix = np.take_along_axis(np.take_along_axis(covariance, order[:, :, None], 1), order[:, None, :], 2)
    diagonal = np.arange(length)
    matrix[:, diagonal, diagonal] += np.where(alive, damping, 1.0)[:, None]
    # With the coordinates reversed H = L L^T; reversed back that is H = R R^T with R upper triangular, and U = R^-1.
    lower = np.linalg.cholesky(matrix[:, ::-1, ::-1])
    upper = np.linalg.inv(lower[:, ::-1, ::-1])
    left = np.take_along_axis(weights, order[:, None, :], 2)
    codes = np.empty_like(left)
    errors = np.empty_like(left)
    for start in range(0, length, TOGETHER):
        stop = min(start + TOGETHER, length)
        for i in range(start, stop):
            codes[:, :, i] = np.clip(np.rint(left[:, :, i] / scales), -limit, limit)
            errors[:, :, i] = (left[:, :, i] - codes[:, :, i] * scales) / upper[:, i, i, None]
            left[:, :, i + 1 : stop] -= errors[:, :, i, None] * upper[:, i, None, i + 1 : stop]
        left[:, :, stop:] -= errors[:, :, start:stop] @ upper[:, start:stop, stop:]
    restored = np.empty_like(codes)
    np.put_along_axis(restored, np.broadcast_to(order[:, None, :], codes.shape), codes, 2)
    return np.where(alive[:, None, None], restored, nearest(weights, scales, limit))


def nearest(weights: Array, scales: Array, limit: int = STEPS) -> Array:
    """Every weight rounded on its own; shapes as in `round_together`."""
    return np.clip(np.rint(weights / scales[..., None]), -limit, limit)
