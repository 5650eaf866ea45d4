"""The table under corruption: the network gets a corrupted gray, and the truth stays what it was.

What is scored. A user who hands in an underexposed photo gets it back underexposed, in colours: L is that of the corrupted
photo. So the picture is the corrupted L with the predicted ab, and it is compared with the corrupted L with the photo's true ab
(colours that this L cannot show lose chroma on both sides). L cancels, as in the ordinary table, and what is left is the damage
to the colours. Where a card covers the photo, the truth is the card's gray. Beside that stand

- `psnr_clean`: the same picture against the undamaged photo, which the damage to L dominates,
- `shift`: the mean CIEDE2000, at equal L, between the ab predicted for the corrupted and for the undamaged photo: 0 is perfect
  steadiness, and needs no truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from icf_deploy.errors import WorkError
from icf_deploy.imaging.color import gray_of_l, l_of_pixels, lab_of_pixels
from icf_deploy.imaging.merge import merge
from icf_deploy.quality.metrics import ciede2000, colourfulness
from icf_deploy.training.corruptions import KINDS, PEAK, SEVERITIES, corrupt
from icf_deploy.training.evaluate import NO_COLOUR, PREDICTION, resolve
from icf_deploy.training.intervals import Interval, bootstrap_means
from icf_deploy.training.protocols import (
    Candidate,
    EvaluationPhoto,
    FloatArray,
    Predict,
    Prepared,
    at_scored_size,
    protocol_in_words,
)
from icf_deploy.training.scores import METRICS_IN_WORDS, Scores, rgb_psnr, scores_of, summarised

if TYPE_CHECKING:
    from icf_deploy.colorizer import Colorizer

CLEAN = "undamaged"
CONDITIONS = ((CLEAN, 0), *((kind, severity) for kind in KINDS for severity in range(len(SEVERITIES))))

ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Condition:
    """One corruption at one severity: means over photos with intervals, of the prediction and of no colour.

    Beside the metrics of the ordinary table the summaries have psnr_clean, in dB; the prediction's has shift, too.
    """

    kind: str
    severity: str
    summary: dict[str, dict[str, Interval]]

    @property
    def label(self) -> str:
        """The kind and how bad it is."""
        return self.kind if self.kind == CLEAN else f"{self.kind}, {self.severity}"


@dataclass(frozen=True)
class Robustness:
    """Every condition, the undamaged photo first."""

    protocol: str
    gain: float
    conditions: tuple[Condition, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Row:
    scores: dict[str, Scores]
    true_colourfulness: float
    psnr_clean: dict[str, float]
    shift: float


def evaluate_robustness(
    predict: Predict | Colorizer,
    photos: Iterable[EvaluationPhoto],
    *,
    size: tuple[int, int] | None = None,
    stride: int | None = None,
    protocol: str = "256",
    gain: float = 1.0,
    conditions: Sequence[tuple[str, int]] = CONDITIONS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Robustness:
    """Score a prediction on every photo under every condition. Arguments and errors are those of evaluate().

    conditions: (kind of corruptions.KINDS or CLEAN, index of SEVERITIES).
    """
    candidate = resolve(predict, size, stride)
    words = protocol_in_words(protocol, candidate.size)
    rows: dict[tuple[str, int], list[_Row]] = {condition: [] for condition in conditions}
    count = 0
    for photo in photos:
        for condition, row in _rows(photo, candidate, protocol, gain, conditions):
            rows[condition].append(row)
        count += 1
        if progress:
            progress(photo.name)
    if not count:
        raise WorkError("no photos to evaluate on; name a folder of colour photos with --photos")
    text = (
        f"{count} photos; {words}; the network sees the corrupted gray; its ab and the true ab are compared on the corrupted "
        f"L; {METRICS_IN_WORDS}; PSNR to the undamaged photo beside it; shift: mean CIEDE2000 at equal L from the ab predicted "
        f"for the undamaged photo; means over photos; 95 % bootstrap intervals over photos, seed {seed}"
    )
    return Robustness(text, gain, tuple(_condition(kind, severity, found, seed) for (kind, severity), found in rows.items()))


def _rows(
    photo: EvaluationPhoto, candidate: Candidate, protocol: str, gain: float, conditions: Sequence[tuple[str, int]]
) -> Iterable[tuple[tuple[str, int], _Row]]:
    rgb = at_scored_size(photo.rgb, candidate.size, protocol)
    lightness, ab = lab_of_pixels(rgb)
    gray = np.rint(gray_of_l(lightness) * PEAK).astype(np.uint8)
    steady = candidate.colours(lightness)
    for kind, severity in conditions:
        if kind == CLEAN:
            ready = Prepared(photo.name, rgb, lightness, ab, steady)
        else:
            found = corrupt(gray, kind, severity, photo.name)
            seen = l_of_pixels(found.gray)
            truth = merge(seen, np.where(found.covered, np.float32(0), ab))
            ready = Prepared(photo.name, truth, seen, lab_of_pixels(truth)[1], candidate.colours(seen))
        pictures = {PREDICTION: ready.picture(gain), NO_COLOUR: ready.picture(0.0)}
        row = _Row(
            {name: scores_of(picture, ready) for name, picture in pictures.items()},
            colourfulness(ready.rgb),
            {name: rgb_psnr(picture, rgb) for name, picture in pictures.items()},
            shift_of(ready.predicted * np.float32(gain), steady * np.float32(gain)),
        )
        yield (kind, severity), row


def shift_of(ab: FloatArray, steady: FloatArray) -> float:
    """Mean CIEDE2000 between two fields of ab [2,h,w] at equal L, whose value does not matter."""
    first, second = (np.dstack((np.zeros(field.shape[1:], np.float32), field[0], field[1])) for field in (ab, steady))
    return float(ciede2000(first, second).mean())


def _condition(kind: str, severity: int, rows: Sequence[_Row], seed: int) -> Condition:
    scores = [row.scores for row in rows]
    truth = [row.true_colourfulness for row in rows]
    summary = {name: summarised(scores, truth, name, NO_COLOUR, seed) for name in (PREDICTION, NO_COLOUR)}
    values = np.array([[row.psnr_clean[PREDICTION], row.psnr_clean[NO_COLOUR], row.shift] for row in rows])
    prediction, no_colour, shift = bootstrap_means(values, seed)
    summary[PREDICTION] |= {"psnr_clean": prediction, "shift": shift}
    summary[NO_COLOUR] |= {"psnr_clean": no_colour}
    return Condition(kind, SEVERITIES[severity] if kind != CLEAN else "", summary)
