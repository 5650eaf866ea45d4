"""The drift table: one row per photo, and the metrics that a budget can name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from icf_deploy.errors import UsageError

if TYPE_CHECKING:
    from icf_deploy.bundle.fields import Json

VISIBLE = 2.3  # CIEDE2000 from which a difference counts as visible in `visible_share`
AB_PEAK = 255.0  # CIELAB units; the span of 8-bit a and b, the peak that most papers take
CODE_PEAK = 255.0  # of 8-bit RGB
PSNR_CEILING = 100.0  # dB; what equal pictures count as, so that a mean over photos stays a number

Direction = Literal["lower", "higher"]
Yardstick = Literal["reference", "truth"]

# How photos are put together: suffix of the name, aggregate, words.
_AGGREGATES: tuple[tuple[str, Literal["mean", "worst"], str], ...] = (
    ("", "mean", "mean over photos"),
    ("_worst", "worst", "of the worst photo"),
)


@dataclass(frozen=True)
class Metric:
    """What a name of the budget grammar means. `column`: the field of the row; `over`: how photos are put together.

    against: with what the engine is compared: "reference", or "truth", the photo's own colours, which need colour photos.
    """

    column: str
    over: Literal["mean", "worst"]
    better: Direction
    meaning: str
    against: Yardstick = "reference"

    @property
    def operator(self) -> str:
        """The comparison that a budget makes."""
        return "<=" if self.better == "lower" else ">="


# Every column of a row: direction, and meaning for one photo, between engine and reference at the resolution of ab.
_REFERENCE: dict[str, tuple[Direction, str]] = {
    "de2000_mean": ("lower", "CIEDE2000 in float Lab before gamut mapping, with the photo's own L: mean over pixels"),
    "de2000_p95": ("lower", "CIEDE2000 as above: 95th percentile (nearest rank) over pixels"),
    "visible_share": ("lower", f"share of pixels, 0 to 1, whose CIEDE2000 is above {VISIBLE}"),
    "dab_mean": ("lower", "distance in the ab plane, CIELAB units: mean over pixels"),
    "dab_max": ("lower", "distance in the ab plane, CIELAB units: largest of all pixels"),
    "ab_psnr": ("higher", f"PSNR of ab in dB with peak {AB_PEAK:g}, at most {PSNR_CEILING:g}"),
    "ab_ssim": ("higher", f"SSIM of a and b, mean of both, data range {AB_PEAK:g}"),
    "rgb_psnr": ("higher", f"PSNR in dB of the 8-bit RGB pictures as shown, at most {PSNR_CEILING:g}"),
    "rgb_ssim": ("higher", f"SSIM of the 8-bit RGB pictures as shown, mean of the channels, data range {CODE_PEAK:g}"),
    "colourfulness": ("higher", "Hasler-Suesstrunk colourfulness of the engine's RGB picture as shown"),
    "colourfulness_change": ("lower", "size of the change of Hasler-Suesstrunk colourfulness, on the RGB picture as shown"),
}
# The same against the photo's own colours, which are averaged over the area of each value of ab.
_TRUTH: dict[str, tuple[Direction, str]] = {
    "ab_psnr_drop": ("lower", "true_ab_psnr of the reference less that of the engine, dB; below 0 the engine is nearer"),
    "ab_ssim_drop": ("lower", "true_ab_ssim of the reference less that of the engine"),
    "rgb_psnr_drop": ("lower", "true_rgb_psnr of the reference less that of the engine, dB"),
    "rgb_ssim_drop": ("lower", "true_rgb_ssim of the reference less that of the engine"),
    "true_ab_psnr": ("higher", "ab_psnr against the photo's own ab"),
    "true_ab_ssim": ("higher", "ab_ssim against the photo's own ab"),
    "true_rgb_psnr": ("higher", "rgb_psnr against the photo's own colours"),
    "true_rgb_ssim": ("higher", "rgb_ssim against the photo's own colours"),
    "true_de2000_mean": ("lower", "de2000_mean against the photo's own ab"),
    "true_colourfulness_change": ("lower", "colourfulness_change against the photo's own colours"),
}
_COLUMNS: tuple[tuple[Yardstick, dict[str, tuple[Direction, str]]], ...] = (("reference", _REFERENCE), ("truth", _TRUTH))
METRICS: dict[str, Metric] = {
    column + suffix: Metric(column, over, better, f"{meaning}; {text}", against)
    for against, columns in _COLUMNS
    for column, (better, meaning) in columns.items()
    for suffix, over, text in _AGGREGATES
}


@dataclass(frozen=True)
class Scores:
    """How near one picture is to the photo's own colours; columns as `true_*` in METRICS, and its colourfulness.

    Infinite on the bad side where an engine gave a pixel without a colour.
    """

    ab_psnr: float
    ab_ssim: float
    rgb_psnr: float
    rgb_ssim: float
    de2000_mean: float
    colourfulness: float


@dataclass(frozen=True)
class TruthRow:
    """One colour photo: what the engine and the reference score against its own colours, and how colourful it is."""

    engine: Scores
    reference: Scores
    colourfulness: float

    @property
    def colourfulness_change(self) -> float:
        """Size of the engine's difference; infinite where the engine's picture has no colourfulness."""
        return _or_infinite(abs(self.engine.colourfulness - self.colourfulness))


@dataclass(frozen=True)
class DriftRow:
    """One photo. Columns as in METRICS; colourfulness of both pictures; problems in words.

    A pixel without a finite colour counts as infinitely far, so its photo is the worst one of every metric. SSIM is not a
    number where ab has fewer than 11 values a side. truth: None where the photo's own colours are not known.
    """

    photo: str
    de2000_mean: float
    de2000_p95: float
    visible_share: float
    dab_mean: float
    dab_max: float
    ab_psnr: float
    ab_ssim: float
    rgb_psnr: float
    rgb_ssim: float
    colourfulness: float
    colourfulness_reference: float
    problems: tuple[str, ...] = ()
    truth: TruthRow | None = None

    @property
    def colourfulness_change(self) -> float:
        """Size of the change; infinite where the engine's picture has none."""
        return _or_infinite(abs(self.colourfulness - self.colourfulness_reference))


