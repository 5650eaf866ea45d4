"""`icf-deploy check`: how far the colours of an engine are from PyTorch's, and from the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icf_deploy.cli.options import (
    PATH,
    bundle_argument,
    digest_option,
    engines_option,
    graphs_option,
    json_option,
    overwrite_option,
    threads_option,
    trust_option,
)
from icf_deploy.cli.terminal import progress_bar, say, show_json, show_lines, show_table
from icf_deploy.errors import ArtefactError, BudgetError
from icf_deploy.text_output import require_writable

if TYPE_CHECKING:
    from icf_deploy.bundle.opening import Bundle
    from icf_deploy.quality.budget import Budget
    from icf_deploy.quality.table import DriftTable
    from icf_deploy.tuning.checking import Checked
    from icf_deploy.tuning.yardstick import Yardstick

GALLERY_PHOTOS = 6  # of each engine and graph
# Columns of the table: title, metric, decimals. Those of the truth are there where photos' own colours are known.
COLUMNS = (
    ("ΔE\nmean", "de2000_mean", 3),
    ("ΔE\np95", "de2000_p95", 3),
    ("worst\np95", "de2000_p95_worst", 3),
    ("|Δab|\nmax", "dab_max_worst", 2),
    ("ab\ndB", "ab_psnr", 1),
    ("true\nab dB", "true_ab_psnr", 2),
    ("drop\nab dB", "ab_psnr_drop", 3),
    ("drop\nRGB dB", "rgb_psnr_drop", 3),
    ("colour-\nfulness", "colourfulness", 1),
)


@click.command("check", short_help="Measure how far an engine's colours drift from PyTorch's.")
@bundle_argument
@engines_option("repeatable; by default all that are installed")
@graphs_option
@click.option("--photos", type=PATH, metavar="DIR",
              help="Check on these colour photos instead of the reference set, also against their own colours.")  # fmt: skip
@click.option("--budget", metavar="LIMITS",
              help="What is allowed, such as de2000_p95<=1.0,ab_psnr>=40; missed: exit status 3. Metrics against the truth, "
                   "such as ab_psnr_drop<=0.02, need --photos.")  # fmt: skip
@click.option("--gallery", type=PATH, metavar="OUT.html", help="Write a page with the worst photos of each engine and graph.")
@threads_option
@digest_option
@trust_option
@overwrite_option
@json_option
def command(
    *,
    bundle: Path | None,
    engines: tuple[str, ...],
    graphs: tuple[str, ...],
    photos: Path | None,
    budget: str | None,
    gallery: Path | None,
    threads: int | None,
    expect_digest: str | None,
    trust_engines: bool,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Measure how far an engine's colours drift from PyTorch's.

    BUNDLE is a bundle; without it the shipped icf-edge. Its reference set holds gray photos and the ab that PyTorch in float32
    gives for them; every graph of the default size colours the same photos on every engine, and CIEDE2000 tells the
    difference. docs/precision.md lists every metric that a budget can name.
    """
    from icf_deploy.quality import budget as budgets

    limits = budgets.parse(budget) if budget is not None else budgets.Budget(())
    if photos is None:
        limits.require_photos()
    if gallery is not None:
        require_writable(gallery, overwrite=overwrite)
    from icf_deploy.benchmarks.bench import installed_engines
    from icf_deploy.bundle.opening import open_bundle
    from icf_deploy.tuning.checking import check_engines, failures, pairs
    from icf_deploy.tuning.yardstick import own_photos, reference_set

    opened = open_bundle(bundle, expect_digest=expect_digest, trust_engines=trust_engines)
    rows = pairs(opened, engines or installed_engines(opened), graphs)
    with progress_bar() as update:
        yardstick = reference_set(opened) if photos is None else own_photos(opened, photos, threads=threads, tell=update)
        yardstick.require_truth(limits)
        shots = GALLERY_PHOTOS if gallery is not None else 0
        check_engines(opened, rows, yardstick, limits, threads=threads, shots=shots, tell=update)
    counted = failures(rows, graphs_named=bool(graphs))
    if as_json:
        show_json(_document(opened, rows, yardstick, budget))
    else:
        show_table(_cells(rows, limits), f"{opened.path.name}: drift to {yardstick.reference_source}")
        show_lines([*yardstick.notes(), *_legend(rows, limits), *_answers(rows, counted)])
    if gallery is not None:
        _write_gallery(gallery, opened, rows, limits, yardstick, overwrite=overwrite)
    for row in rows:
        if row in counted:
            say(f"error: {row.error}")
        elif row.miss is not None:
            say(f"error: {row.label}: {row.miss}")
    return _status(rows, counted)


