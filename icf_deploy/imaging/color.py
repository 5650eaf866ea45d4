"""CIELAB and sRGB, in closed form: D65, 2 degree observer, the colours of an 8-bit photo.

Formulas: IEC 61966-2-1 (sRGB transfer function), CSS Color 4 section 10 (its primaries as exact fractions), CIE 15 (CIELAB).
OpenCV's float conversion of sRGB interpolates in a table and is up to 0.19 L and 0.47 ab off, so it isn't used here.

Inside the package a colour is often (fy, a/500, -b/200), where fy = (L + 16) / 116: then f(X) = fy + a/500 and
f(Z) = fy - b/200 are one addition each, and everything that is linear in L (resizing, for one) works on fy as it stands.
All channels are in the order R, G, B.
"""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

_PRIMARIES = (  # linear RGB -> XYZ, from the chromaticities of sRGB and of D65 (0.3127, 0.3290)
    (Fraction(506752, 1228815), Fraction(87881, 245763), Fraction(12673, 70218)),
    (Fraction(87098, 409605), Fraction(175762, 245763), Fraction(12673, 175545)),
    (Fraction(7918, 409605), Fraction(87881, 737289), Fraction(1001167, 1053270)),
)
_RGB_TO_XYZ: npt.NDArray[np.float64] = np.array([[float(value) for value in row] for row in _PRIMARIES])
# Relative to the white, so that gray light has X = Y = Z and therefore a = b = 0 exactly.
RGB_TO_RELATIVE_XYZ = _RGB_TO_XYZ / (_RGB_TO_XYZ @ np.ones((3, 1)))
RELATIVE_XYZ_TO_RGB = np.linalg.inv(RGB_TO_RELATIVE_XYZ).astype(np.float64)

F_TOE = 6 / 29  # CIE 15: f where the cube root turns into a straight line
XYZ_TOE = F_TOE**3
TOE_SLOPE = 3 * F_TOE**2
F_BLACK = 16 / 116  # fy of L = 0
F_PER_L = 1 / 116
A_PER_F = 500.0
B_PER_F = 200.0
MAX_L = 100.0

SRGB_TOE = 0.04045  # encoded value below which sRGB is a straight line
LIGHT_TOE = 0.0031308
CODES = 256


def light_of_srgb(encoded: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """sRGB-encoded values in 0..1 -> linear light in 0..1 (IEC 61966-2-1)."""
    return np.where(encoded <= SRGB_TOE, encoded / 12.92, ((np.maximum(encoded, SRGB_TOE) + 0.055) / 1.055) ** 2.4)


def srgb_of_light(light: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Linear light in 0..1 -> sRGB-encoded values in 0..1 (IEC 61966-2-1)."""
    return np.where(light <= LIGHT_TOE, light * 12.92, 1.055 * np.maximum(light, LIGHT_TOE) ** (1 / 2.4) - 0.055)


def f_of_relative(relative: FloatArray) -> FloatArray:
    """CIE 15's f of X/Xn, Y/Yn or Z/Zn, in the given array's own memory."""
    if not relative.size or relative.min() >= XYZ_TOE:
        return np.cbrt(relative, out=relative)
    toe = np.subtract(relative, np.float32(XYZ_TOE))
    np.minimum(toe, np.float32(0), out=toe)
    toe *= np.float32(1 / TOE_SLOPE)
    np.maximum(relative, np.float32(XYZ_TOE), out=relative)
    np.cbrt(relative, out=relative)
    relative += toe
    return relative


def relative_of_f(f: FloatArray) -> FloatArray:
    """The inverse of `f_of_relative`; `f` is clobbered."""
    if not f.size or f.min() >= F_TOE:
        relative = np.multiply(f, f)
        relative *= f
        return relative
    toe = np.subtract(f, np.float32(F_TOE))
    np.minimum(toe, np.float32(0), out=toe)
    toe *= np.float32(TOE_SLOPE)
    np.maximum(f, np.float32(F_TOE), out=f)
    relative = np.multiply(f, f)
    relative *= f
    relative += toe
    return relative


def _table_of_codes() -> npt.NDArray[np.float64]:
    return light_of_srgb(np.arange(CODES) / (CODES - 1))


LIGHT_OF_CODE: FloatArray = _table_of_codes().astype(np.float32)
_LUMINANCE_ROW = RGB_TO_RELATIVE_XYZ[1:2].astype(np.float32)
_F_OF_CODE = np.where(
    _table_of_codes() > XYZ_TOE, np.cbrt(_table_of_codes()), (_table_of_codes() - XYZ_TOE) / TOE_SLOPE + F_TOE
).astype(np.float32)


def fy_of_pixels(pixels: ByteArray) -> FloatArray:
    """uint8 gray [H,W] or RGB [H,W,3] -> fy = (L + 16) / 116, float32 [H,W]."""
    if pixels.ndim == 2:  # noqa: PLR2004 - one plane
        return np.asarray(cv2.LUT(pixels, _F_OF_CODE), np.float32)
    light = cv2.LUT(pixels, LIGHT_OF_CODE)
    return f_of_relative(np.asarray(cv2.transform(light, _LUMINANCE_ROW), np.float32))


def l_of_pixels(pixels: ByteArray) -> FloatArray:
    """uint8 gray [H,W] or RGB [H,W,3] -> CIELAB L in 0..100, float32 [H,W]."""
    lightness = fy_of_pixels(pixels)
    lightness -= np.float32(F_BLACK)
    lightness *= np.float32(1 / F_PER_L)
    return lightness


def lab_of_pixels(pixels: ByteArray) -> tuple[FloatArray, FloatArray]:
    """uint8 RGB [H,W,3] -> (L float32 [H,W] in 0..100, ab float32 [2,H,W] in CIELAB units)."""
    relative = cv2.transform(cv2.LUT(pixels, LIGHT_OF_CODE), RGB_TO_RELATIVE_XYZ.astype(np.float32))
    f = f_of_relative(np.ascontiguousarray(np.moveaxis(relative, 2, 0), np.float32))
    lightness = (f[1] - np.float32(F_BLACK)) * np.float32(1 / F_PER_L)
    ab = np.stack([(f[0] - f[1]) * np.float32(A_PER_F), (f[1] - f[2]) * np.float32(B_PER_F)])
    return lightness, ab


def gray_of_fy(fy: FloatArray) -> FloatArray:
    """fy -> sRGB-encoded gray in 0..1 of the same L, same shape: what a network takes in."""
    f = fy.astype(np.float64)
    light = np.where(f > F_TOE, f**3, (f - F_TOE) * TOE_SLOPE + XYZ_TOE)
    return np.clip(srgb_of_light(light), 0.0, 1.0).astype(np.float32)


def gray_of_l(lightness: FloatArray) -> FloatArray:
    """CIELAB L in 0..100 -> sRGB-encoded gray in 0..1 of the same L, same shape."""
    return gray_of_fy(lightness * np.float32(F_PER_L) + np.float32(F_BLACK))
