"""Scores that nobody can fool: beside no colour and each photo's own mean colour, with intervals, the protocol in words.

Keeping L makes most numbers look good by themselves: SSIM above 0.9 is reached by adding no colour at all, 30 dB by a sepia
tint where PSNR is taken over ab. So every score stands beside what the two do-nothing predictions get on the same photos,
and the curve over a global gain tells a network that knows colours from one that merely adds few.

Needs neither torch nor an engine: it takes a function, or a Colorizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from icf_deploy.errors import UsageError, WorkError
from icf_deploy.imaging.color import lab_of_pixels
from icf_deploy.quality.metrics import ciede2000, colourfulness, psnr, ssim
from icf_deploy.training.intervals import Interval, bootstrap_means, bootstrap_ratio
from icf_deploy.training.protocols import EvaluationPhoto, Predict, Prepared, prepare, protocol_in_words

if TYPE_CHECKING:
    from icf_deploy.colorizer import Colorizer

CODE_PEAK = 255.0  # of RGB codes, and of ab, whose 8-bit form it is; the literature also takes 220 or 256 for ab
CURVE_GAINS = (0.0, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5)
METRICS = ("psnr", "ssim", "psnr_ab", "ciede2000", "colourfulness")
NO_COLOUR, MEAN_COLOUR, PREDICTION = "no colour", "own mean colour", "prediction"
LARGEST_PSNR = 100.0  # dB; stands for infinity (an exact match), so that means stay finite

ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Scores:
    """Scores of one picture of one photo: PSNR and ab-PSNR in dB, SSIM, mean CIEDE2000, colourfulness."""

    psnr: float
    ssim: float
    psnr_ab: float
    ciede2000: float
    colourfulness: float


@dataclass(frozen=True)
class PhotoRow:
    """One photo: the scores of each prediction by name, the photo's own colourfulness, and (PSNR, colourfulness) per gain."""

    name: str
    scores: dict[str, Scores]
    true_colourfulness: float
    curve: tuple[tuple[float, float], ...]

    @property
    def db_over_gray(self) -> float:
        """RGB PSNR of the prediction over that of no colour, in dB."""
        return self.scores[PREDICTION].psnr - self.scores[NO_COLOUR].psnr


@dataclass(frozen=True)
class CurvePoint:
    """One point of the curve: a gain on the predicted chroma, dB over no colour, and share of the true colourfulness."""

    gain: float
    psnr: float
    db_over_gray: float
    colourfulness: float


