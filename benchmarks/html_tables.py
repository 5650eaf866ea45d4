"""The tables of the report: results, what they cost, starting, pacing, LoadGen, and the environment."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from icf_deploy.benchmarks.markup import Markup, joined, tag
from icf_deploy.benchmarks.memory import MEGABYTE
from icf_deploy.benchmarks.report import milliseconds
from icf_deploy.benchmarks.result_file import Latency, Result, Row, drift_of, drift_text, latency_of

NOTHING = "-"
Cell = str | Markup
LATE_PERCENT = 90.0


def results_table(result: Result) -> Markup:
    """One line per row: everything by which engines are chosen."""
    header = ("engine", "scope", "threads", "p50 ms", "p90 ms", "ratio to the first", "memory MB", "drift p95", "formats",
              "file MB")  # fmt: skip
    return table(header, [_result_cells(row, result["rows"][0] is row) for row in result["rows"]])


def cost_table(result: Result) -> Markup:
    """What a thousand photos cost."""
    header = ("engine", "photos/s", "per core", "1,000 photos s", "core-seconds", "J per photo", "price", "peak memory MB")
    rows = []
    for row in result["rows"]:
        cost = row.get("cost") or {}
        price = cost.get("price_per_1000")
        basis = f"{cost.get('price_per_hour')} per {cost.get('price_basis')}"
        rows.append(
            (
                row["label"],
                number(cost.get("photos_per_second")),
                number(cost.get("photos_per_second_per_core")),
                number(cost.get("seconds_per_1000")),
                number(cost.get("core_seconds_per_1000")),
                number(cost.get("joules_per_photo")),
                NOTHING if price is None else with_small(number(price), basis),
                megabytes(cost.get("memory_peak")),
            )
        )
    return table(header, rows)


def start_table(result: Result) -> Markup:
    """What starting takes: in the run itself, and where it was asked for in fresh processes with and without the cache."""
    cold = any(row.get("cold_start") for row in result["rows"])
    header = ("engine", "load s", "first call ms") + (
        ("cold, no cache s", "of it load", "cold, cache s", "of it load") if cold else ()
    )
    rows = []
    for row in result["rows"]:
        cells: list[Cell] = [row["label"], number(_median_start(row, "load_s")), _first_call(row)]
        for phase in ("cache_off", "cache_on") if cold else ():
            found = (row.get("cold_start") or {}).get(phase)
            cells += [NOTHING, NOTHING] if not found else [_spread(found["total_s"]), _spread(found["load_s"])]
        rows.append(tuple(cells))
    return table(header, rows)


def paced_table(result: Result) -> Markup | None:
    """Latency of calls that come at a pace, where it was asked for."""
    header = ("engine", "pictures/s", "p50 ms", "p90 ms", "to back to back", "late")
    rows = [
        (
            row["label"],
            f"{paced['fps']:g}",
            latency_cell(latency_of(paced)),
            latency_cell(latency_of(paced, LATE_PERCENT)),
            ratio_cell(paced["ratio"]),
            f"{paced['late']} of {paced['calls']}",
        )
        for row in result["rows"]
        for paced in row.get("paced") or ()
    ]
    return table(header, rows) if rows else None


def loadgen_table(result: Result) -> Markup | None:
    """What MLCommons LoadGen says, where it ran."""
    header = ("engine", "scenario", "LoadGen says", "its result", "p50 ms", "p90 ms", "p99 ms", "samples", "seconds")
    rows: list[Sequence[Cell]] = []
    for row in result["rows"]:
        found = row.get("loadgen")
        if found:
            value = found["value"]
            shown = f"{milliseconds(value)} ms" if found["unit"] == "ns" else f"{number(value)} {found['unit']}"
            word = "VALID" if found["valid"] else "INVALID"
            rows.append(
                (
                    row["label"],
                    found["scenario"],
                    with_small(word, "; ".join(found["invalid_because"]), "" if found["valid"] else "failed"),
                    with_small(shown, found["metric"]),
                    *(milliseconds(found["percentiles_ns"].get(percent)) for percent in ("50", "90", "99")),
                    number(found["samples"]),
                    number(found["seconds"]),
                )
            )
    return table(header, rows) if rows else None


def environment_list(machine: Mapping[str, Any]) -> Markup:
    """Everything that the machine said, nested values joined into words."""
    pairs = [(tag("dt", name.replace("_", " ")), tag("dd", words(value))) for name, value in machine.items()]
    return tag("dl", pairs)


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Markup:
    """A table that a narrow screen shows as one block per row, so each cell carries its column's name."""
    lines = [
        tag("tr", [_cell(name, cell) for name, cell in zip(header, cells, strict=True)]) for cells in rows
    ]  # a row of another length is a fault of ours
    return tag("table", tag("thead", tag("tr", [tag("th", name) for name in header])), tag("tbody", lines))


