"""Scores that nobody can fool: beside no colour and each photo's own mean colour, with intervals, the protocol in words.

Keeping L makes most numbers look good by themselves: SSIM above 0.9 is reached by adding no colour at all, 30 dB by a sepia
tint where PSNR is taken over ab. So every score stands beside what the two do-nothing predictions get on the same photos,
and the curve over a global gain tells a network that knows colours from one that merely adds few.

Needs neither torch nor an engine: it takes a function, or a Colorizer.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from icf_deploy.errors import UsageError, WorkError
from icf_deploy.imaging.color import lab_of_pixels
from icf_deploy.quality.metrics import colourfulness
from icf_deploy.training.definitions import by_definition
from icf_deploy.training.intervals import Interval, bootstrap_means
from icf_deploy.training.perceptual import Distance
from icf_deploy.training.protocols import Candidate, EvaluationPhoto, Predict, Prepared, at_scored_size, protocol_in_words
from icf_deploy.training.scores import LPIPS_IN_WORDS, METRICS_IN_WORDS, Scores, rgb_psnr, scores_of, summarised

if TYPE_CHECKING:
    from icf_deploy.colorizer import Colorizer

CURVE_GAINS = (0.0, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5)
NO_COLOUR, MEAN_COLOUR, PREDICTION = "no colour", "own mean colour", "prediction"
HALF_COLOUR = "half the true colour"  # only under `definitions`: what a network of perfect hue and little courage gets

ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PhotoRow:
    """One photo: the scores of each prediction by name, and the photo's own colourfulness.

    curves: (PSNR, colourfulness) per gain, of each prediction that is computed; seconds: from gray to ab, of the same.
    definitions: PSNR and SSIM by definition, per prediction.
    """

    name: str
    scores: dict[str, Scores]
    true_colourfulness: float
    curves: dict[str, tuple[tuple[float, float], ...]]
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    definitions: dict[str, dict[str, float]] = field(default_factory=dict)

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
    """Means over photos with 95 % bootstrap intervals; `summary[prediction][metric]`, and the rows that they come from.

    curves: of each prediction that is computed. seconds: median from gray to ab of a photo, of the same; it differs from run
    to run.
    definitions: means by prediction and definition of PSNR and SSIM, where they were asked for.
    """

    protocol: str
    gain: float
    summary: dict[str, dict[str, Interval]]
    true_colourfulness: Interval
    curves: dict[str, tuple[CurvePoint, ...]]
    photos: tuple[PhotoRow, ...]
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    definitions: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def curve(self) -> tuple[CurvePoint, ...]:
        """The curve of the prediction."""
        return self.curves[PREDICTION]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; photos from best to worst by dB over no colour."""
        ranked = [asdict(row) | {"db_over_gray": row.db_over_gray} for row in self.ranked()]
        return asdict(self) | {"photos": ranked}

    def ranked(self) -> tuple[PhotoRow, ...]:
        """Return the photos from best to worst by dB over no colour."""
        return tuple(sorted(self.photos, key=lambda row: row.db_over_gray, reverse=True))

    def db_at(self, share: float, name: str = PREDICTION) -> float | None:
        """Read dB over no colour off a curve at a share of the true colourfulness; None where the curve ends before it."""
        return _read_off(self.curves[name], share, lambda point: point.db_over_gray)

    def gain_at(self, share: float, name: str = PREDICTION) -> float | None:
        """Read off the gain that gives a share of the true colourfulness; None where the curve ends before it."""
        return _read_off(self.curves[name], share, lambda point: point.gain)


@dataclass(frozen=True)
class _Terms:
    """How every photo is scored."""

    candidates: Mapping[str, Candidate]  # PREDICTION first
    protocol: str
    gain: float
    gains: Sequence[float]
    distance: Distance | None
    definitions: bool


