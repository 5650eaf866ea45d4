"""Drift: how far the colours that an engine really gives are from the reference, before gamut mapping, at ab's resolution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icf_deploy.errors import ArtefactError
from icf_deploy.imaging.color import F_BLACK, F_PER_L, f_of_relative, light_of_srgb
from icf_deploy.imaging.merge import merge
from icf_deploy.quality.metrics import ciede2000, colourfulness, nearest_rank
from icf_deploy.quality.table import METRICS, VISIBLE, DriftRow, DriftTable
from icf_deploy.quality.truth import ab_psnr, ab_ssim, against_truth, lab_of, rgb_psnr, rgb_ssim

if TYPE_CHECKING:
    from icf_deploy.bundle.reference import ReferenceSet
    from icf_deploy.runtimes.base import Session

__all__ = ["METRICS", "DriftRow", "DriftTable", "drift", "measure_drift"]

FloatArray = npt.NDArray[np.float32]
Truth = Sequence[FloatArray | None]
"""Of every photo its own ab, float32 [2,h,w] in CIELAB units; None where it has none, as a gray photo."""

PERCENTILE = 0.95
AB_LIMIT = 1000.0  # CIELAB units; ten times beyond any colour, an engine that gives this gives none
# A photo's chroma is flat where its ab varies by less than this share of the reference's variation, in a photo whose
# reference varies visibly at all. Engines that lose a scale or a bias give such one-coloured pictures, or gray ones.
FLAT_SHARE = 0.02
FLAT_FLOOR = 0.5  # CIELAB units of standard deviation; a reference below it is nearly one colour itself


def measure_drift(session: Session, reference: ReferenceSet, truth: Truth | None = None) -> DriftTable:
    """Run `session` on every photo of the reference set, one at a time, and compare. ArtefactError where sizes differ.

    truth: as in `drift`.
    """
    size = reference.gray.shape[2:]
    if session.size != size:
        raise ArtefactError(
            f"this engine takes {list(session.size)} and the reference set is of {list(size)}: check the graph of that size"
        )
    ab = np.concatenate([session.run(reference.gray[i : i + 1]) for i in range(len(reference.names))])
    return drift(ab, reference.ab, reference.gray, reference.names, truth)


def drift(
    ab: FloatArray,
    ab_reference: FloatArray,
    gray: FloatArray,
    names: tuple[str, ...] | None = None,
    truth: Truth | None = None,
) -> DriftTable:
    """Compare ab with ab_reference, both float32 [N,2,h,w] in CIELAB units; gray: float32 [N,1,H,W], H a multiple of h.

    L is the photo's own on both sides, averaged over the area of each ab value. (CIEDE2000 of equal L is the same at any L,
    so it matters to what is taken from RGB pictures alone.) names: of the photos; their numbers where it is None. truth: the
    photos' own ab, averaged over the same areas; None where no photo's is known. ArtefactError where the shapes differ.
    """
    if ab.shape != ab_reference.shape:
        raise ArtefactError(f"this engine gives ab of {list(ab.shape)} and the reference is {list(ab_reference.shape)}")
    if any(side % grid for side, grid in zip(gray.shape[2:], ab.shape[2:], strict=True)):
        raise ArtefactError(f"ab of {list(ab.shape)} does not divide the gray of {list(gray.shape)} that it belongs to")
    names = names or tuple(str(number) for number in range(len(ab)))
    own = truth if truth is not None else (None,) * len(ab)
    return DriftTable(tuple(_row(*photo) for photo in zip(names, ab, ab_reference, gray, own, strict=True)))


def _row(photo: str, ab: FloatArray, ab_reference: FloatArray, gray: FloatArray, truth: FloatArray | None) -> DriftRow:
    """One photo. ab, ab_reference, truth: float32 [2,h,w]; gray: float32 [1,H,W]."""
    is_colour = np.logical_and(*(np.abs(ab) <= AB_LIMIT))  # false for NaN
    ab = np.where(is_colour, ab, np.float32(0))
    lightness = _on_grid(_lightness(gray[0]), ab.shape[1:])
    difference = ciede2000(lab_of(lightness, ab), lab_of(lightness, ab_reference))
    distance = np.hypot(*(ab - ab_reference))
    difference[~is_colour] = distance[~is_colour] = np.inf
    whole = bool(is_colour.all())
    picture, expected = merge(lightness, ab), merge(lightness, ab_reference)
    return DriftRow(
        photo=photo,
        de2000_mean=float(difference.mean(dtype=np.float64)),
        de2000_p95=nearest_rank(difference, PERCENTILE),
        visible_share=float((difference > VISIBLE).mean()),
        dab_mean=float(distance.mean(dtype=np.float64)),
        dab_max=float(distance.max()),
        ab_psnr=ab_psnr(ab, ab_reference) if whole else -math.inf,
        ab_ssim=ab_ssim(ab, ab_reference) if whole else -math.inf,
        rgb_psnr=rgb_psnr(picture, expected) if whole else -math.inf,
        rgb_ssim=rgb_ssim(picture, expected) if whole else -math.inf,
        colourfulness=colourfulness(picture) if whole else math.nan,
        colourfulness_reference=colourfulness(expected),
        problems=tuple(_problems(is_colour, ab, ab_reference)),
        truth=None if truth is None else against_truth(lightness, ab if whole else None, ab_reference, truth),
    )


def _problems(is_colour: npt.NDArray[np.bool_], ab: FloatArray, ab_reference: FloatArray) -> Iterator[str]:
    missing = int((~is_colour).sum())
    if missing:
        yield f"{missing} of {is_colour.size} pixels are NaN, infinite or beyond {AB_LIMIT:g}"
    elif _spread(ab_reference) > FLAT_FLOOR and _spread(ab) < FLAT_SHARE * _spread(ab_reference):
        yield f"ab is one flat colour (deviation {_spread(ab):.2g}), and the reference is not ({_spread(ab_reference):.2g})"


def _spread(ab: FloatArray) -> float:
    """Standard deviation of the colours of one photo, CIELAB units."""
    return math.sqrt(float(ab.var(axis=(1, 2), dtype=np.float64).sum()))


def _lightness(gray: FloatArray) -> FloatArray:
    """sRGB-encoded gray in 0..1 -> CIELAB L in 0..100, same shape: the inverse of `imaging.color.gray_of_l`."""
    fy = f_of_relative(light_of_srgb(gray.astype(np.float64)).astype(np.float32))
    lightness: FloatArray = (fy - np.float32(F_BLACK)) / np.float32(F_PER_L)
    return lightness


def _on_grid(lightness: FloatArray, size: tuple[int, ...]) -> FloatArray:
    """L [H,W], averaged over the area of each value of a grid [h,w] that divides it."""
    (height, width), (rows, columns) = lightness.shape, size
    blocks = lightness.reshape(rows, height // rows, columns, width // columns)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64), np.float32)