def _status(rows: Sequence[Checked], failed: Sequence[Checked]) -> int:
    """The status of what failed; 3 where only the budget was missed; 1 where engines failed in several ways."""
    statuses = {row.error.exit_status for row in failed if row.error is not None}
    if statuses:
        return statuses.pop() if len(statuses) == 1 else 1
    return BudgetError.exit_status if any(row.miss is not None for row in rows) else 0


def _document(bundle: Bundle, rows: Sequence[Checked], yardstick: Yardstick, budget: str | None) -> dict[str, Any]:
    photos = yardstick.photos
    return {
        "schema": "icf-check 2",
        "bundle": {"name": bundle.path.name, "digest": bundle.digest, "preset": bundle.manifest.preset},
        "photos": list(yardstick.reference.names),
        "reference": yardstick.reference_source,
        "skipped": {} if photos is None else dict(photos.skipped),
        "gray": [] if photos is None else list(photos.colourless),
        "left_out": 0 if photos is None else photos.left_out,
        "budget": budget,
        "engines": [
            {
                "engine": row.engine,
                "graph": row.graph,
                "recipe": row.recipe,
                "formats": row.formats,
                "drift": None if row.drift is None else row.drift.to_json(),
                "within_budget": None if row.drift is None else row.miss is None,
                "error": row.miss or (None if row.error is None else str(row.error)),
            }
            for row in rows
        ],
    }


def _columns(rows: Sequence[Checked], budget: Budget) -> list[tuple[str, str, int]]:
    """COLUMNS that can be answered, and those of the budget that are not among them."""
    known = {name for row in rows if row.drift is not None for name in row.drift.metrics} or {"de2000_p95"}
    shown = [column for column in COLUMNS if column[1] in known]
    names = {name for _, name, _ in shown}
    return [*shown, *((limit.metric, limit.metric, 3) for limit in budget.limits if limit.metric not in names)]


def _cells(rows: Sequence[Checked], budget: Budget) -> list[tuple[str, ...]]:
    columns = _columns(rows, budget)
    header = ("engine", "graph", "formats", *(title for title, _, _ in columns), *(("budget",) if budget.limits else ()))
    return [header, *(_line(row, columns, budget) for row in rows)]


def _line(row: Checked, columns: Sequence[tuple[str, str, int]], budget: Budget) -> tuple[str, ...]:
    verdict = ("-" if row.drift is None else "missed" if row.miss is not None else "kept",) if budget.limits else ()
    graph = row.graph or "checkpoint"
    if row.drift is None:
        return (
            row.engine,
            graph,
            "refused" if isinstance(row.error, ArtefactError) else "failed",
            *("-" for _ in columns),
            *verdict,
        )
    formats = row.formats or {}
    values = (_shown(row.drift, metric, decimals) for _, metric, decimals in columns)
    return row.engine, graph, "+".join(sorted(formats, key=lambda name: -formats[name])) or "-", *values, *verdict


def _shown(drift: DriftTable, metric: str, decimals: int) -> str:
    return f"{drift.value(metric):.{decimals}f}" if metric in drift.metrics else "-"


def _legend(rows: Sequence[Checked], budget: Budget) -> list[str]:
    lines = ["ΔE: CIEDE2000 per pixel, mean over photos; worst and max: of the worst photo", "ab dB: PSNR of ab, peak 255"]
    truths = next((row.drift.truths for row in rows if row.drift is not None), ())
    if truths:
        lines.append("drop: dB to the photos' own colours that the engine loses against the reference, mean over photos")
        own, reference = (
            sum(values) / len(truths)
            for values in zip(*((t.colourfulness, t.reference.colourfulness) for t in truths), strict=True)
        )
        lines.append(f"colourfulness: the photos' own {own:.1f}, the reference's {reference:.1f}")
    return [*lines, *([f"budget: {budget}"] if budget.limits else [])]


def _answers(rows: Sequence[Checked], failed: Sequence[Checked]) -> list[str]:
    """Why graphs were refused where that is no failure."""
    return [f"{row.label}: {row.error}" for row in rows if row.error is not None and row not in failed]


def _write_gallery(
    path: Path, bundle: Bundle, rows: Sequence[Checked], budget: Budget, yardstick: Yardstick, *, overwrite: bool
) -> None:
    from icf_deploy.benchmarks.gallery import Wall, write_gallery
    from icf_deploy.tuning.checking import main_metric

    metric = main_metric(budget)
    walls = [
        Wall(row.label, f"{metric} {row.drift.value(metric):.3g} over {len(row.drift.rows)} photos", tuple(row.shots))
        for row in rows
        if row.drift is not None and row.shots
    ]
    write_gallery(
        path,
        title=f"{bundle.path.name}: drift to {yardstick.reference_source}",
        headline=f"Budget: {budget}" if budget.limits else "Where the colours are furthest from the reference",
        notes=[*yardstick.notes(), *_legend(rows, budget)],
        cells=_cells(rows, budget),
        walls=walls,
        overwrite=overwrite,
    )
