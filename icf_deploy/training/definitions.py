"""PSNR and SSIM as others define them, to read a claim of so many dB by: the definition alone moves it by 20 dB.

L is copied from the photo, so whatever counts L looks good: SSIM above 0.9 and 40 dB of luma are reached by adding no colour at
all. The ICF paper claims 30 dB and 0.9 without saying which definition was used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from icf_deploy.imaging.color import lab_of_pixels
from icf_deploy.quality.metrics import psnr, ssim

CLAIMED_PSNR = 30.0  # dB, the ICF paper
CLAIMED_SSIM = 0.9
CODE_PEAK = 255.0
LARGEST_PSNR = 100.0  # dB; stands for infinity, so that means stay finite
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_HALF_RANGE = 128.0  # ab as many programs scale it: -128..127 to -1..1
_CODES_PER_L = 2.55  # 8-bit Lab: L 0..100 to 0..255

ByteArray = npt.NDArray[np.uint8]
Score: TypeAlias = Callable[[ByteArray, ByteArray], float]


def _limited(db: float) -> float:
    return min(LARGEST_PSNR, db)


def _psnr_rgb(picture: ByteArray, truth: ByteArray) -> float:
    return _limited(psnr(picture, truth, peak=CODE_PEAK))


def _psnr_ab(picture: ByteArray, truth: ByteArray) -> float:
    return _limited(psnr(lab_of_pixels(picture)[1], lab_of_pixels(truth)[1], peak=CODE_PEAK))


def _psnr_scaled_ab(picture: ByteArray, truth: ByteArray) -> float:
    return _limited(psnr(lab_of_pixels(picture)[1] / _HALF_RANGE, lab_of_pixels(truth)[1] / _HALF_RANGE, peak=1.0))


def _psnr_lab(picture: ByteArray, truth: ByteArray) -> float:
    return _limited(psnr(_byte_lab(picture), _byte_lab(truth), peak=CODE_PEAK))


def _psnr_luma(picture: ByteArray, truth: ByteArray) -> float:
    return _limited(psnr(picture @ LUMA, truth @ LUMA, peak=CODE_PEAK))


def _ssim_rgb(picture: ByteArray, truth: ByteArray) -> float:
    return ssim(picture, truth, data_range=CODE_PEAK)


def _ssim_lab(picture: ByteArray, truth: ByteArray) -> float:
    return ssim(_byte_lab(picture), _byte_lab(truth), data_range=CODE_PEAK)


def _ssim_luma(picture: ByteArray, truth: ByteArray) -> float:
    return ssim(picture @ LUMA, truth @ LUMA, data_range=CODE_PEAK)


def _byte_lab(rgb: ByteArray) -> ByteArray:
    """uint8 RGB -> Lab in 8 bits a channel [H,W,3]: L * 2.55, a + 128, b + 128, rounded."""
    lightness, ab = lab_of_pixels(rgb)
    planes = np.dstack((lightness * _CODES_PER_L, ab[0] + _HALF_RANGE, ab[1] + _HALF_RANGE))
    return np.asarray(np.clip(np.rint(planes), 0, CODE_PEAK), np.uint8)


PSNR_DEFINITIONS: Mapping[str, Score] = {
    "RGB": _psnr_rgb,
    "ab, peak 255": _psnr_ab,
    "ab / 128, peak 1": _psnr_scaled_ab,
    "8-bit Lab": _psnr_lab,
    "luma": _psnr_luma,
}
SSIM_DEFINITIONS: Mapping[str, Score] = {"RGB": _ssim_rgb, "8-bit Lab": _ssim_lab, "luma": _ssim_luma}


def by_definition(picture: ByteArray, truth: ByteArray) -> dict[str, float]:
    """Scores of uint8 RGB [H,W,3] under every definition, by name: `PSNR ...` in dB, `SSIM ...`."""
    return {f"PSNR {name}": score(picture, truth) for name, score in PSNR_DEFINITIONS.items()} | {
        f"SSIM {name}": score(picture, truth) for name, score in SSIM_DEFINITIONS.items()
    }


def reaches_claim(definition: str, value: float) -> bool:
    """Whether a score under a definition of `by_definition` is what the ICF paper claims, or better."""
    return value >= CLAIMED_PSNR if definition.startswith("PSNR") else value > CLAIMED_SSIM
