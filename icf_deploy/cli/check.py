"""`icf-deploy check`: how far the colours of an engine are from PyTorch's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icf_deploy.cli.options import (
    bundle_argument,
    digest_option,
    engines_option,
    json_option,
    threads_option,
    trust_option,
)
from icf_deploy.cli.terminal import say, show_json, show_lines, show_table
from icf_deploy.errors import BudgetError, IcfError, UsageError

if TYPE_CHECKING:
    from icf_deploy.bundle.opening import Bundle
    from icf_deploy.quality.budget import Budget
    from icf_deploy.quality.table import DriftTable

HEADER = ("engine", "formats", "ΔE mean", "ΔE p95", "worst p95", "|Δab| max", "ab dB", "budget")


@dataclass
class Row:
    """One engine: its drift, or why there is none; and why it misses the budget, or None."""

    engine: str
    formats: dict[str, int] | None = None
    drift: DriftTable | None = None
    error: IcfError | None = None
    miss: str | None = None


@click.command("check", short_help="Measure how far an engine's colours drift from PyTorch's.")
@bundle_argument
@engines_option("repeatable; by default all that are installed")
@click.option("--budget", metavar="LIMITS", help="What is allowed, such as de2000_p95<=1.0,ab_psnr>=40; missed: exit status 3.")
@threads_option
@digest_option
@trust_option
@json_option
def command(
    *,
    bundle: Path | None,
    engines: tuple[str, ...],
    budget: str | None,
    threads: int | None,
    expect_digest: str | None,
    trust_engines: bool,
    as_json: bool,
) -> int:
    """Measure how far an engine's colours drift from PyTorch's.

    BUNDLE is a bundle; without it the shipped icf-edge. Its reference set holds gray photos and the ab that PyTorch in float32
    gives for them; every engine colours the same photos, and CIEDE2000 tells the difference.
    """
    from icf_deploy.benchmarks.bench import installed_engines
    from icf_deploy.bundle.opening import open_bundle
    from icf_deploy.quality import budget as budgets
    from icf_deploy.runtimes import registry

    limits = budgets.parse(budget) if budget is not None else budgets.Budget(())
    opened = open_bundle(bundle, expect_digest=expect_digest, trust_engines=trust_engines)
    names = list(dict.fromkeys(engines)) or installed_engines(opened)
    for name in names:
        registry.split(name)
    rows = [_measured(opened, name, limits, threads) for name in names]
    if as_json:
        show_json(_document(opened, rows, budget))
    else:
        _show(opened, rows, budget)
    for row in rows:
        if row.error is not None:
            say(f"error: {row.error}")
        elif row.miss is not None:
            say(f"error: {row.engine}: {row.miss}")
    return _status(rows)


def _measured(bundle: Bundle, engine: str, limits: Budget, threads: int | None) -> Row:
    from icf_deploy.quality.drift import measure_drift
    from icf_deploy.runtimes import registry

    row = Row(engine)
    try:
        with registry.open_session(bundle, engine, threads=threads) as session:
            row.drift = measure_drift(session, bundle.reference())
            row.formats = dict(session.formats)
        limits.check(row.drift)
    except BudgetError as error:
        row.miss = str(error)
    except UsageError:
        raise
    except IcfError as error:
        row.error = error
    return row


def _status(rows: list[Row]) -> int:
    """The status of what failed; 3 where only the budget was missed; 1 where engines failed in several ways."""
    statuses = {row.error.exit_status for row in rows if row.error is not None}
    if statuses:
        return statuses.pop() if len(statuses) == 1 else 1
    return BudgetError.exit_status if any(row.miss is not None for row in rows) else 0


def _document(bundle: Bundle, rows: list[Row], budget: str | None) -> dict[str, Any]:
    return {
        "schema": "icf-check 1",
        "bundle": {"name": bundle.path.name, "digest": bundle.digest, "preset": bundle.manifest.preset},
        "photos": list(bundle.manifest.reference.photos),
        "budget": budget,
        "engines": [
            {
                "engine": row.engine,
                "formats": row.formats,
                "drift": None if row.drift is None else row.drift.to_json(),
                "within_budget": None if row.drift is None else row.miss is None,
                "error": row.miss or (None if row.error is None else str(row.error)),
            }
            for row in rows
        ],
    }


def _show(bundle: Bundle, rows: list[Row], budget: str | None) -> None:
    manifest = bundle.manifest
    show_table([HEADER, *(_cells(row, budget) for row in rows)], f"{bundle.path.name}: drift to PyTorch float32")
    show_lines(
        [
            f"{len(manifest.reference.photos)} photos ({', '.join(manifest.reference.photos)})",
            "ΔE: CIEDE2000 per pixel, mean over photos; worst and max: of the worst photo",
            *([f"budget: {budget}"] if budget else []),
        ]
    )


def _cells(row: Row, budget: str | None) -> tuple[str, ...]:
    if row.drift is None:
        return (row.engine, "failed", *["-"] * (len(HEADER) - 2))
    formats = row.formats or {}
    verdict = "missed" if row.miss is not None else "kept" if budget else "-"
    return (
        row.engine,
        "+".join(sorted(formats, key=lambda name: -formats[name])) or "-",
        *(f"{row.drift.value(name):.3f}" for name in ("de2000_mean", "de2000_p95", "de2000_p95_worst", "dab_max_worst")),
        f"{row.drift.value('ab_psnr'):.1f}",
        verdict,
    )