def evaluate(
    predict: Predict | Colorizer,
    photos: Iterable[EvaluationPhoto],
    *,
    size: tuple[int, int] | None = None,
    stride: int | None = None,
    beside: Mapping[str, Candidate] | None = None,
    protocol: str = "256",
    gain: float = 1.0,
    gains: Sequence[float] = CURVE_GAINS,
    distance: Distance | None = None,
    definitions: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Score predictions on colour photos, whose L is all that the network sees.

    predict: gray float32 [N,1,H,W] in 0..1 -> ab float32 [N,2,H/stride,W/stride] in CIELAB units, or a Colorizer, which
    states its own size and stride. beside: other predictions that get a row in the table, by name. protocol: "256" or "full"
    (icf_deploy.training.protocols), at the size of `predict`. gain: factor on the predicted chroma for the table; gains:
    those of the curve. distance: LPIPS, where it is installed (icf_deploy.training.perceptual). definitions: also score under
    the other definitions of PSNR and SSIM. progress is called with each photo's name.
    Raises UsageError for an unknown protocol or a missing size, WorkError without photos.
    """
    first = resolve(predict, size, stride)
    words = protocol_in_words(protocol, first.size)
    beside = dict(beside or {})
    if taken := beside.keys() & {PREDICTION, NO_COLOUR, MEAN_COLOUR, HALF_COLOUR}:
        raise UsageError(f"{sorted(taken)[0]!r} is the name of another row: give that prediction another name")
    terms = _Terms({PREDICTION: first, **beside}, protocol, gain, gains, distance, definitions)
    rows = []
    for photo in photos:
        rows.append(_score(photo, terms))
        if progress:
            progress(photo.name)
    if not rows:
        raise WorkError("no photos to evaluate on; name a folder of colour photos with --photos")
    scores = [row.scores for row in rows]
    truth = [row.true_colourfulness for row in rows]
    text = (
        f"{len(rows)} photos; {words}; {METRICS_IN_WORDS}{'; ' + LPIPS_IN_WORDS if distance else ''}; "
        f"means over photos; 95 % bootstrap intervals over photos, seed {seed}"
    )
    return Evaluation(
        protocol=text,
        gain=gain,
        summary={name: summarised(scores, truth, name, NO_COLOUR, seed) for name in scores[0]},
        true_colourfulness=bootstrap_means(np.array(truth)[:, None], seed)[0],
        curves={name: _curve(rows, name, gains) for name in terms.candidates},
        photos=tuple(rows),
        seconds={name: statistics.median(row.seconds[name] for row in rows) for name in terms.candidates},
        definitions=_mean_definitions(rows),
    )


def resolve(predict: Predict | Colorizer, size: tuple[int, int] | None, stride: int | None) -> Candidate:
    """Return the function behind `predict` with the size and stride that it or the caller states; else UsageError."""
    run = getattr(predict, "predict_ab", predict)
    size, stride = size or getattr(predict, "size", None), stride or getattr(predict, "stride", None)
    if size is None or stride is None or not callable(run):
        raise UsageError("evaluate() needs a Colorizer, or a function with size=(H, W) and stride=")
    return Candidate(run, size, stride)


def _score(photo: EvaluationPhoto, terms: _Terms) -> PhotoRow:
    rgb = at_scored_size(photo.rgb, terms.candidates[PREDICTION].size, terms.protocol)
    lightness, ab = lab_of_pixels(rgb)
    seconds: dict[str, float] = {}
    fields = {}
    for name, candidate in terms.candidates.items():
        start = time.perf_counter()
        fields[name] = candidate.colours(lightness)
        seconds[name] = time.perf_counter() - start
    ready = Prepared(photo.name, rgb, lightness, ab, fields[PREDICTION])
    mean_colour = np.broadcast_to(ab.mean(axis=(1, 2), keepdims=True), ab.shape).astype(np.float32)
    pictures = {PREDICTION: ready.picture(terms.gain)}
    pictures |= {name: ready.picture_of(fields[name]) for name in fields if name != PREDICTION}
    pictures |= {NO_COLOUR: ready.picture(0.0), MEAN_COLOUR: ready.picture_of(mean_colour)}
    curves = {}
    for name, predicted in fields.items():
        drawn = [ready.picture_of(predicted * np.float32(factor)) for factor in terms.gains]
        curves[name] = tuple((rgb_psnr(picture, rgb), colourfulness(picture)) for picture in drawn)
    definitions = {}
    if terms.definitions:
        compared = pictures | {HALF_COLOUR: ready.picture_of(ab * np.float32(0.5))}
        definitions = {name: by_definition(picture, rgb) for name, picture in compared.items()}
    return PhotoRow(
        photo.name,
        {name: scores_of(picture, ready, terms.distance) for name, picture in pictures.items()},
        colourfulness(rgb),
        curves,
        seconds,
        definitions,
    )


def _curve(rows: Sequence[PhotoRow], name: str, gains: Sequence[float]) -> tuple[CurvePoint, ...]:
    gray = float(np.mean([row.scores[NO_COLOUR].psnr for row in rows]))
    truth = float(np.mean([row.true_colourfulness for row in rows]))
    points = np.array([row.curves[name] for row in rows]).reshape(len(rows), len(gains), 2).mean(axis=0)
    return tuple(
        CurvePoint(float(gain), float(db), float(db) - gray, float(colour) / truth if truth else math.nan)
        for gain, (db, colour) in zip(gains, points, strict=True)
    )


def _mean_definitions(rows: Sequence[PhotoRow]) -> dict[str, dict[str, float]]:
    return {
        name: {definition: statistics.fmean(row.definitions[name][definition] for row in rows) for definition in scores}
        for name, scores in rows[0].definitions.items()
    }


def _read_off(curve: Sequence[CurvePoint], share: float, value: Callable[[CurvePoint], float]) -> float | None:
    ordered = sorted(curve, key=lambda point: point.gain)
    for before, after in pairwise(ordered):
        if before.colourfulness <= share <= after.colourfulness:
            width = after.colourfulness - before.colourfulness
            part = (share - before.colourfulness) / width if width else 0.0
            return value(before) + part * (value(after) - value(before))
    return None
