"""The table of `bench` for a terminal, and what belongs under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from icf_deploy.benchmarks.clock import NS
from icf_deploy.benchmarks.cost import price_text
from icf_deploy.benchmarks.measured import percentile_of, ratio_of
from icf_deploy.benchmarks.memory import MEGABYTE
from icf_deploy.benchmarks.report import megabytes, milliseconds, peak_memory, seconds_text, three_digits
from icf_deploy.benchmarks.result_file import drift_text
from icf_deploy.benchmarks.text_plot import distribution_plot

if TYPE_CHECKING:
    from icf_deploy.benchmarks.bench_result import BenchResult, BenchRow
    from icf_deploy.benchmarks.cold_start import Spread
    from icf_deploy.benchmarks.measured import Measured
    from icf_deploy.benchmarks.stats import Percentile

SHOWN_DIGITS = 12  # of a digest
LOADGEN_PERCENTS = ("50", "90", "99")
NOTHING = "-"

Column = tuple[str, Callable[["BenchRow"], str]]


def bench_cells(found: BenchResult) -> list[tuple[str, ...]]:
    """The header, then one line of cells per row, for whatever draws the table. Columns that nothing fills are left out."""
    columns = _loadgen_columns(found) if found.loadgen is not None else _columns(found)
    always = [*columns[:4], *columns[-1:]]
    shown = [column for column in columns if column in always or any(column[1](row) != NOTHING for row in found.rows)]
    return [tuple(name for name, _ in shown), *(tuple(cell(row) for _, cell in shown) for row in found.rows)]


def cold_start_cells(found: BenchResult) -> list[tuple[str, ...]]:
    """Where the time of a cold start goes, in milliseconds; nothing where none was asked for."""
    rows = [(row, row.measured.cold_start) for row in found.rows if row.measured.cold_start is not None]
    if not rows:
        return []
    lines: list[tuple[str, ...]] = [
        ("cold start, ms", "engine\ncache", "process", "import", "load", "first\ncall", "total", "least .. most")
    ]
    for row, cold in rows:
        for state, phases in (("off", cold.cache_off), ("filled", cold.cache_on)):
            parts = (phases.process_s, phases.import_s, phases.load_s, phases.first_call_s, phases.total_s)
            lines.append(
                (
                    row.label,
                    state,
                    *map(_median_ms, parts),
                    f"{phases.total_s.low * 1000:.0f} .. {phases.total_s.high * 1000:.0f}",
                )
            )
    return lines


def bench_plot(found: BenchResult) -> list[str]:
    """How the latencies of the rows are distributed; nothing where LoadGen kept them to itself."""
    return distribution_plot([(row.label, row.measured.samples) for row in found.rows])


def bench_notes(found: BenchResult) -> list[str]:
    """What belongs under the table: the headline, what the figures are, how the engines compare, and the warnings."""
    notes = [*([found.headline] if found.headline else []), _how(found)]
    notes.append(
        "drift: CIEDE2000 to the PyTorch reference, 95th percentile over pixels, mean over photos, of the very same file"
    )
    notes += _energy_notes(found)
    notes += _artefact_notes(found)
    for row in found.rows[1:]:
        ratio = found.ratio(row)
        if ratio is not None:
            notes.append(
                f"{row.label}: {ratio.ratio:.2f} ({ratio.low:.2f} .. {ratio.high:.2f}) times the latency of "
                f"{found.rows[0].label}: {ratio.verdict} (would have seen {ratio.smallest_effect:.1%})"
            )
    for row in found.rows:
        notes += _row_notes(found, row)
    notes += [f"warning: {line}" for line in found.warnings()]
    return [*notes, "interrupted: this is what was measured until then"] if found.interrupted else notes


def _columns(found: BenchResult) -> list[Column]:
    batch, highest = found.settings["batch"], max(found.settings["percentiles"])
    late: list[Column] = [(f"p{highest:g}\nms", lambda row: milliseconds(row.percentile(highest).value))]
    return [
        ("engine", lambda row: row.label),
        ("formats", lambda row: "failed" if row.measured.error is not None else formats_text(row.measured)),
        ("p50\nms", _median_text),
        ("95 %", lambda row: _half_width(row.percentile(50))),
        *(late if highest != 50 else []),  # noqa: PLR2004
        ("photos/s\nper core", lambda row: _rate(found.cost(row).photos_per_second_per_core)),
        ("J per\nphoto", lambda row: _rate(row.energy(found.machine, batch).both)),
        ("price\n/1000", lambda row: price_text(found.cost(row).price_per_1000)),
        ("peak\nMB", lambda row: megabytes(peak_memory(row.measured))),
        ("load\ns", lambda row: seconds_text(row.measured.median_start("load_s"))),
        ("first\nms", _first_call),
        ("drift\np95", _drift),
    ]


def _loadgen_columns(found: BenchResult) -> list[Column]:
    def percentile(percent: str) -> Callable[[BenchRow], str]:
        return lambda row: milliseconds(row.measured.loadgen.percentiles_ns.get(percent) if row.measured.loadgen else None)

    return [
        ("engine", lambda row: row.label),
        ("formats", lambda row: "failed" if row.measured.error is not None else formats_text(row.measured)),
        ("LoadGen\nsays", lambda row: NOTHING if row.measured.loadgen is None else _validity(row.measured.loadgen.valid)),
        ("photos\n/s", lambda row: _rate(row.photos_per_second())),
        *((f"p{percent}\nms", percentile(percent)) for percent in LOADGEN_PERCENTS),
        ("J per\nphoto", lambda row: _rate(row.energy(found.machine).both)),
        ("price\n/1000", lambda row: price_text(found.cost(row).price_per_1000)),
        ("photos", lambda row: NOTHING if row.measured.loadgen is None else str(row.measured.loadgen.samples)),
        ("peak\nMB", lambda row: megabytes(peak_memory(row.measured))),
        ("drift\np95", _drift),
    ]


def _how(found: BenchResult) -> str:
    """One line that says what the figures of the table are."""
    settings, rule = found.settings, found.loadgen
    photo = "" if settings["photo_size"] is None else f", photos of {_photo_size(settings['photo_size'])}"
    threads = found.rows[0].threads if found.rows else 0
    start = f"scope {found.scope}{photo}; batch {settings['batch']}, {threads} thread{'s' if threads != 1 else ''}, "
    if rule is None:
        return (
            f"{start}{settings['rounds']} shuffled rounds in {settings['processes']} "
            f"process{'es' if settings['processes'] != 1 else ''} each, "
            f"at least {settings['calls']} calls per engine"
        )
    rate = f" at {rule.target_qps:g} photos a second within {rule.target_latency_ms:g} ms" if rule.target_qps else ""
    return f"{start}LoadGen scenario {rule.scenario}{rate}, at least {rule.seconds:g} s; figures are LoadGen's own"


def _energy_notes(found: BenchResult) -> list[str]:
    """What the joules are, or why there are none."""
    energies = [row.energy(found.machine, found.settings["batch"]) for row in found.rows]
    if any(energy.both is not None for energy in energies):
        return ["J per photo: CPU packages, for an engine on the GPU plus its board; idle power is not taken off"]
    return [f"J per photo: n/a ({reason})" for reason in dict.fromkeys(energy.why_not for energy in energies if energy.why_not)]


def _artefact_notes(found: BenchResult) -> list[str]:
    notes = []
    artefacts = {row.sha256: row for row in found.rows if row.sha256 is not None}
    for digest, row in artefacts.items():
        names = ", ".join(other.label for other in found.rows if other.sha256 == digest)
        notes.append(
            f"{names}: {(row.bytes or 0) / MEGABYTE:.1f} MB, recipe {row.recipe}, SHA-256 {str(digest)[:SHOWN_DIGITS]}..."
        )
    return notes


def _row_notes(found: BenchResult, row: BenchRow) -> list[str]:
    """Percentiles between the table's two, what the samples do not carry, paces, and LoadGen's result."""
    measured, notes = row.measured, []
    if measured.loadgen is not None:
        result = measured.loadgen
        value = f"{milliseconds(result.value)} ms" if result.unit == "ns" else f"{result.value:.1f}"
        name = result.metric.removesuffix(" (ns)")
        notes.append(
            f"{row.label}: {name} {value}: {_validity(result.valid)} after {result.samples} photos in {result.seconds:.0f} s"
        )
        if result.log_folder is not None:
            notes.append(f"{row.label}: LoadGen's logs are in {result.log_folder}")
        return notes
    if measured.error is None:
        percents = [row.percentile(percent) for percent in found.settings["percentiles"]]
        between = [
            f"{percent.label} {milliseconds(percent.value)} ms" for percent in percents[1:-1] if percent.value is not None
        ]
        notes += [f"{row.label}: {', '.join(between)}"] if between else []
        notes += [f"{row.label}: {percent.why_not()}" for percent in percents if percent.why_not()]
    for fps, turns in measured.paced.items():
        median, ratio = percentile_of(turns, 50), ratio_of(turns, measured.turns)
        beside = "" if ratio is None else (
            f", {ratio.ratio:.2f} ({ratio.low:.2f} .. {ratio.high:.2f}) times its latency back to back: {ratio.verdict}"
        )  # fmt: skip
        shown = median.why_not() if median.value is None else f"p50 {milliseconds(median.value)} ms"
        notes.append(f"{row.label} at {fps:g} a second: {shown}{beside}")
    return notes


def _median_text(row: BenchRow) -> str:
    """The median; a star where the latency had not settled, `throttled` where the GPU lowered its clocks."""
    measured = row.measured
    star = "*" if measured.warm_up is not None and not measured.warm_up.stable else ""
    stamp = "\nthrottled" if measured.gpu is not None and measured.gpu.slowdowns else ""
    return milliseconds(row.percentile(50).value) + star + stamp


def _median_ms(found: Spread | None) -> str:
    return NOTHING if found is None else f"{found.median * 1000:.0f}"


def _rate(value: float | None) -> str:
    return NOTHING if value is None else three_digits(value)


def _first_call(row: BenchRow) -> str:
    first = row.measured.median_start("first_call_s")
    return NOTHING if first is None else milliseconds(first * NS)


def _drift(row: BenchRow) -> str:
    return NOTHING if row.drift is None else drift_text(row.drift.value("de2000_p95"))


def _validity(valid: bool) -> str:
    return "VALID" if valid else "INVALID"


def formats_text(measured: Measured) -> str:
    """The number formats that were executed, the most frequent one first: `bf16+fp32`; `-` where nobody knows."""
    formats = measured.formats or {"-": 0}
    return "+".join(sorted(formats, key=lambda name: -formats[name]))


def _half_width(found: Percentile) -> str:
    """Half of the relative 95 % interval, `±2.1 %`."""
    if found.value is None or found.interval is None or found.interval.low is None or found.interval.high is None:
        return "-"
    share = (found.interval.high - found.interval.low) / 2 / found.value
    return f"±{share:.1%}" if share < 0.1 else f"±{share:.0%}"  # noqa: PLR2004 - two digits will do


def _photo_size(sizes: Sequence[Sequence[int]]) -> str:
    """`1024x1024`, or how many sizes there are."""
    return "x".join(map(str, sizes[0])) if len(sizes) == 1 else f"{len(sizes)} sizes"
