"""Scores of one coloured picture against its photo, and their means over photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icf_deploy.imaging.color import lab_of_pixels
from icf_deploy.quality.metrics import ciede2000, colourfulness, psnr, ssim
from icf_deploy.training.intervals import Interval, bootstrap_means, bootstrap_ratio
from icf_deploy.training.perceptual import Distance
from icf_deploy.training.protocols import Prepared

CODE_PEAK = 255.0  # of RGB codes, and of ab, whose 8-bit form it is; the literature also takes 220 or 256 for ab
METRICS = ("psnr", "ssim", "psnr_ab", "ciede2000", "colourfulness")
LPIPS = "lpips"  # beside METRICS, where it is installed
LARGEST_PSNR = 100.0  # dB; stands for infinity (an exact match), so that means stay finite
METRICS_IN_WORDS = (
    f"PSNR over 8-bit RGB with peak {CODE_PEAK:.0f}; ab-PSNR over the ab of that RGB with peak {CODE_PEAK:.0f}; SSIM per RGB "
    "channel, Gaussian 11x11, sigma 1.5; CIEDE2000 as mean over pixels; colourfulness by Hasler and Suesstrunk, signed"
)
LPIPS_IN_WORDS = "LPIPS with AlexNet 0.1 over RGB in -1..1"

ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Scores:
    """Scores of one picture: PSNR and ab-PSNR in dB, SSIM, mean CIEDE2000, colourfulness; LPIPS where it is installed."""

    psnr: float
    ssim: float
    psnr_ab: float
    ciede2000: float
    colourfulness: float
    lpips: float | None = None


def scores_of(picture: ByteArray, photo: Prepared, distance: Distance | None = None) -> Scores:
    """Score a coloured picture, uint8 RGB [H,W,3], against the photo it was made of."""
    lightness, ab = lab_of_pixels(picture)
    difference = ciede2000(_interleaved(lightness, ab), _interleaved(photo.lightness, photo.ab))
    return Scores(
        psnr=rgb_psnr(picture, photo.rgb),
        ssim=ssim(picture, photo.rgb, data_range=CODE_PEAK),
        psnr_ab=min(LARGEST_PSNR, psnr(ab, photo.ab, peak=CODE_PEAK)),
        ciede2000=float(difference.mean()),
        colourfulness=colourfulness(picture),
        lpips=distance(picture, photo.rgb) if distance else None,
    )


def rgb_psnr(picture: ByteArray, rgb: ByteArray) -> float:
    """PSNR of two uint8 RGB pictures in dB, at most LARGEST_PSNR."""
    return min(LARGEST_PSNR, psnr(picture, rgb, peak=CODE_PEAK))


def summarised(
    rows: Sequence[Mapping[str, Scores]], truth: Sequence[float], name: str, beside: str, seed: int
) -> dict[str, Interval]:
    """Mean and interval over photos of every metric of prediction `name`.

    rows: the scores of each photo by prediction. truth: each photo's own colourfulness. Besides the metrics there are
    `db_over_gray`, PSNR over that of the prediction `beside`, paired by photo, and `colourfulness_share` of the true one.
    """
    metrics = [*METRICS, *([LPIPS] if all(row[name].lpips is not None for row in rows) else [])]
    values = np.array([[getattr(row[name], metric) for metric in metrics] for row in rows], np.float64)
    over_gray = np.array([[row[name].psnr - row[beside].psnr] for row in rows])
    intervals = bootstrap_means(np.hstack([values, over_gray]), seed)
    share = bootstrap_ratio(values[:, METRICS.index("colourfulness")], np.array(truth), seed)
    return dict(zip((*metrics, "db_over_gray"), intervals, strict=True)) | {"colourfulness_share": share}


def _interleaved(lightness: npt.NDArray[np.float32], ab: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.dstack((lightness, ab[0], ab[1]))
