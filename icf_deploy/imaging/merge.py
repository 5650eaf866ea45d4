"""L and ab back to an 8-bit sRGB photo: the photo keeps its own L, and colours that sRGB cannot show lose chroma."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from icf_deploy.imaging.color import A_PER_F, B_PER_F, F_BLACK, F_PER_L, MAX_L, srgb_of_light
from icf_deploy.imaging.gamut import LIGHT_ABOVE, LIGHT_BELOW, MAX_CHROMA, light_in_gamut, light_of_offsets
from icf_deploy.imaging.resample import Upsampler
from icf_deploy.imaging.strips import in_bands, strips

if TYPE_CHECKING:
    from icf_deploy.imaging.color import ByteArray, FloatArray

LIGHT_STEPS = 65535  # linear light is rounded to 16 bits before the table: at most 0.05 of an 8-bit code, at black
_CODES = 255
_PIXEL = np.dtype("V3")  # R, G, B as one element: three times as fast to scatter as rows of three
_BATCH = 32_768  # pixels outside the gamut worked on at once; their arrays stay in a 2 MB cache


def merge(lightness: FloatArray, ab: FloatArray) -> ByteArray:
    """L float32 [H,W] in 0..100 and ab float32 [2,H,W] in CIELAB units -> uint8 RGB [H,W,3].

    |dL| <= 0.5 after rounding; a colour outside sRGB keeps its hue and loses chroma.
    """
    fy = np.clip(lightness, 0.0, MAX_L).astype(np.float32) * np.float32(F_PER_L) + np.float32(F_BLACK)
    height, width = fy.shape
    return merge_rows(lambda top, bottom: fy[top:bottom], (height, width), ab)


def merge_rows(rows: Callable[[int, int], FloatArray], size: tuple[int, int], ab: FloatArray, threads: int = 1) -> ByteArray:
    """As `merge`, for the fy of a photo of `size` = (height, width) given strip by strip, and an ab field of any size.

    rows(top, bottom) gives float32 [bottom - top, width]. ab: float32 [2,h,w]. Returns uint8 RGB [height,width,3].
    """
    field = Upsampler(_offsets(ab), size)
    picture = np.empty((*size, 3), np.uint8)

    def work(first: int, last: int) -> None:
        outside = _Outside(picture)
        for top, bottom in strips(first, last, size[1]):
            offsets = field.rows(top, bottom, out=np.empty((2, bottom - top, size[1]), np.float32)).reshape(2, -1)
            fy = rows(top, bottom).reshape(-1)
            light = light_of_offsets(fy, offsets)
            outside.collect(top * size[1], fy, offsets, light)
            _encode(light, picture[top:bottom])
            outside.paint(at_least=_BATCH)
        outside.paint(at_least=1)

    in_bands(work, size, threads)
    return picture


class _Outside:
    """The pixels outside the gamut. Many strips' share of them is worked on at once, which costs fewer calls."""

    def __init__(self, picture: ByteArray) -> None:
        self._pixels = picture.reshape(-1).view(_PIXEL)
        self._waiting: list[tuple[npt.NDArray[np.int64], FloatArray, FloatArray]] = []
        self._count = 0

    def collect(self, start: int, fy: FloatArray, offsets: FloatArray, light: FloatArray) -> None:
        """Remember which pixels of a strip, the first of which is pixel `start` of the picture, are outside."""
        lowest, highest = np.minimum.reduce(light, axis=0), np.maximum.reduce(light, axis=0)
        if lowest.min() >= LIGHT_BELOW and highest.max() <= LIGHT_ABOVE:
            return
        index = np.flatnonzero((lowest < LIGHT_BELOW) | (highest > LIGHT_ABOVE))
        self._waiting.append((index + start, fy.take(index), offsets.take(index, axis=1)))
        self._count += index.size

    def paint(self, at_least: int) -> None:
        """Bring them into the gamut and into the picture, once there are so many."""
        if self._count < at_least:
            return
        index, fy, offsets = (np.concatenate(parts, axis=-1) for parts in zip(*self._waiting, strict=True))
        codes = np.empty((1, index.size, 3), np.uint8)
        _encode(light_in_gamut(fy, offsets), codes)
        self._pixels.put(index, codes.reshape(-1).view(_PIXEL))
        self._waiting.clear()
        self._count = 0


def _offsets(ab: FloatArray) -> FloatArray:
    """ab [2,h,w] -> (a/500, -b/200), chroma held at MAX_CHROMA so that no value overflows later on."""
    a, b = ab.astype(np.float32)
    shrink = np.minimum(1.0, MAX_CHROMA / np.maximum(np.hypot(a, b), 1e-6))
    return np.stack([a * shrink / A_PER_F, b * shrink / -B_PER_F]).astype(np.float32)


def _encode(light: FloatArray, out: ByteArray) -> None:
    """Linear RGB [3,n] -> uint8 sRGB in `out` [rows,width,3]. What is outside 0..1 is clipped; `light` is clobbered."""
    light *= np.float32(LIGHT_STEPS)
    np.clip(light, np.float32(0), np.float32(LIGHT_STEPS), out=light)
    codes = _codes_of_steps(light.astype(np.uint16))
    cv2.merge([plane.reshape(out.shape[:2]) for plane in codes], dst=out)


@functools.cache
def _code_table() -> ByteArray:
    """uint8 code of each 16-bit step of linear light. The steps are truncated, so a step stands for its middle."""
    middle = np.minimum((np.arange(LIGHT_STEPS + 1) + 0.5) / LIGHT_STEPS, 1.0)
    return np.rint(srgb_of_light(middle) * _CODES).astype(np.uint8)


@functools.cache
def _looks_up_16_bits() -> bool:
    """OpenCV 5 does; OpenCV 4 looks up 8-bit values only."""
    try:
        cv2.LUT(np.zeros((1, 1), np.uint16), _code_table())
    except cv2.error:
        return False
    return True


def _codes_of_steps(steps: npt.NDArray[np.uint16]) -> ByteArray:
    table = _code_table()
    return np.asarray(cv2.LUT(steps, table), np.uint8) if _looks_up_16_bits() else table.take(steps)
