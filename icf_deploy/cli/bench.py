"""`icf-deploy bench`: latency, memory and drift of the engines of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from icf_deploy.cli.options import PATH, bundle_argument, engines_option, json_option, overwrite_option, threads_option
from icf_deploy.cli.terminal import progress_bar, require_writable, say, show_json, show_lines, show_table, write_json
from icf_deploy.errors import INTERRUPTED_EXIT_STATUS, IcfError

if TYPE_CHECKING:
    from icf_deploy.benchmarks.candidate import Scope

SCOPES = ("engine", "image", "file")


@click.command("bench", short_help="Measure latency, memory and drift of engines.")
@bundle_argument
@engines_option("repeatable, the first is what the others are compared with; by default all that are installed")
@click.option("--scope", type=click.Choice(SCOPES), default="engine", show_default=True,
              help="What is timed: tensors, uint8 photo to uint8 photo, or JPEG file to JPEG file.")  # fmt: skip
@threads_option
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=3.0, show_default=True,
              help="Timed calls per engine, at least so long together.")  # fmt: skip
@click.option("--calls", type=click.IntRange(min=1), default=100, show_default=True, help="Timed calls per engine, at least.")
@click.option("--processes", type=click.IntRange(1, 20), default=5, show_default=True,
              help="Fresh processes per engine, one after the other: two of the same engine differ a little, too.")  # fmt: skip
@click.option("-o", "--output", type=PATH, metavar="RESULT.json", help="Write everything, raw samples included.")
@overwrite_option
@json_option
def command(
    *,
    bundle: Path | None,
    engines: tuple[str, ...],
    scope: Scope,
    threads: int | None,
    seconds: float,
    calls: int,
    processes: int,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Measure latency, memory and drift of engines on this machine.

    BUNDLE is a bundle; without it the shipped icf-edge. Each engine lives alone in a process and they take turns in shuffled
    rounds, after a warm-up that lasts until the latency is stable. An engine that fails costs its row, and exit status 1.
    """
    if output is not None:
        require_writable(output, overwrite=overwrite)
    from icf_deploy.benchmarks.bench import benchmark
    from icf_deploy.benchmarks.report import bench_cells, bench_notes

    with progress_bar() as update:
        result = benchmark(
            bundle,
            list(engines) or None,
            scope=scope,
            threads=threads,
            seconds=seconds,
            calls=calls,
            processes=processes,
            progress=update,
        )
    if output is not None:
        write_json(result.to_json(), output, overwrite=overwrite)
    if as_json:
        show_json(result.to_json())
    else:
        size = "x".join(map(str, result.size))
        show_table(
            bench_cells(result), f"{result.bundle}: {result.preset}, graph {result.graph}, {size}, on {result.machine.cpu}"
        )
        show_lines(bench_notes(result))
    for error in result.errors():
        say(f"error: {error}")
    return INTERRUPTED_EXIT_STATUS if result.interrupted else _status(result.errors(), len(result.rows))


def _status(errors: list[IcfError], rows: int) -> int:
    """0 without errors; the errors' own status where nothing else was measured and they agree; else 1."""
    statuses = {error.exit_status for error in errors}
    if not statuses:
        return 0
    return statuses.pop() if len(errors) == rows and len(statuses) == 1 else 1
