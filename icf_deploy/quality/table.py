"""The drift table: one row per photo, and the metrics that a budget can name."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from icf_deploy.bundle.fields import Json

VISIBLE = 2.3  # CIEDE2000 from which a difference counts as visible in `visible_share`
AB_PEAK = 255.0  # CIELAB units; the span of 8-bit a and b, the peak that most papers take
PSNR_CEILING = 100.0  # dB; what equal pictures count as, so that a mean over photos stays a number

# How photos are put together: suffix of the name, aggregate, words.
_AGGREGATES: tuple[tuple[str, Literal["mean", "worst"], str], ...] = (
    ("", "mean", "mean over photos"),
    ("_worst", "worst", "of the worst photo"),
)


@dataclass(frozen=True)
class Metric:
    """What a name of the budget grammar means. `column`: the field of DriftRow; `over`: how photos are put together."""

    column: str
    over: Literal["mean", "worst"]
    better: Literal["lower", "higher"]
    meaning: str

    @property
    def operator(self) -> str:
        """The comparison that a budget makes."""
        return "<=" if self.better == "lower" else ">="


# Every column of a row: direction, and meaning for one photo, between engine and reference at the resolution of ab.
_COLUMNS: dict[str, tuple[Literal["lower", "higher"], str]] = {
    "de2000_mean": ("lower", "CIEDE2000 in float Lab before gamut mapping, with the photo's own L: mean over pixels"),
    "de2000_p95": ("lower", "CIEDE2000 as above: 95th percentile (nearest rank) over pixels"),
    "visible_share": ("lower", f"share of pixels, 0 to 1, whose CIEDE2000 is above {VISIBLE}"),
    "dab_mean": ("lower", "distance in the ab plane, CIELAB units: mean over pixels"),
    "dab_max": ("lower", "distance in the ab plane, CIELAB units: largest of all pixels"),
    "ab_psnr": ("higher", f"PSNR of ab in dB with peak {AB_PEAK:g}, at most {PSNR_CEILING:g}"),
    "colourfulness_change": ("lower", "size of the change of Hasler-Suesstrunk colourfulness, on the RGB picture as shown"),
}
METRICS: dict[str, Metric] = {
    column + suffix: Metric(column, over, better, f"{meaning}; {text}")
    for column, (better, meaning) in _COLUMNS.items()
    for suffix, over, text in _AGGREGATES
}


@dataclass(frozen=True)
class DriftRow:
    """One photo. Columns as in METRICS; colourfulness of both pictures; problems in words.

    A pixel without a finite colour counts as infinitely far, so its photo is the worst one of every metric.
    """

    photo: str
    de2000_mean: float
    de2000_p95: float
    visible_share: float
    dab_mean: float
    dab_max: float
    ab_psnr: float
    colourfulness: float
    colourfulness_reference: float
    problems: tuple[str, ...] = ()

    @property
    def colourfulness_change(self) -> float:
        """Size of the change; infinite where the engine's picture has none."""
        change = abs(self.colourfulness - self.colourfulness_reference)
        return change if math.isfinite(change) else math.inf


@dataclass(frozen=True)
class DriftTable:
    """Drift of one engine over a set of photos (at least one)."""

    rows: tuple[DriftRow, ...]

    def value(self, metric: str) -> float:
        """The value of a name of METRICS: mean over photos, or the worst photo's."""
        if METRICS[metric].over == "worst":
            return self.worst(metric)[1]
        values = [self._of(row, metric) for row in self.rows]
        return sum(values) / len(values)

    def worst(self, metric: str) -> tuple[str, float]:
        """The photo that is worst in a metric, and its value there."""
        choose = max if METRICS[metric].better == "lower" else min
        row = choose(self.rows, key=lambda row: self._of(row, metric))
        return row.photo, self._of(row, metric)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong beyond any number: NaN, infinity, lost colour; each with its photo."""
        return tuple(f"{row.photo}: {problem}" for row in self.rows for problem in row.problems)

    def to_json(self) -> dict[str, Json]:
        """`metrics` by name, `photos` row by row, `problems`; null stands for a number that is not finite."""
        photos: list[Json] = [
            {name: _json(value) for name, value in (asdict(row) | {"colourfulness_change": row.colourfulness_change}).items()}
            for row in self.rows
        ]
        return {
            "metrics": {name: _json(self.value(name)) for name in METRICS},
            "photos": photos,
            "problems": list(self.problems),
        }

    @staticmethod
    def _of(row: DriftRow, metric: str) -> float:
        return float(getattr(row, METRICS[metric].column))


def _json(value: object) -> Json:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return list(value) if isinstance(value, tuple) else str(value)
