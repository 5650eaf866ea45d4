"""Measurements as plain values and as plain text. JSON schemas carry their version in `schema`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from icf_deploy.benchmarks.columns import aligned
from icf_deploy.benchmarks.memory import MEGABYTE
from icf_deploy.benchmarks.stats import Interval, Percentile, coefficient_of_variation, median_absolute_deviation

if TYPE_CHECKING:
    from icf_deploy.benchmarks.measured import Measured
    from icf_deploy.benchmarks.paired import Comparison
    from icf_deploy.benchmarks.ratio import PairedRatio

COMPARISON_SCHEMA = "icf-comparison 1"
NS_PER_MS = 1_000_000


def milliseconds(value: float | None) -> str:
    """Nanoseconds as milliseconds, with three significant digits or two decimals, whichever is less; `-` for None."""
    if value is None:
        return "-"
    return three_digits(value / NS_PER_MS)


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
        "turns": [
            {"round": turn.round, "process": turn.process, "ns": turn.samples.tolist(), "joules": asdict(turn.joules)}
            for turn in row.turns
        ],
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
    load = seconds_text(row.median_start("load_s"))
    shown = ("1", "-", "baseline", "-") if label == found.baseline else ("-", "-", "failed" if row.error else "-", "-")
    if ratio is not None:
        shown = (
            f"{ratio.ratio:.3f}",
            f"{ratio.low:.3f} .. {ratio.high:.3f}",
            ratio.verdict,
            f"{ratio.smallest_effect:.1%}",
        )
    return label, milliseconds(median.value), interval_text(median.interval), *shown, load, megabytes(running_memory(row))


def seconds_text(value: float | None) -> str:
    """Seconds with two decimals; `-` for None."""
    return "-" if value is None else f"{value:.2f}"


def three_digits(value: float) -> str:
    """Three significant digits or two decimals, whichever is less."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004