@dataclass(frozen=True)
class Evaluation:
    """Means over photos with 95 % bootstrap intervals; `summary[prediction][metric]`, and the rows that they come from."""

    protocol: str
    gain: float
    summary: dict[str, dict[str, Interval]]
    true_colourfulness: Interval
    curve: tuple[CurvePoint, ...]
    photos: tuple[PhotoRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; photos from best to worst by dB over no colour."""
        ranked = [asdict(row) | {"db_over_gray": row.db_over_gray} for row in self.ranked()]
        return asdict(self) | {"photos": ranked}

    def ranked(self) -> tuple[PhotoRow, ...]:
        """Return the photos from best to worst by dB over no colour."""
        return tuple(sorted(self.photos, key=lambda row: row.db_over_gray, reverse=True))

    def db_at(self, share: float) -> float | None:
        """Read dB over no colour off the curve at a share of the true colourfulness; None where the curve ends before it."""
        return _read_off(self.curve, share, lambda point: point.db_over_gray)

    def gain_at(self, share: float) -> float | None:
        """Read off the gain that gives a share of the true colourfulness; None where the curve ends before it."""
        return _read_off(self.curve, share, lambda point: point.gain)


def evaluate(
    predict: Predict | Colorizer,
    photos: Iterable[EvaluationPhoto],
    *,
    size: tuple[int, int] | None = None,
    stride: int | None = None,
    protocol: str = "256",
    gain: float = 1.0,
    gains: Sequence[float] = CURVE_GAINS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Score predictions on colour photos, whose L is all that the network sees.

    predict: gray float32 [N,1,H,W] in 0..1 -> ab float32 [N,2,H/stride,W/stride] in CIELAB units, or a Colorizer, which
    states its own size and stride. protocol: "256" or "full" (icf_deploy.training.protocols). gain: factor on the predicted
    chroma for the table; gains: those of the curve. progress is called with each photo's name.
    Raises UsageError for an unknown protocol or a missing size, WorkError without photos.
    """
    run, size, stride = resolve(predict, size, stride)
    words = protocol_in_words(protocol, size)
    rows = []
    for photo in photos:
        rows.append(_score(prepare(photo, run, size, stride, protocol), gain, gains))
        if progress:
            progress(photo.name)
    if not rows:
        raise WorkError("no photos to evaluate on; name a folder of colour photos with --photos")
    summary = {name: _summary(rows, name, seed) for name in (PREDICTION, NO_COLOUR, MEAN_COLOUR)}
    truth = bootstrap_means(np.array([[row.true_colourfulness] for row in rows]), seed)[0]
    text = (
        f"{len(rows)} photos; {words}; PSNR over 8-bit RGB with peak 255; ab-PSNR over the ab of that RGB with peak "
        f"{CODE_PEAK:.0f}; SSIM per RGB channel, Gaussian 11x11, sigma 1.5; CIEDE2000 as mean over pixels; colourfulness by "
        f"Hasler and Suesstrunk, signed; means over photos; 95 % bootstrap intervals over photos, seed {seed}"
    )
    return Evaluation(text, gain, summary, truth, _curve(rows, gains), tuple(rows))


def resolve(
    predict: Predict | Colorizer, size: tuple[int, int] | None, stride: int | None
) -> tuple[Predict, tuple[int, int], int]:
    """Return the function behind `predict`, and the size and stride that it or the caller states; else UsageError."""
    run = getattr(predict, "predict_ab", predict)
    size, stride = size or getattr(predict, "size", None), stride or getattr(predict, "stride", None)
    if size is None or stride is None or not callable(run):
        raise UsageError("evaluate() needs a Colorizer, or a function with size=(H, W) and stride=")
    return run, size, stride


def _score(photo: Prepared, gain: float, gains: Sequence[float]) -> PhotoRow:
    mean_colour = np.broadcast_to(photo.ab.mean(axis=(1, 2), keepdims=True), photo.ab.shape).astype(np.float32)
    pictures = {
        PREDICTION: photo.picture(gain),
        NO_COLOUR: photo.picture(0.0),
        MEAN_COLOUR: photo.picture_of(mean_colour),
    }
    curve = []
    for factor in gains:
        picture = pictures[PREDICTION] if factor == gain else photo.picture(factor)
        curve.append((_psnr(picture, photo.rgb), colourfulness(picture)))
    scores = {name: _scores(picture, photo) for name, picture in pictures.items()}
    return PhotoRow(photo.name, scores, colourfulness(photo.rgb), tuple(curve))


def _scores(picture: ByteArray, photo: Prepared) -> Scores:
    lightness, ab = lab_of_pixels(picture)
    difference = ciede2000(_interleaved(lightness, ab), _interleaved(photo.lightness, photo.ab))
    return Scores(
        psnr=_psnr(picture, photo.rgb),
        ssim=ssim(picture, photo.rgb, data_range=CODE_PEAK),
        psnr_ab=min(LARGEST_PSNR, psnr(ab, photo.ab, peak=CODE_PEAK)),
        ciede2000=float(difference.mean()),
        colourfulness=colourfulness(picture),
    )


def _interleaved(lightness: npt.NDArray[np.float32], ab: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.dstack((lightness, ab[0], ab[1]))


def _psnr(picture: ByteArray, rgb: ByteArray) -> float:
    return min(LARGEST_PSNR, psnr(picture, rgb, peak=CODE_PEAK))


def _summary(rows: Sequence[PhotoRow], name: str, seed: int) -> dict[str, Interval]:
    """Means of every metric, of dB over no colour (paired by photo), and of the colourfulness as a share of the true one."""
    values = np.array([[getattr(row.scores[name], metric) for metric in METRICS] for row in rows])
    over_gray = np.array([[row.scores[name].psnr - row.scores[NO_COLOUR].psnr] for row in rows])
    intervals = bootstrap_means(np.hstack([values, over_gray]), seed)
    truth = np.array([row.true_colourfulness for row in rows])
    share = bootstrap_ratio(values[:, METRICS.index("colourfulness")], truth, seed)
    return dict(zip((*METRICS, "db_over_gray"), intervals, strict=True)) | {"colourfulness_share": share}


def _curve(rows: Sequence[PhotoRow], gains: Sequence[float]) -> tuple[CurvePoint, ...]:
    gray = float(np.mean([row.scores[NO_COLOUR].psnr for row in rows]))
    truth = float(np.mean([row.true_colourfulness for row in rows]))
    points = np.array([row.curve for row in rows]).reshape(len(rows), len(gains), 2).mean(axis=0)
    return tuple(
        CurvePoint(float(gain), float(db), float(db) - gray, float(colour) / truth if truth else math.nan)
        for gain, (db, colour) in zip(gains, points, strict=True)
    )


def _read_off(curve: Sequence[CurvePoint], share: float, value: Callable[[CurvePoint], float]) -> float | None:
    ordered = sorted(curve, key=lambda point: point.gain)
    for before, after in pairwise(ordered):
        if before.colourfulness <= share <= after.colourfulness:
            width = after.colourfulness - before.colourfulness
            part = (share - before.colourfulness) / width if width else 0.0
            return value(before) + part * (value(after) - value(before))
    return None
