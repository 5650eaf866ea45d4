"""Measurements as plain values and as plain text. JSON schemas carry their version in `schema`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from icf_deploy.benchmarks.clock import NS
from icf_deploy.benchmarks.columns import aligned
from icf_deploy.benchmarks.memory import MEGABYTE
from icf_deploy.benchmarks.stats import Interval, Percentile, coefficient_of_variation, median_absolute_deviation

if TYPE_CHECKING:
    from icf_deploy.benchmarks.bench import BenchResult, BenchRow
    from icf_deploy.benchmarks.paired import Comparison
    from icf_deploy.benchmarks.ratio import PairedRatio
    from icf_deploy.benchmarks.rounds import Measured

COMPARISON_SCHEMA = "icf-comparison 1"
NS_PER_MS = 1_000_000
SHOWN_DIGITS = 12  # of a digest


def milliseconds(value: float | None) -> str:
    """Nanoseconds as milliseconds, with three significant digits or two decimals, whichever is less; `-` for None."""
    if value is None:
        return "-"
    return _three_digits(value / NS_PER_MS)


def interval_text(interval: Interval | None) -> str:
    """`12.1 .. 12.4` in milliseconds."""
    if interval is None or interval == Interval(None, None):
        return "-"
    return f"{milliseconds(interval.low)} .. {milliseconds(interval.high)}"


def megabytes(value: int | None) -> str:
    """Bytes as megabytes; `-` for None."""
    return "-" if value is None else f"{value / MEGABYTE:.0f}"


def running_memory(row: Measured) -> int | None:
    """Bytes that running needs beyond what loading took; None where the system does not say."""
    if row.start is None or row.start.memory_loaded is None or row.memory_peak_running is None:
        return None
    return max(0, row.memory_peak_running - row.start.memory_loaded)


def peak_memory(row: Measured) -> int | None:
    """Bytes at the peak of the whole process, loading included."""
    peaks = [row.start.memory_peak_loading if row.start is not None else None, row.memory_peak_running]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if known else None


def percentile_json(found: Percentile) -> dict[str, Any]:
    """A percentile in nanoseconds with both intervals; `why_not` says what is missing."""
    return {**asdict(found), "why_not": found.why_not() or None}


def measured_json(row: Measured, percents: Sequence[float]) -> dict[str, Any]:
    """One row: what was measured, all raw samples, and its summary."""
    samples = row.samples
    return {
        "candidate": row.candidate.to_json(),
        "error": None if row.error is None else {"kind": type(row.error).__name__, "message": str(row.error)},
        "starts": [asdict(start) for start in row.starts],
        "warm_up": None if row.warm_up is None else asdict(row.warm_up),
        "unstable": row.warm_up is not None and not row.warm_up.stable,
        "formats": None if row.formats is None else dict(row.formats),
        "memory_peak": peak_memory(row),
        "memory_running": running_memory(row),
        "idle_share": row.idle_share,
        "others_cores": row.others,
        "calls": len(samples),
        "percentiles_ns": [percentile_json(row.percentile(percent)) for percent in percents],
        "median_absolute_deviation_ns": median_absolute_deviation(samples) if len(samples) else None,
        "coefficient_of_variation": coefficient_of_variation(samples) if len(samples) else None,
        "turns": [{"round": turn.round, "process": turn.process, "ns": turn.samples.tolist()} for turn in row.turns],
    }


def ratio_json(ratio: PairedRatio | None) -> dict[str, Any] | None:
    """A ratio with its verdict."""
    return None if ratio is None else {**asdict(ratio), "verdict": ratio.verdict}


def comparison_json(found: Comparison) -> dict[str, Any]:
    """The whole comparison."""
    return {
        "schema": COMPARISON_SCHEMA,
        "created": found.created,
        "scope": found.scope,
        "baseline": found.baseline,
        "settings": found.settings,
        "machine": found.machine.to_json(),
        "interrupted": found.interrupted,
        "warnings": found.warnings(),
        "rows": [{**measured_json(row, (50,)), "ratio": ratio_json(found.ratio(row.candidate.label))} for row in found.rows],
    }


def comparison_table(found: Comparison) -> str:
    """One line per candidate, then what the ratio means and the warnings."""
    header = ("candidate", "p50 ms", "95 %", "ratio", "95 %", "verdict", "sees", "load s", "run MB")
    lines = [header, *(_comparison_line(found, row) for row in found.rows)]
    notes = [
        f"scope {found.scope}, {found.settings['rounds']} rounds in {found.settings['processes']} processes each; "
        f"ratio: latency over that of {found.baseline}, by round; "
        "sees: smallest difference that this run would have shown (power 80 %); run MB: memory beyond what loading took",
        *(f"warning: {line}" for line in found.warnings()),
        *(["interrupted: what was measured until then"] if found.interrupted else []),
    ]
    return aligned(lines) + "\n" + "\n".join(notes)


def _comparison_line(found: Comparison, row: Measured) -> tuple[str, ...]:
    label = row.candidate.label
    median, ratio = found.median(label), found.ratio(label)
    load = _seconds(row.median_start("load_s"))
    shown = ("1", "-", "baseline", "-") if label == found.baseline else ("-", "-", "failed" if row.error else "-", "-")
    if ratio is not None:
        shown = (
            f"{ratio.ratio:.3f}",
            f"{ratio.low:.3f} .. {ratio.high:.3f}",
            ratio.verdict,
            f"{ratio.smallest_effect:.1%}",
        )
    return label, milliseconds(median.value), interval_text(median.interval), *shown, load, megabytes(running_memory(row))


BENCH_HEADER = (
    "engine", "formats", "p50\nms", "95 %", "p90\nms", "photos/s\nper core", "peak\nMB", "load\ns", "first\nms", "drift\np95",
)  # fmt: skip


def bench_cells(found: BenchResult) -> list[tuple[str, ...]]:
    """The header, then one line of cells per engine, for whatever draws the table."""
    return [BENCH_HEADER, *(_bench_line(row, found.settings["batch"]) for row in found.rows)]


def bench_notes(found: BenchResult) -> list[str]:
    """What belongs under the table: what the figures are, how the engines compare, and the warnings."""
    settings = found.settings
    photo = "" if settings["photo_size"] is None else f", photos of {_photo_size(settings['photo_size'])}"
    threads = found.rows[0].threads if found.rows else 0
    notes = [
        f"scope {found.scope}{photo}; batch {settings['batch']}, {threads} thread{'s' if threads != 1 else ''}, "
        f"{settings['rounds']} shuffled rounds in {settings['processes']} processes each, "
        f"at least {settings['calls']} calls per engine",
        "drift: CIEDE2000 to the PyTorch reference, 95th percentile over pixels, mean over photos, of the very same file",
    ]
    artefacts = {row.sha256: row for row in found.rows if row.sha256 is not None}
    for digest, row in artefacts.items():
        names = ", ".join(other.engine for other in found.rows if other.sha256 == digest)
        notes.append(
            f"{names}: {(row.bytes or 0) / MEGABYTE:.1f} MB, recipe {row.recipe}, SHA-256 {str(digest)[:SHOWN_DIGITS]}..."
        )
    for row in found.rows[1:]:
        ratio = found.ratio(row)
        if ratio is not None:
            notes.append(
                f"{row.engine}: {ratio.ratio:.2f} ({ratio.low:.2f} .. {ratio.high:.2f}) times the latency of "
                f"{found.rows[0].engine}: {ratio.verdict} (would have seen {ratio.smallest_effect:.1%})"
            )
    for row in found.rows:
        if row.measured.error is None:
            percents = [row.percentile(percent) for percent in settings["percentiles"]]
            notes += [f"{row.engine}: {percent.why_not()}" for percent in percents if percent.why_not()]
    notes += [f"warning: {line}" for line in found.warnings()]
    return [*notes, "interrupted: this is what was measured until then"] if found.interrupted else notes


def _bench_line(row: BenchRow, batch: int) -> tuple[str, ...]:
    measured, middle, late = row.measured, row.percentile(50), row.percentile(90)
    rate, first = row.photos_per_second(batch), measured.median_start("first_call_s")
    return (
        row.engine,
        "failed" if measured.error is not None else formats_text(measured),
        milliseconds(middle.value) + ("*" if measured.warm_up is not None and not measured.warm_up.stable else ""),
        _half_width(middle),
        milliseconds(late.value),
        "-" if rate is None else _three_digits(rate / row.threads),
        megabytes(peak_memory(measured)),
        _seconds(measured.median_start("load_s")),
        "-" if first is None else milliseconds(first * NS),
        "-" if row.drift is None else _drift_text(row.drift.value("de2000_p95")),
    )


def formats_text(measured: Measured) -> str:
    """The number formats that were executed, the most frequent one first: `bf16+fp32`; `-` where nobody knows."""
    formats = measured.formats or {"-": 0}
    return "+".join(sorted(formats, key=lambda name: -formats[name]))


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _half_width(found: Percentile) -> str:
    """Half of the relative 95 % interval, `±2.1 %`."""
    if found.value is None or found.interval is None or found.interval.low is None or found.interval.high is None:
        return "-"
    share = (found.interval.high - found.interval.low) / 2 / found.value
    return f"±{share:.1%}" if share < 0.1 else f"±{share:.0%}"  # noqa: PLR2004 - two digits will do


def _drift_text(value: float) -> str:
    """CIEDE2000; what is below a hundredth cannot be seen by anyone."""
    return "inf" if not math.isfinite(value) else "<0.01" if value < 0.01 else f"{value:.2f}"  # noqa: PLR2004


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004


def _photo_size(sizes: Sequence[Sequence[int]]) -> str:
    """`1024x1024`, or how many sizes there are."""
    return "x".join(map(str, sizes[0])) if len(sizes) == 1 else f"{len(sizes)} sizes"
