"""`icf-deploy tune`: find the fastest engine inside a colour budget on this device, and remember it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from icf_deploy.cli.command_line import command_line
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
from icf_deploy.errors import INTERRUPTED_EXIT_STATUS, ArtefactError, BudgetError
from icf_deploy.text_output import require_writable

if TYPE_CHECKING:
    from icf_deploy.tuning.result import TuneResult, TuneRow

POSITIVE = click.FloatRange(min=0, min_open=True)
BUDGET = "de2000_p95<=1.0"  # what most people cannot see, next to the original
OUTPUTS = ("report", "overwrite", "as_json", "dry_run")  # options that do not change what is measured
FAILED_STATUS = 1


@click.command("tune", short_help="Find the fastest engine inside a colour budget, and keep it.")
@bundle_argument
@click.option("--budget", default=BUDGET, show_default=True, metavar="LIMITS",
              help="What drift is allowed; metrics against the truth, such as ab_psnr_drop<=0.02, need --photos.")  # fmt: skip
@engines_option("repeatable; by default all of this device that run graphs")
@graphs_option
@click.option("--photos", type=PATH, metavar="DIR", help="Measure drift on these colour photos instead of the reference set.")
@threads_option
@click.option("--seconds", type=POSITIVE, default=3.0, show_default=True,
              help="Timed calls, at least so long together, of each that could be the choice.")  # fmt: skip
@click.option("--processes", type=click.IntRange(1, 20), default=5, show_default=True,
              help="Fresh processes of each that could be the choice, one after the other.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Measure and show, and remember nothing.")
@click.option(
    "--report", type=PATH, metavar="OUT.html", help="Write a page: latency against drift, the choice, the worst photos."
)
@digest_option
@trust_option
@overwrite_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    *,
    bundle: Path | None,
    budget: str,
    engines: tuple[str, ...],
    graphs: tuple[str, ...],
    photos: Path | None,
    threads: int | None,
    seconds: float,
    processes: int,
    dry_run: bool,
    report: Path | None,
    expect_digest: str | None,
    trust_engines: bool,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Find the fastest engine inside a colour budget on this device, and keep it.

    BUNDLE is a bundle; without it the shipped icf-edge. Every graph of its default size is measured on every engine of this
    device, each alone in a process: first its drift, then, for those inside the budget, its latency in paired rounds. The
    choice is remembered in this device's cache, and icf_deploy.load() and `icf-deploy colorize` take it. Nothing inside the
    budget: exit status 3, and what comes nearest. docs/precision.md says how a budget is chosen.
    """
    if report is not None:
        require_writable(report, overwrite=overwrite)
    from icf_deploy.tuning.run import tune

    with progress_bar() as update:
        found = tune(
            bundle,
            budget,
            engines=engines,
            graphs=graphs,
            photos=photos,
            threads=threads,
            seconds=seconds,
            processes=processes,
            keep=not dry_run,
            pictures=report is not None,
            expect_digest=expect_digest,
            trust_engines=trust_engines,
            progress=update,
        )
    found = replace(found, command=command_line(context, context.params, without=OUTPUTS))
    if as_json:
        show_json(found.to_json())
    else:
        _show(found)
    if found.interrupted:
        return INTERRUPTED_EXIT_STATUS
    if report is not None:
        from icf_deploy.tuning.page import write_tune_page

        write_tune_page(found, report, overwrite=overwrite)
    return _status(found, engines)


def _show(found: TuneResult) -> None:
    from icf_deploy.tuning.table import tune_cells, tune_notes

    show_table(tune_cells(found), f"{found.bundle}: {found.preset}, on {found.machine.cpu}")
    show_lines(["", *tune_notes(found)])


def _status(found: TuneResult, engines: Sequence[str]) -> int:
    """0 with a choice; 3 without; the errors' own where nothing could be measured; 1 where a named engine has failed."""
    failed = [row for row in found.rows if row.error is not None and not _is_an_answer(row, found, engines)]
    for row in failed:
        say(f"error: {row.error}")
    if found.choice is not None:
        return FAILED_STATUS if failed else 0
    if found.nearest is None:
        statuses = {row.error.exit_status for row in found.rows if row.error is not None}
        if not failed:
            say(f"error: none of {len(found.rows)} engines and graphs could be measured: the lines above say why")
        return statuses.pop() if len(statuses) == 1 else FAILED_STATUS
    try:
        found.require_choice()
    except BudgetError as error:
        say(f"error: {error}")
    return BudgetError.exit_status


def _is_an_answer(row: TuneRow, found: TuneResult, engines: Sequence[str]) -> bool:
    """Whether it is no failure that a row could not be measured: nobody named its engine, or it only refused this graph."""
    if row.engine not in engines:
        return True
    return isinstance(row.error, ArtefactError) and any(
        other.engine == row.engine and other.drift is not None for other in found.rows
    )
