"""Colour metrics of single pictures, in NumPy and OpenCV alone."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from icf_deploy.errors import UsageError

Floats = npt.NDArray[np.floating]
Picture = npt.NDArray[np.uint8] | npt.NDArray[np.floating]

# CIEDE2000 (Sharma, Wu & Dalal 2005), with kL = kC = kH = 1. Degrees there, radians here.
CHROMA_KNEE = 25.0**7
TURN = 2 * math.pi
# SSIM (Wang, Bovik, Sheikh & Simoncelli 2004).
SSIM_WINDOW = 11  # pixels a side
SSIM_SIGMA = 1.5  # pixels
SSIM_K1, SSIM_K2 = 0.01, 0.03
# Colourfulness (Hasler & Suesstrunk 2003), M3.
MEAN_WEIGHT = 0.3


def ciede2000(lab1: Floats, lab2: Floats) -> Floats:
    """Colour difference CIEDE2000 of Lab colours [...,3] (L 0..100; a, b in CIELAB units) -> [...]; symmetric.

    Formula: Sharma, Wu & Dalal, "The CIEDE2000 color-difference formula", Color Research and Application 30 (2005). It is
    computed in the type of its input: float64 agrees with their table in all four digits, float32 is faster.
    """
    l1, a1, b1 = (np.ascontiguousarray(lab1[..., channel]) for channel in range(3))
    l2, a2, b2 = (np.ascontiguousarray(lab2[..., channel]) for channel in range(3))

    # Stretch a where colours are nearly gray (equations 2 to 7).
    stretch = 1.5 - 0.5 * _saturation((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2)
    a1, a2 = stretch * a1, stretch * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = _hue(a1, b1), _hue(a2, b2)

    # Differences (8 to 11). sin(dh / 2) flips its sign with a full turn; a pair on the two sides of red needs that flip.
    lightness = l2 - l1
    chroma = c2 - c1
    apart = h2 - h1
    wraps = np.abs(apart) > math.pi
    hue = 2 * np.sqrt(c1 * c2) * np.sin(apart / 2)
    hue = np.where(wraps, -hue, hue)

    # Means (12 to 14). The paper's own rule for a gray colour, which has no hue, changes nothing: there the hue difference
    # is zero, and the mean hue only weighs that.
    mean_l = (l1 + l2) / 2
    mean_c = (c1 + c2) / 2
    total = h1 + h2
    mean_h = np.where(wraps, np.where(total < TURN, total + TURN, total - TURN), total) / 2

    # Weights (15 to 21).
    t = (
        1
        - 0.17 * np.cos(mean_h - math.radians(30))
        + 0.24 * np.cos(2 * mean_h)
        + 0.32 * np.cos(3 * mean_h + math.radians(6))
        - 0.20 * np.cos(4 * mean_h - math.radians(63))
    )
    off_blue = (mean_h - math.radians(275)) / math.radians(25)
    rotation = -np.sin(math.radians(60) * np.exp(-(off_blue * off_blue))) * 2 * _saturation(mean_c)
    from_middle = (mean_l - 50) ** 2
    lightness = lightness / (1 + 0.015 * from_middle / np.sqrt(20 + from_middle))
    chroma = chroma / (1 + 0.045 * mean_c)
    hue = hue / (1 + 0.015 * mean_c * t)
    squared = lightness * lightness + chroma * chroma + hue * hue + rotation * chroma * hue
    difference: Floats = np.sqrt(np.maximum(squared, 0))  # the form is never negative; its rounding may be
    return difference


def psnr(picture: Picture, reference: Picture, *, peak: float) -> float:
    """Peak signal-to-noise ratio in dB over all values; infinity for equal pictures. 10 log10(peak^2 / MSE)."""
    error = np.subtract(picture, reference, dtype=np.float64)
    mean_square = float(np.mean(error * error))
    return 10 * math.log10(peak * peak / mean_square) if mean_square else math.inf


def ssim(picture: Picture, reference: Picture, *, data_range: float) -> float:
    """Structural similarity of [H,W] or [H,W,C] pictures, mean over channels and over pixels whose window is inside.

    Wang et al. 2004: Gaussian window of 11x11, sigma 1.5, K1 = 0.01, K2 = 0.03. UsageError below 11 pixels a side.
    """
    if min(picture.shape[:2]) < SSIM_WINDOW:
        raise UsageError(f"SSIM needs pictures of at least {SSIM_WINDOW}x{SSIM_WINDOW}, not {list(picture.shape[:2])}")
    x, y = picture.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variances = _window_mean(x * x) - mean_x**2 + _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    return float(index.mean())


def colourfulness(rgb: Picture, *, ddcolor_compat: bool = False) -> float:
    """Colourfulness of an sRGB picture [H,W,3] in 0..255: about 0 for gray, 15 slight, 33 moderate, 59 quite, 82 high.

    M3 of Hasler & Suesstrunk, "Measuring colourfulness in natural images" (2003), on signed opponent values.
    ddcolor_compat takes their absolute values first, as DDColor's evaluation does: lower, and not what the paper defines.
    """
    red, green, blue = (rgb[..., channel].astype(np.float64) for channel in range(3))
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    if ddcolor_compat:
        red_green, yellow_blue = np.abs(red_green), np.abs(yellow_blue)
    spread = math.hypot(float(red_green.std()), float(yellow_blue.std()))
    return spread + MEAN_WEIGHT * math.hypot(float(red_green.mean()), float(yellow_blue.mean()))


def nearest_rank(values: Floats, share: float) -> float:
    """The smallest of `values` that at least `share` (0..1) of them do not exceed."""
    rank = max(0, math.ceil(share * values.size) - 1)
    return float(np.partition(values, rank, axis=None)[rank])


def _saturation(chroma: Floats) -> Floats:
    """sqrt(C^7 / (C^7 + 25^7)): 0 for gray, towards 1 for vivid."""
    squared = chroma * chroma
    seventh = squared * squared * squared * chroma
    result: Floats = np.sqrt(seventh / (seventh + CHROMA_KNEE))
    return result


def _hue(a: Floats, b: Floats) -> Floats:
    """Angle in 0..2 pi; 0 for gray."""
    angle = np.arctan2(b, a)
    return np.where(angle < 0, angle + TURN, angle)


def _window_mean(values: Floats) -> Floats:
    """Gaussian mean around every pixel whose window lies inside the picture."""
    margin = SSIM_WINDOW // 2
    blurred = cv2.GaussianBlur(values, (SSIM_WINDOW, SSIM_WINDOW), SSIM_SIGMA)
    result: Floats = np.asarray(blurred, np.float64)[margin:-margin, margin:-margin]
    return result
