"""The report of a run: one HTML file that works offline, on a phone, in light and dark. Nothing in it is fetched or run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from icf_deploy.benchmarks.html_page import figure, page, section, warnings
from icf_deploy.benchmarks.html_tables import (
    cost_table,
    environment_list,
    loadgen_table,
    paced_table,
    results_table,
    start_table,
)
from icf_deploy.benchmarks.markup import Markup, joined, tag
from icf_deploy.benchmarks.pareto import Point, dominated
from icf_deploy.benchmarks.plots import Shown, common_span, distribution_plot, pareto_plot
from icf_deploy.benchmarks.report import NS_PER_MS, milliseconds, three_digits
from icf_deploy.benchmarks.result_file import (
    DRIFT_FLOOR,
    Result,
    Row,
    drift_of,
    drift_text,
    latency_of,
    ratio_between,
    turns_of,
)
from icf_deploy.benchmarks.stats import concatenate
from icf_deploy.benchmarks.worst_photo import WorstPhoto, pictures_of
from icf_deploy.quality.table import VISIBLE
from icf_deploy.text_output import require_writable, write_text

Pictures = Callable[[Row, Result], "WorstPhoto | str"]
"""The worst photo of a row, or why there is none."""

WIDE, NARROW = (1060, 460), (358, 380)  # pixels; the same picture for a desk and for a phone, with text of the same size


def write_report(result: Result, path: Path, *, overwrite: bool = False, pictures: Pictures = pictures_of) -> None:
    """Write the report of `BenchResult.to_json()` to `path`, complete or not at all.

    pictures: where the worst photo of each row comes from; by default the row's engine is opened once more. Raises WorkError
    where `path` exists (`overwrite`), is a folder or cannot be written; that is found out before anything is opened.
    """
    require_writable(path, overwrite=overwrite)
    write_text(report_html(result, pictures), path, overwrite=overwrite)


def report_html(result: Result, pictures: Pictures = pictures_of) -> str:
    """The whole page."""
    names = ", ".join(dict.fromkeys(bundle["name"] for bundle in result["bundles"]))
    title = f"{names} on {result['machine']['cpu']}"
    sections = [
        _opening(result, title),
        _trade(result),
        _photos(result, pictures),
        _table("Results", _ABOUT_RESULTS, results_table(result)),
        _distributions(result),
        _table("What 1,000 photos cost", _ABOUT_COST, cost_table(result)),
        _table("Starting", _ABOUT_START + (_ABOUT_COLD if _has_cold(result) else ""), start_table(result)),
        _table("At a pace", _ABOUT_PACE, paced_table(result)),
        _table("MLCommons LoadGen", _ABOUT_LOADGEN, loadgen_table(result)),
        _commands(result),
        section("Environment", None, environment_list(result["machine"])),
        section("Settings", None, environment_list(result["settings"])),
    ]
    return page(f"icf-deploy bench: {title}", sections)


_ABOUT_RESULTS = (
    "p50 and p90 with 95 % intervals; ratio: latency over that of the first row, paired by round, with its 95 % interval; "
    "sees: the difference that the run would have shown four times out of five; memory: while running, beyond what loading "
    "took; drift: CIEDE2000 to the PyTorch float32 reference, 95th percentile over pixels, mean over photos, of the same file."
)
_ABOUT_COST = "Photos one after the other, in the scope that was measured. Energy includes what the machine takes when idle."
_ABOUT_START = "Loading and the first call, median over the processes of the run."
_ABOUT_COLD = " Cold: from starting the process to the first result, median and range, without and with the engine's cache."
_ABOUT_PACE = "Calls at a fixed pace, as a device makes them: clocks drop in between. Late: calls that began after their tick."
_ABOUT_LOADGEN = "What LoadGen's own summary says about its run."


def _opening(result: Result, title: str) -> Markup:
    sizes = ", ".join(dict.fromkeys("x".join(map(str, bundle["size"])) for bundle in result["bundles"]))
    threads, settings = sorted({row["threads"] for row in result["rows"]}), result["settings"]
    facts = [
        f"scope {result['scope']}",
        f"scenario {result['scenario']}"
        if result.get("scenario")
        else f"{settings['rounds']} shuffled rounds in {_several(settings['processes'], 'process', 'es')} per engine",
        f"network size {sizes}",
        f"batch {settings['batch']}",
        " or ".join(_several(count, "thread") for count in threads),
        result["created"],
    ]
    lines = [*(["interrupted: this is what was measured until then"] if result["interrupted"] else []), *result["warnings"]]
    return joined(
        tag("h1", title),
        tag("p", result.get("headline") or "Nothing was measured.", class_="headline"),
        tag("p", "; ".join(facts), class_="dim"),
        warnings(lines) if lines else None,
    )  # fmt: skip


def _several(count: int, what: str, ending: str = "s") -> str:
    return f"{count} {what}{'' if count == 1 else ending}"


def _trade(result: Result) -> Markup | None:
    rows = [row for row in result["rows"] if latency_of(row) is not None and drift_of(row) is not None]
    missing = [row["label"] for row in result["rows"] if row not in rows]
    if not rows:
        return None
    shown = _shown(rows)
    plots = [
        tag("div", pareto_plot(shown, floor=DRIFT_FLOOR, visible=VISIBLE, width=width, height=height), class_=kind)
        for kind, (width, height) in (("wide", WIDE), ("narrow", NARROW))
    ]
    about = (
        "Left is faster, down is closer to PyTorch float32. The line joins the engines that no other one beats in both; gray "
        "ones are beaten. A marker's area grows with the file that the engine runs; bars are the 95 % interval of the latency, "
        f"and from the mean photo to the worst one. Drift below {DRIFT_FLOOR:g} is drawn as {DRIFT_FLOOR:g}."
        + (f" Not in the picture: {', '.join(missing)}." if missing else "")
    )
    return section("Latency against drift", about, tag("figure", plots, style="margin:12px 0 0"))


def _shown(rows: list[Row]) -> list[Shown]:
    points, drawn = [], []
    for row in rows:
        latency, drift, worst = latency_of(row), drift_of(row), drift_of(row, "de2000_p95_worst")
        assert latency is not None and drift is not None and worst is not None  # the caller has chosen such rows
        points.append(Point(latency.value, drift))
        low, high = (None if end is None else end / NS_PER_MS for end in (latency.low, latency.high))
        drawn.append((row["label"], latency.value / NS_PER_MS, low, high, drift, worst, row["artefact"]["bytes"]))

    def faster(one: int, other: int) -> bool:
        ratio = ratio_between(rows[one], rows[other])
        return points[one].latency < points[other].latency if ratio is None else ratio.verdict == "faster"

    beaten = dominated(points, floor=DRIFT_FLOOR, faster=faster)
    return [Shown(*values, flag) for values, flag in zip(drawn, beaten, strict=True)]


def _photos(result: Result, pictures: Pictures) -> Markup | None:
    cards, reasons = [], []
    for row in result["rows"]:
        found = pictures(row, result) if row["error"] is None else str(row["error"]["message"])
        if isinstance(found, str):
            reasons.append(tag("p", f"{row['label']}: no picture: {found.removeprefix(row['label'] + ': ')}", class_="dim"))
        else:
            cards.append(_photo_card(row, found))
    about = (
        "Of each engine, the photo on which it drifts most. The difference is that of the colours alone, a and b, times the "
        "number that is printed with it, on gray: plain gray means that nothing is left to see."
    )
    return section("The worst photo of each engine", about, tag("div", cards, class_="cards wide-cards"), reasons)


def _photo_card(row: Row, found: WorstPhoto) -> Markup:
    latency = latency_of(row)
    worst = next((photo for photo in row["drift"]["photos"] if photo["photo"] == found.photo), None)
    value = math.inf if worst is None or worst["de2000_p95"] is None else float(worst["de2000_p95"])
    text = f"{found.photo}: drift {drift_text(value)}" + (f", {milliseconds(latency.value)} ms" if latency else "")
    figures = [
        figure(found.reference, "jpeg", "PyTorch float32", found.photo),
        figure(found.engine, "jpeg", row["label"], found.photo),
        figure(found.difference, "png", f"difference × {found.factor}", found.photo),
    ]
    return tag(
        "div", tag("h3", row["label"]), tag("p", text, class_="dim"), tag("div", figures, class_="photos"), class_="card"
    )


def _distributions(result: Result) -> Markup | None:
    rows = [row for row in result["rows"] if row["turns"]]
    if not rows:
        return None
    samples = [concatenate([turn.samples for turn in turns_of(row)]) / NS_PER_MS for row in rows]
    span = common_span(samples)
    cards = []
    for row, values in zip(rows, samples, strict=True):
        p50, p90 = (latency_of(row, percent) for percent in (50, 90))
        ends = f"{len(values)} calls, {three_digits(values.min())} to {three_digits(values.max())} ms"
        spread = f"median absolute deviation {milliseconds(row['median_absolute_deviation_ns'])} ms"
        plot = distribution_plot(values, span, *(None if one is None else one.value / NS_PER_MS for one in (p50, p90)))
        cards.append(tag("div", tag("h3", row["label"]), tag("p", f"{ends}; {spread}", class_="dim"), plot, class_="card"))
    about = "Every call of the run, in ms on one logarithmic axis for all engines. No sample was left out."
    return section("Distributions", about, tag("div", cards, class_="cards"))


def _commands(result: Result) -> Markup | None:
    rows = [(row["label"], row.get("command")) for row in result["rows"]]
    lines = [("The whole run", result.get("command")), *rows]
    blocks = [joined(tag("p", name, class_="dim"), tag("pre", tag("code", command))) for name, command in lines if command]
    return section("How to measure it again", None, blocks) if blocks else None


def _table(heading: str, about: str, content: Markup | None) -> Markup | None:
    return None if content is None else section(heading, about, content)


def _has_cold(result: Result) -> bool:
    return any(row.get("cold_start") for row in result["rows"])