# How a column is read off a row whose truth is known.
_OF_TRUTH: dict[str, Callable[[TruthRow], float]] = {
    "ab_psnr_drop": lambda truth: truth.reference.ab_psnr - truth.engine.ab_psnr,
    "ab_ssim_drop": lambda truth: truth.reference.ab_ssim - truth.engine.ab_ssim,
    "rgb_psnr_drop": lambda truth: truth.reference.rgb_psnr - truth.engine.rgb_psnr,
    "rgb_ssim_drop": lambda truth: truth.reference.rgb_ssim - truth.engine.rgb_ssim,
    "true_ab_psnr": lambda truth: truth.engine.ab_psnr,
    "true_ab_ssim": lambda truth: truth.engine.ab_ssim,
    "true_rgb_psnr": lambda truth: truth.engine.rgb_psnr,
    "true_rgb_ssim": lambda truth: truth.engine.rgb_ssim,
    "true_de2000_mean": lambda truth: truth.engine.de2000_mean,
    "true_colourfulness_change": lambda truth: truth.colourfulness_change,
}


@dataclass(frozen=True)
class DriftTable:
    """Drift of one engine over a set of photos (at least one)."""

    rows: tuple[DriftRow, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of METRICS that these rows can answer: those against the truth need a photo whose colours are known."""
        return tuple(name for name, metric in METRICS.items() if self.truths or metric.against == "reference")

    def value(self, metric: str) -> float:
        """The value of a name of METRICS: mean over photos, or the worst photo's.

        A metric against the truth is taken over the photos whose colours are known; UsageError where there is none.
        """
        if METRICS[metric].over == "worst":
            return self.worst(metric)[1]
        values = [_of(row, metric) for row in self._rows_of(metric)]
        return sum(values) / len(values)

    def worst(self, metric: str) -> tuple[str, float]:
        """The photo that is worst in a metric, and its value there. UsageError as `value`."""
        choose = max if METRICS[metric].better == "lower" else min
        row = choose(self._rows_of(metric), key=lambda row: _of(row, metric))
        return row.photo, _of(row, metric)

    def ranked(self, metric: str) -> list[tuple[str, float]]:
        """Every photo with its value, the worst first. UsageError as `value`."""
        found = [(row.photo, _of(row, metric)) for row in self._rows_of(metric)]
        return sorted(found, key=lambda pair: pair[1], reverse=METRICS[metric].better == "lower")

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong beyond any number: NaN, infinity, lost colour; each with its photo."""
        return tuple(f"{row.photo}: {problem}" for row in self.rows for problem in row.problems)

    @property
    def truths(self) -> tuple[TruthRow, ...]:
        """Of the photos whose own colours are known."""
        return tuple(row.truth for row in self.rows if row.truth is not None)

    def to_json(self) -> dict[str, Json]:
        """`metrics` by name, `photos` row by row, `problems`; null stands for a number that is not finite."""
        photos: list[Json] = [
            {name: _json(value) for name, value in (asdict(row) | {"colourfulness_change": row.colourfulness_change}).items()}
            for row in self.rows
        ]
        return {
            "metrics": {name: _json(self.value(name)) for name in self.metrics},
            "photos": photos,
            "problems": list(self.problems),
        }

    def _rows_of(self, metric: str) -> list[DriftRow]:
        rows = [row for row in self.rows if row.truth is not None or METRICS[metric].against == "reference"]
        if not rows:
            raise UsageError(
                f"{metric} compares with the photos' own colours, and none are known: give a folder of colour photos with "
                "--photos"
            )
        return rows


def _of(row: DriftRow, metric: str) -> float:
    """The value of one photo; one that is not a number counts as the worst there is."""
    column = METRICS[metric].column
    if METRICS[metric].against == "reference":
        value = float(getattr(row, column))
    else:
        assert row.truth is not None  # `_rows_of` has chosen such rows
        value = _OF_TRUTH[column](row.truth)
    if not math.isnan(value):
        return value
    return math.inf if METRICS[metric].better == "lower" else -math.inf


def _or_infinite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _json(value: object) -> Json:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _json(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else None if value is None else str(value)
