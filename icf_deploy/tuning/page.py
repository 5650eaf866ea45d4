"""The report of `tune`: latency against drift of everything that was measured, with budget and choice; one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from icf_deploy.benchmarks.gallery import card
from icf_deploy.benchmarks.html_page import page, section, warnings
from icf_deploy.benchmarks.html_report import NARROW, WIDE
from icf_deploy.benchmarks.html_tables import NOTHING, Cell, environment_list, ratio_cell, table, with_small
from icf_deploy.benchmarks.markup import Markup, joined, tag
from icf_deploy.benchmarks.measured import ratio_of
from icf_deploy.benchmarks.pareto import Point, dominated
from icf_deploy.benchmarks.plots import Shown, common_span, distribution_plot, pareto_plot
from icf_deploy.benchmarks.report import milliseconds, ratio_json, three_digits
from icf_deploy.benchmarks.result_file import DRIFT_FLOOR, drift_text
from icf_deploy.quality.table import VISIBLE
from icf_deploy.text_output import require_writable, write_text
from icf_deploy.tuning.result import NS_PER_MS, TuneResult, TuneRow
from icf_deploy.tuning.table import ROUGH, formats_of, ordered, tune_headline

if TYPE_CHECKING:
    from icf_deploy.benchmarks.stats import Percentile
    from icf_deploy.bundle.sensitivity import Part

LIMITED = "de2000_p95"  # the metric of the picture's drift axis: a budget on it is a line
MEGABYTE = 1_000_000


def write_tune_page(found: TuneResult, path: Path, *, overwrite: bool = False) -> None:
    """Write the page, complete or not at all. Raises WorkError where `path` exists (`overwrite`) or cannot be written."""
    require_writable(path, overwrite=overwrite)
    write_text(tune_html(found), path, overwrite=overwrite)


def tune_html(found: TuneResult) -> str:
    """The whole page."""
    title = f"{found.bundle} on {found.machine.cpu}"
    content = [
        _opening(found, title),
        _trade(found),
        _blocks(found),
        section("Results", _ABOUT_RESULTS, _results(found)),
        _refused(found),
        _photos(found),
        _distributions(found),
        _again(found),
        section("Environment", None, environment_list(found.machine.to_json())),
        section("Settings", None, environment_list(found.settings)),
    ]
    return page(f"icf-deploy tune: {title}", content)


_ABOUT_RESULTS = (
    "p50 of one photo, scope engine, with its 95 % interval, and the ratio to the choice, paired by round. "
    f"{ROUGH} marks a first look alone: what is outside the budget, or clearly slower, is not timed to the end. Drift: "
    "CIEDE2000 to the reference, 95th percentile over pixels, mean over photos, of the same file."
)


def _opening(found: TuneResult, title: str) -> Markup:
    settings, threads = found.settings, found.settings["threads"]
    facts = [
        f"budget {found.budget}",
        f"{settings['rounds']} shuffled rounds in {settings['processes']} processes each",
        f"{threads} thread{'s' if threads != 1 else ''}",
        found.created,
    ]
    lines = [f"Why: {found.choice.why}."] if found.choice is not None else []
    if found.nearest is not None:
        lines.append(f"Nearest is {found.nearest.row.label}: {found.nearest.by}.")
    lines += found.yardstick.notes()
    return joined(
        tag("h1", title),
        tag("p", tune_headline(found), class_="headline"),
        [tag("p", line) for line in lines],
        tag("p", "; ".join(facts), class_="dim"),
        warnings(found.warnings()) if found.warnings() else None,
    )


def _trade(found: TuneResult) -> Markup | None:
    shown = _shown([row for row in ordered(found) if row.drift is not None and row.milliseconds() is not None])
    if not shown:
        return None
    limit = next((limit.bound for limit in found.budget.limits if limit.metric == LIMITED), None)
    plots = [
        tag(
            "div",
            pareto_plot(shown, floor=DRIFT_FLOOR, visible=VISIBLE, width=width, height=height, limit=limit),
            class_=kind,
        )
        for kind, (width, height) in (("wide", WIDE), ("narrow", NARROW))
    ]
    about = (
        "Left is faster, down is nearer to the reference. The line joins what no other one beats in both; gray is beaten. A "
        "marker's area grows with the file that the engine runs; bars are the 95 % interval of the latency, and from the mean "
        f"photo to the worst one. Drift below {DRIFT_FLOOR:g} is drawn as {DRIFT_FLOOR:g}."
        + (f" The green line is the budget's {LIMITED}<={limit:g}: below it is inside." if limit is not None else "")
    )
    return section("Latency against drift", about, tag("figure", plots, style="margin:12px 0 0"))


def _shown(rows: list[TuneRow]) -> list[Shown]:
    points = [Point(row.milliseconds() or 0.0, _drift(row)) for row in rows]

    def faster(one: int, other: int) -> bool:
        ratio = ratio_of(rows[one].timed.turns, rows[other].timed.turns)
        return points[one].latency < points[other].latency if ratio is None else ratio.verdict == "faster"

    beaten = dominated(points, floor=DRIFT_FLOOR, faster=faster)
    return [
        Shown(row.label, row.milliseconds() or 0.0, *_ends(row.latency()), _drift(row), _drift(row, "_worst"), row.bytes, flag)
        for row, flag in zip(rows, beaten, strict=True)
    ]


def _drift(row: TuneRow, over: str = "") -> float:
    assert row.drift is not None  # the caller has chosen such rows
    return row.drift.value(LIMITED + over)


def _ends(found: Percentile | None) -> tuple[float | None, float | None]:
    """The interval in ms."""
    if found is None or found.interval is None:
        return None, None
    low, high = (None if end is None else end / NS_PER_MS for end in (found.interval.low, found.interval.high))
    return low, high


def _results(found: TuneResult) -> Markup:
    metrics = [limit.metric for limit in found.budget.limits if limit.metric != LIMITED]
    header = ("engine", "graph", "formats", "p50 ms", "ratio to the choice", "drift p95", *metrics, "file MB", "verdict")
    return table(header, [_result(found, row, metrics) for row in ordered(found)])


def _result(found: TuneResult, row: TuneRow, metrics: list[str]) -> tuple[Cell, ...]:
    verdict = found.verdict(row)
    kind = {"chosen": "faster", "refused": "slower", "failed": "slower"}.get(verdict)
    ratio = ratio_cell(ratio_json(found.ratio(row)))
    drift: Cell = NOTHING
    if row.drift is not None:
        drift = with_small(drift_text(_drift(row)), f"worst {drift_text(_drift(row, '_worst'))}")
    return (
        row.engine,
        row.graph or "checkpoint",
        formats_of(row),
        _latency(row),
        "1" if verdict == "chosen" else ratio,
        drift,
        *(
            NOTHING if row.drift is None or name not in row.drift.metrics else f"{row.drift.value(name):.3g}"
            for name in metrics
        ),
        NOTHING if row.bytes is None else f"{row.bytes / MEGABYTE:.1f}",
        tag("span", verdict, class_=kind) if kind else verdict,
    )


def _latency(row: TuneRow) -> Cell:
    latency = row.latency()
    if latency is None or latency.value is None:
        return NOTHING
    if not row.is_paired:
        return ROUGH + milliseconds(latency.value)
    low, high = _ends(latency)
    if low is None or high is None:
        return milliseconds(latency.value)
    return with_small(milliseconds(latency.value), f"{three_digits(low)} .. {three_digits(high)}")


def _blocks(found: TuneResult) -> Markup | None:
    """What causes the nearest miss."""
    if found.nearest is None:
        return None
    nearest = found.nearest
    about = f"{nearest.row.label} comes nearest to the budget. {nearest.causes}."
    return section("What is in the way", about, *([_block_table(nearest.blocks)] if nearest.blocks else []))


def _block_table(blocks: tuple[Part, ...]) -> Markup:
    rows = [(part.name, part.format, f"{part.de2000_p95:.3g}", f"{part.de2000_mean:.3g}") for part in blocks]
    return table(("block, alone in its format", "format", "drift p95", "drift mean"), rows)


def _refused(found: TuneResult) -> Markup | None:
    lines = [f"{row.label}: {str(row.error).removeprefix(row.label + ': ')}" for row in found.rows if row.error is not None]
    lines += found.same
    return section("Not measured", None, tag("ul", [tag("li", line) for line in lines])) if lines else None


def _photos(found: TuneResult) -> Markup | None:
    cards = [card(row.shot, row.label) for row in ordered(found) if row.shot is not None]
    about = "Of each, the photo on which it drifts most. The difference is that of a and b alone, amplified, on gray."
    return section("The worst photos", about, tag("div", cards, class_="cards wide-cards")) if cards else None


def _distributions(found: TuneResult) -> Markup | None:
    rows = [row for row in ordered(found) if row.is_paired]
    if not rows:
        return None
    samples = [row.timed.samples / NS_PER_MS for row in rows]
    span = common_span(samples)
    cards = []
    for row, values in zip(rows, samples, strict=True):
        p50, p90 = (None if one is None or one.value is None else one.value / NS_PER_MS for one in map(row.latency, (50, 90)))
        text = f"{len(values)} calls, {three_digits(values.min())} to {three_digits(values.max())} ms"
        plot = distribution_plot(values, span, p50, p90)
        cards.append(tag("div", tag("h3", row.label), tag("p", text, class_="dim"), plot, class_="card"))
    about = "Every call of the paired rounds, in ms on one logarithmic axis. No sample was left out."
    return section("Distributions", about, tag("div", cards, class_="cards"))


def _again(found: TuneResult) -> Markup | None:
    if found.command is None:
        return None
    return section("How to measure it again", None, tag("pre", tag("code", found.command)))
