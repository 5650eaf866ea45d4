"""Colours that sRGB cannot show lose chroma: L and hue stay, and nothing is clipped channel by channel.

How much chroma an L and a hue can have is tabulated once per process, by bisection, and read by bilinear interpolation;
only pixels outside the gamut are looked up. The hue holds because a and b are scaled by the same factor, whatever the
table says. Where interpolation still leaves a colour outside, one step of regula falsi towards gray brings it in. Per pixel
outside that is a third of the time that bisecting each of them takes (24 against 78 ns), for 10 ms once.

At yellow (hue 102 to 105 degrees, L above 93) lines of constant L and hue leave the gamut and enter it again. There a colour
may end up at either edge, and up to 0.7 degree off its hue; everywhere else it is within 0.3 degree.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from icf_deploy.imaging.color import (
    A_PER_F,
    B_PER_F,
    F_BLACK,
    F_PER_L,
    MAX_L,
    RELATIVE_XYZ_TO_RGB,
    FloatArray,
    relative_of_f,
)
from icf_deploy.imaging.strips import quiet_matmul

MAX_CHROMA = 160.0  # CIELAB units; no sRGB colour has more than 134
LIGHT_BELOW = -3e-6  # linear light that still counts as 0: float32 noise is 3e-7, a step of 8 bits is 3e-4
LIGHT_ABOVE = 1 + 3e-5  # linear light that still counts as 1: a step of 8 bits is 9e-3

_L_CELLS = 128
_HUE_CELLS = 512
_HALVINGS = 14  # 160 / 2^14 = 0.01 units of chroma
_BATCH = 8192  # pixels per batch of the bisection: its arrays stay in a 1 MB cache
_TO_RGB = RELATIVE_XYZ_TO_RGB.astype(np.float32)


def light_of_offsets(fy: FloatArray, offsets: FloatArray) -> FloatArray:
    """fy [n] and (a/500, -b/200) [2,n] -> linear RGB, float32 [3,n], outside 0..1 where sRGB cannot show the colour."""
    f = np.empty((3, fy.size), np.float32)
    np.add(offsets[0], fy, out=f[0])
    f[1] = fy
    np.add(offsets[1], fy, out=f[2])
    return quiet_matmul(_TO_RGB, relative_of_f(f), out=f)


def room_in_gamut(light: FloatArray) -> FloatArray:
    """Linear RGB [3,n] -> how far each colour is inside the gamut, in linear light; negative outside. Float32 [n]."""
    room: FloatArray = np.minimum.reduce(light, axis=0)
    room -= np.float32(LIGHT_BELOW)
    np.minimum(room, np.float32(LIGHT_ABOVE) - np.maximum.reduce(light, axis=0), out=room)
    return room


def light_in_gamut(fy: FloatArray, offsets: FloatArray) -> FloatArray:
    """Colours outside the gamut -> linear RGB of the same L and hue with as much chroma as sRGB can show.

    fy: float32 [n]. offsets: float32 [2,n], (a/500, -b/200). Returns float32 [3,n]; up to 0.03 outside 0..1 in the yellow
    corner that the module names, up to 0.001 elsewhere.
    """
    a, b = offsets[0] * np.float32(A_PER_F), offsets[1] * np.float32(-B_PER_F)
    chroma = np.sqrt(a * a + b * b)
    np.maximum(chroma, np.float32(1e-6), out=chroma)  # L = 0 may come with any hue and no chroma
    scale = _largest_chroma(fy, np.arctan2(b, a)) / chroma
    np.minimum(scale, np.float32(1), out=scale)
    light = light_of_offsets(fy, offsets * scale)
    room = room_in_gamut(light)
    outside = np.flatnonzero(room < 0)
    if outside.size:
        own_fy = fy.take(outside)
        room_at_gray = room_in_gamut(light_of_offsets(own_fy, np.zeros((2, outside.size), np.float32)))
        nearer = scale.take(outside) * (room_at_gray / (room_at_gray - room.take(outside)))
        light[:, outside] = light_of_offsets(own_fy, offsets.take(outside, axis=1) * nearer)
    return light


def bisected_scale(fy: FloatArray, offsets: FloatArray, halvings: int) -> FloatArray:
    """The factor in 0..1 for `offsets` that brings each colour just inside the gamut, never outside it. Float32 [n].

    It is low by at most 2^-halvings. Slower than `light_in_gamut` and independent of its table.
    """
    scale = np.zeros(fy.size, np.float32)
    step = np.float32(0.5)
    for _ in range(halvings):
        trial = scale + step
        inside = room_in_gamut(light_of_offsets(fy, offsets * trial)) >= 0
        scale += inside * step
        step *= np.float32(0.5)
    return scale


@functools.cache
def chroma_table() -> FloatArray:
    """Largest chroma of sRGB at L = 0..100 (rows) and hue -180..180 degrees (columns). Float32 [129,513]."""
    fy = np.linspace(F_BLACK, 1.0, _L_CELLS + 1, dtype=np.float32)
    hue = np.linspace(-np.pi, np.pi, _HUE_CELLS + 1)
    direction = np.stack([np.cos(hue) * (MAX_CHROMA / A_PER_F), np.sin(hue) * (-MAX_CHROMA / B_PER_F)]).astype(np.float32)
    rows = max(1, _BATCH // hue.size)
    table = np.empty((fy.size, hue.size), np.float32)
    for top in range(0, fy.size, rows):
        part = fy[top : top + rows]
        scale = bisected_scale(np.repeat(part, hue.size), np.tile(direction, part.size), _HALVINGS)
        table[top : top + rows] = scale.reshape(part.size, hue.size)
    table *= np.float32(MAX_CHROMA)
    table.setflags(write=False)
    return table


def _largest_chroma(fy: FloatArray, hue: FloatArray) -> FloatArray:
    """The table at fy [n] and hue [n] in radians -pi..pi, bilinear."""
    table = chroma_table().reshape(-1)
    row = (fy - np.float32(F_BLACK)) * np.float32(_L_CELLS / (F_PER_L * MAX_L))
    column = (hue + np.float32(np.pi)) * np.float32(_HUE_CELLS / (2 * np.pi))
    top = _cell(row, _L_CELLS)
    left = _cell(column, _HUE_CELLS)
    row -= top
    column -= left
    corner = top * np.int32(_HUE_CELLS + 1) + left
    upper = _between(table, corner, column)
    lower = _between(table, corner + np.int32(_HUE_CELLS + 1), column)
    lower -= upper
    lower *= row
    lower += upper
    return lower


def _cell(position: FloatArray, cells: int) -> npt.NDArray[np.int32]:
    index: npt.NDArray[np.int32] = position.astype(np.int32)
    np.maximum(index, np.int32(0), out=index)
    np.minimum(index, np.int32(cells - 1), out=index)
    return index


def _between(table: FloatArray, index: npt.NDArray[np.int32], fraction: FloatArray) -> FloatArray:
    """table[index] and table[index + 1], interpolated."""
    first = table.take(index)
    value: FloatArray = table.take(index + np.int32(1))
    value -= first
    value *= fraction
    value += first
    return value
