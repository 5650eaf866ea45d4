"""Between the photo's size and the network's: L down to its input, ab up to the photo, strip by strip.

Pixel centres are at half integers, edges are repeated, and the two axes are independent: shrinking an axis averages the area
that each new pixel covers; enlarging it interpolates, linearly for L, by Keys' cubic for ab.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from icf_deploy.imaging.strips import in_bands, quiet_matmul, strips

FloatArray = npt.NDArray[np.float32]

CUBIC_A = -0.75  # Keys' parameter as OpenCV and PyTorch have it; 0.2 dB ahead of -0.5 for the ab of the Kodak photos
_BLOCK_ROWS = 64  # new rows made by one matrix of weights, which is mostly zeros
_CUBIC_TAPS = np.arange(-1, 3)  # source pixels of the cubic around the one at or before the position


def shrink_to_grid(
    rows: Callable[[int, int], FloatArray], source: tuple[int, int], size: tuple[int, int], threads: int = 1
) -> FloatArray:
    """A plane of `source` = (height, width) pixels, given by its strips, stretched to `size` = (H, W); the aspect is not kept.

    rows(top, bottom) gives float32 [bottom - top, width]. Returns float32 [H,W].
    """
    height, width = source
    narrow = np.empty((height, size[1]), np.float32)

    def work(first: int, last: int) -> None:
        for top, bottom in strips(first, last, width):
            _resize_axis(rows(top, bottom), (bottom - top, size[1]), shrinks=width > size[1], out=narrow[top:bottom])

    in_bands(work, source, threads)
    return _resize_axis(narrow, size, shrinks=height > size[0], out=np.empty(size, np.float32))


def _resize_axis(plane: FloatArray, size: tuple[int, int], *, shrinks: bool, out: FloatArray) -> FloatArray:
    """Resize along the one axis in which `plane` and `size` differ."""
    if plane.shape == size:
        out[:] = plane
    else:
        kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        cv2.resize(plane, (size[1], size[0]), dst=out, interpolation=kind)
    return out


class Upsampler:
    """Gives any rows of an ab field, resized to a photo's size."""

    def __init__(self, field: FloatArray, size: tuple[int, int]) -> None:
        """field: float32 [C,h,w]. size: (height, width) of the photo."""
        channels, height, width = field.shape
        vertical, horizontal = Axis(height, size[0]), Axis(width, size[1])
        sideways = horizontal.padded(np.ascontiguousarray(field.transpose(2, 0, 1)).reshape(width, -1))  # [w, C*h]
        wide = np.empty((size[1], sideways.shape[1]), np.float32)
        for left, right in strips(0, size[1], sideways.shape[1]):
            horizontal.resize(sideways, left, right, out=wide[left:right])
        columns = np.asarray(cv2.transpose(wide), np.float32).reshape(channels, height, size[1])
        self._planes = [vertical.padded(plane) for plane in columns]
        self._vertical = vertical

    def rows(self, top: int, bottom: int, out: FloatArray) -> FloatArray:
        """Rows top..bottom of the photo, into `out`, float32 [C, bottom - top, width]."""
        for plane, target in zip(self._planes, out, strict=True):
            self._vertical.resize(plane, top, bottom, out=target)
        return out


class Axis:
    """How one axis goes from `source` to `target` pixels: for each new pixel, the first old one it needs and the weights.

    Keys, "Cubic convolution interpolation for digital image processing" (1981) for enlarging; area average for shrinking.
    """

    def __init__(self, source: int, target: int) -> None:
        scale = source / target
        pixel = np.arange(target)
        if target < source:
            low, high = (pixel * scale)[:, None], ((pixel + 1) * scale)[:, None]
            first = np.floor(low).astype(np.int64)
            taps = np.arange(math.ceil(scale) + 1)
            weights = np.maximum(np.minimum(first + taps + 1, high) - np.maximum(first + taps, low), 0.0) / scale
        elif target == source:
            first, taps, weights = pixel[:, None], np.zeros(1, np.int64), np.ones((target, 1))
        else:
            position = (pixel + 0.5) * scale - 0.5
            first = np.floor(position).astype(np.int64)[:, None]
            taps = _CUBIC_TAPS
            weights = _cubic((position - first[:, 0])[:, None] - taps)
        index = first + taps
        self._before = max(0, -int(index.min()))
        self._after = max(0, int(index.max()) - (source - 1))
        self._index = index + self._before  # [target, taps], into the padded source
        self._weights = weights.astype(np.float32)

    def padded(self, rows: FloatArray) -> FloatArray:
        """[source, n] with its edge rows repeated as far as the weights reach."""
        return np.pad(rows, ((self._before, self._after), (0, 0)), mode="edge")

    def resize(self, rows: FloatArray, start: int, stop: int, out: FloatArray) -> FloatArray:
        """New rows start..stop out of the padded ones [source + pad, n], into `out` [stop - start, n]."""
        for top in range(start, stop, _BLOCK_ROWS):
            bottom = min(stop, top + _BLOCK_ROWS)
            index = self._index[top:bottom]
            first, last = int(index[0, 0]), int(index[-1, -1])
            dense = np.zeros((bottom - top, last - first + 1), np.float32)
            dense[np.arange(bottom - top)[:, None], index - first] = self._weights[top:bottom]
            quiet_matmul(dense, rows[first : last + 1], out=out[top - start : bottom - start])
        return out


def _cubic(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' kernel at a distance in source pixels, 0 beyond 2."""
    d = np.abs(distance)
    near = ((CUBIC_A + 2) * d - (CUBIC_A + 3)) * d * d + 1
    far = ((CUBIC_A * d - 5 * CUBIC_A) * d + 8 * CUBIC_A) * d - 4 * CUBIC_A
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))  # noqa: PLR2004 - the kernel's two halves