def latency_cell(found: Latency | None) -> Cell:
    """`12.3` with its interval below, in ms."""
    if found is None:
        return NOTHING
    if found.low is None or found.high is None:
        return milliseconds(found.value)
    return with_small(milliseconds(found.value), f"{milliseconds(found.low)} .. {milliseconds(found.high)}")


def ratio_cell(ratio: Mapping[str, Any] | None) -> Cell:
    """The ratio, its interval, and the verdict in words."""
    if ratio is None:
        return NOTHING
    verdict = ratio["verdict"]
    kind = verdict if verdict in ("faster", "slower") else None
    sees = None if kind else tag("small", f"sees {ratio['smallest_effect']:.1%}")
    spread = tag("small", f"{ratio['low']:.3f} .. {ratio['high']:.3f}")
    return joined(f"{ratio['ratio']:.3f}", spread, tag("small", verdict, class_=kind), sees)


def drift_cell(row: Row) -> Cell:
    """Drift of all photos, and of the worst."""
    mean, worst = drift_of(row), drift_of(row, "de2000_p95_worst")
    if mean is None or worst is None:
        return NOTHING
    return with_small(drift_text(mean), f"worst {drift_text(worst)}")


def number(value: float | None) -> str:
    """Three significant digits, whole from a hundred on."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004


def megabytes(value: float | None) -> str:
    """Bytes as megabytes, one decimal below a hundred."""
    return NOTHING if value is None else number(value / MEGABYTE)


def words(value: Any) -> str:
    """A value of the environment as a reader says it."""
    if value is None or value in ("", [], (), {}):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ("; " if isinstance(value[0], Mapping) else " ").join(words(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def with_small(text: str, small: str, kind: str = "") -> Markup:
    """Text with a smaller line below it."""
    return joined(tag("span", text, class_=kind) if kind else text, tag("small", small) if small else None)


def _result_cells(row: Row, first: bool) -> tuple[Cell, ...]:
    failed = row["error"] is not None
    formats = row["formats"] or {}
    memory = megabytes(row["memory_running"])
    return (
        row["label"],
        row["scope"],
        str(row["threads"]),
        tag("span", "failed", class_="failed") if failed else _unstable(row),
        latency_cell(latency_of(row, LATE_PERCENT)),
        "the first" if first and not failed else ratio_cell(row["ratio"]),
        with_small(memory, f"peak {megabytes(row['memory_peak'])}") if row["memory_peak"] is not None else memory,
        drift_cell(row),
        "+".join(sorted(formats, key=lambda name: -formats[name])) or NOTHING,
        megabytes(row["artefact"]["bytes"]),
    )


def _unstable(row: Row) -> Cell:
    found = latency_cell(latency_of(row))
    return joined(found, tag("small", "had not settled", class_="failed")) if row["unstable"] else found


def _median_start(row: Row, what: str) -> float | None:
    values = [start[what] for start in row["starts"]]
    return statistics.median(values) if values else None


def _first_call(row: Row) -> str:
    value = _median_start(row, "first_call_s")
    return NOTHING if value is None else number(value * 1000)


def _spread(found: Mapping[str, float]) -> Cell:
    return with_small(number(found["median"]), f"{number(found['low'])} .. {number(found['high'])}")


def _cell(name: str, cell: Cell) -> Markup:
    return tag("td", tag("span", cell), data_label=name, class_="empty" if cell == NOTHING else None)
