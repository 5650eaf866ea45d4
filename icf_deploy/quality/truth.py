"""How near a picture is to the photo's own colours, beside how near the reference is: what rounding costs in the end.

Keeping L makes these numbers look good by themselves (no colour at all scores an SSIM above 0.9), so a budget limits what the
engine loses against the reference, photo by photo, and not the score.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from icf_deploy.imaging.merge import merge
from icf_deploy.quality.metrics import SSIM_WINDOW, ciede2000, colourfulness, psnr, ssim
from icf_deploy.quality.table import AB_PEAK, CODE_PEAK, PSNR_CEILING, Scores, TruthRow

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

# Of an engine that gave a pixel without a colour.
LOST = Scores(
    ab_psnr=-math.inf,
    ab_ssim=-math.inf,
    rgb_psnr=-math.inf,
    rgb_ssim=-math.inf,
    de2000_mean=math.inf,
    colourfulness=math.nan,
)


def against_truth(lightness: FloatArray, engine: FloatArray | None, reference: FloatArray, truth: FloatArray) -> TruthRow:
    """Score an engine and the reference. lightness: float32 [h,w]; engine, reference, truth: ab float32 [2,h,w].

    engine: None for one that gave a pixel without a colour.
    """
    shown = merge(lightness, truth)

    def scores(ab: FloatArray) -> Scores:
        picture = merge(lightness, ab)
        return Scores(
            ab_psnr=ab_psnr(ab, truth),
            ab_ssim=ab_ssim(ab, truth),
            rgb_psnr=rgb_psnr(picture, shown),
            rgb_ssim=rgb_ssim(picture, shown),
            de2000_mean=float(ciede2000(lab_of(lightness, ab), lab_of(lightness, truth)).mean(dtype=np.float64)),
            colourfulness=colourfulness(picture),
        )

    return TruthRow(LOST if engine is None else scores(engine), scores(reference), colourfulness(shown))


def ab_psnr(ab: FloatArray, reference: FloatArray) -> float:
    """PSNR in dB over all values of ab [2,h,w], peak AB_PEAK, at most PSNR_CEILING."""
    return min(psnr(ab, reference, peak=AB_PEAK), PSNR_CEILING)


def rgb_psnr(picture: ByteArray, reference: ByteArray) -> float:
    """PSNR in dB over all values of uint8 RGB [h,w,3], at most PSNR_CEILING."""
    return min(psnr(picture, reference, peak=CODE_PEAK), PSNR_CEILING)


def ab_ssim(ab: FloatArray, reference: FloatArray) -> float:
    """SSIM of ab [2,h,w], mean of both channels; not a number where no window fits in."""
    return _ssim(ab.transpose(1, 2, 0), reference.transpose(1, 2, 0), AB_PEAK)


def rgb_ssim(picture: ByteArray, reference: ByteArray) -> float:
    """SSIM of uint8 RGB [h,w,3], mean of the channels; not a number where no window fits in."""
    return _ssim(picture, reference, CODE_PEAK)


def lab_of(lightness: FloatArray, ab: FloatArray) -> FloatArray:
    """L [h,w] and ab [2,h,w] -> Lab [h,w,3], plane by plane in memory."""
    lab: FloatArray = np.concatenate([lightness[None], ab]).transpose(1, 2, 0)
    return lab


def _ssim(picture: FloatArray | ByteArray, reference: FloatArray | ByteArray, data_range: float) -> float:
    if min(picture.shape[:2]) < SSIM_WINDOW:
        return math.nan
    return ssim(picture, reference, data_range=data_range)
