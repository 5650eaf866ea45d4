"""`icf-deploy bench`: latency, memory, cost and drift of the engines of this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from icf_deploy.cli.command_line import command_line
from icf_deploy.cli.options import (
    PATH,
    digests_option,
    engines_option,
    json_option,
    overwrite_option,
    threads_option,
    trust_option,
)
from icf_deploy.cli.terminal import progress_bar, say, show_json, show_lines, show_table, write_json
from icf_deploy.errors import INTERRUPTED_EXIT_STATUS, IcfError, UsageError, WorkError
from icf_deploy.text_output import require_writable

if TYPE_CHECKING:
    from icf_deploy.benchmarks.bench_result import BenchResult
    from icf_deploy.benchmarks.candidate import Scope
    from icf_deploy.benchmarks.loadgen import LoadgenRule, Scenario

SCOPES = ("engine", "image", "file")
SCENARIOS = ("single-stream", "offline", "server")
COLD_STARTS = 5  # fresh processes in each state of the engine's cache
LOG_SUFFIX = ".loadgen"  # of the folder of LoadGen's logs, beside RESULT.json
POSITIVE = click.FloatRange(min=0, min_open=True)
# Options that say where results go, and not what is measured: left out of the command that measures one row again.
OUTPUTS = ("output", "report", "overwrite", "as_json")


@click.command("bench", short_help="Measure latency, memory, cost and drift of engines.")
@click.argument("bundles", type=PATH, nargs=-1, metavar="[BUNDLE]...")
@engines_option("repeatable, the first is what the others are compared with; by default all that are installed")
@click.option("--scope", type=click.Choice(SCOPES), default="engine", show_default=True,
              help="What is timed: tensors, uint8 photo to uint8 photo, or encoded file to JPEG file.")  # fmt: skip
@click.option("--scenario", type=click.Choice(SCENARIOS),
              help="Let MLCommons LoadGen ask for the photos, instead of rounds of calls back to back.")  # fmt: skip
@click.option("--target-qps", type=POSITIVE, metavar="RATE", help="Photos per second, of --scenario server.")
@click.option("--target-latency", type=POSITIVE, metavar="MS",
              help="Milliseconds for 99 % of the answers, of --scenario server.  [default: 100]")  # fmt: skip
@click.option("--pace", "paces", type=POSITIVE, multiple=True, metavar="FPS",
              help="Time the engines at so many calls a second, too, with pauses; repeatable, such as 30 and 1.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Photos per call; scope engine only.")
@threads_option
@click.option("--photos", type=PATH, metavar="DIR", help="Measure with these photos instead of the bundle's reference set.")
@click.option("--seconds", type=POSITIVE,
              help="Timed calls per engine, at least so long together.  [default: 3; 60 with --scenario]")  # fmt: skip
@click.option("--calls", type=click.IntRange(min=1), default=100, show_default=True, help="Timed calls per engine, at least.")
@click.option("--percentile", "percentiles", type=click.FloatRange(0, 100, min_open=True, max_open=True), multiple=True,
              metavar="P", help="Repeatable; as many calls are made as the highest one needs.  [default: 50, 90]")  # fmt: skip
@click.option("--processes", type=click.IntRange(1, 20), default=5, show_default=True,
              help="Fresh processes per engine, one after the other: two of the same engine differ a little, too.")  # fmt: skip
@click.option(
    "--cold-start", is_flag=True, help="Measure ten fresh processes of each engine, from nothing to the first result."
)
@click.option("--price-per-core-hour", type=POSITIVE, metavar="PRICE", help="Adds what a thousand photos cost on the CPU.")
@click.option("--price-per-gpu-hour", type=POSITIVE, metavar="PRICE", help="The same for engines on the GPU.")
@digests_option
@trust_option
@click.option("-o", "--output", type=PATH, metavar="RESULT.json", help="Write everything, raw samples included.")
@click.option("--report", type=PATH, metavar="R.html", help="Write a report with pictures, one file.")
@overwrite_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    *,
    bundles: tuple[Path, ...],
    engines: tuple[str, ...],
    scope: Scope,
    scenario: Scenario | None,
    target_qps: float | None,
    target_latency: float | None,
    paces: tuple[float, ...],
    batch: int,
    threads: int | None,
    photos: Path | None,
    seconds: float | None,
    calls: int,
    percentiles: tuple[float, ...],
    processes: int,
    cold_start: bool,
    price_per_core_hour: float | None,
    price_per_gpu_hour: float | None,
    expect_digests: tuple[str, ...],
    trust_engines: bool,
    output: Path | None,
    report: Path | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Measure latency, memory, cost and drift of engines on this machine.

    BUNDLE is a bundle, or several; without it the shipped icf-edge. Each engine lives alone in a process and they take turns in
    shuffled rounds, after a warm-up that lasts until the latency is stable. An engine that fails costs its row, and exit
    status 1. docs/benchmarks.md says what every figure means.
    """
    rule = _rule(scenario, target_qps=target_qps, target_latency=target_latency, seconds=seconds, calls=calls, batch=batch)
    if output is not None and report is not None and output.absolute() == report.absolute():
        raise UsageError(f"-o and --report both name {output}: give them different names")
    for path in (output, report):
        if path is not None:
            require_writable(path, overwrite=overwrite)
    logs = None if output is None or rule is None else output.with_name(output.stem + LOG_SUFFIX)
    if logs is not None and logs.exists() and not overwrite:
        raise WorkError(f"{logs} exists and LoadGen's logs belong there: choose another -o, or give --overwrite to replace it")
    from icf_deploy.benchmarks.bench import PERCENTS, SECONDS, benchmark
    from icf_deploy.benchmarks.cost import Prices
    from icf_deploy.benchmarks.inputs import photos_in

    with progress_bar() as update:
        result = benchmark(
            bundles or None,
            list(engines) or None,
            scope=scope,
            threads=threads,
            seconds=seconds or SECONDS,
            calls=calls,
            percentiles=percentiles or PERCENTS,
            batch=batch,
            processes=processes,
            photos=None if photos is None else photos_in(photos),
            paces=paces,
            loadgen=rule,
            log_folder=logs,
            cold_starts=COLD_STARTS if cold_start else 0,
            prices=Prices(price_per_core_hour, price_per_gpu_hour),
            expect_digests=expect_digests,
            trust_engines=trust_engines,
            progress=update,
        )
    result = _with_commands(result, context, bundles)
    if as_json:
        show_json(result.to_json())
    else:
        _show(result)
    if output is not None:
        write_json(result.to_json(), output, overwrite=overwrite)
    if report is not None:
        from icf_deploy.benchmarks.html_report import write_report

        write_report(result.to_json(), report, overwrite=overwrite)
    for error in result.errors():
        say(f"error: {error}")
    return INTERRUPTED_EXIT_STATUS if result.interrupted else _status(result.errors(), len(result.rows))


def _rule(
    scenario: Scenario | None,
    *,
    target_qps: float | None,
    target_latency: float | None,
    seconds: float | None,
    calls: int,
    batch: int,
) -> LoadgenRule | None:
    """What LoadGen is asked for; None without --scenario. Raises UsageError for options that need another scenario."""
    if scenario is None:
        if target_qps is not None or target_latency is not None:
            raise click.UsageError("--target-qps and --target-latency belong to --scenario server")
        return None
    if scenario != "server" and target_latency is not None:
        raise click.UsageError("--target-latency belongs to --scenario server")
    from icf_deploy.benchmarks.loadgen import SECONDS, TARGET_LATENCY_MS, LoadgenRule

    rule = LoadgenRule(scenario, seconds or SECONDS, calls, batch, target_qps, target_latency or TARGET_LATENCY_MS)
    rule.check()
    return rule


def _show(result: BenchResult) -> None:
    from icf_deploy.benchmarks.bench_table import bench_cells, bench_notes, bench_plot, cold_start_cells

    titles = [f"{one.name}: {one.preset}, graph {one.graph}, {'x'.join(map(str, one.size))}" for one in result.bundles]
    show_table(bench_cells(result), "\n".join([*titles[:-1], f"{titles[-1]}, on {result.machine.cpu}"]))
    for block in (bench_plot(result), cold_start_cells(result)):
        if block:
            show_lines([""])
            show_lines(block) if isinstance(block[0], str) else show_table(block)
    show_lines(["", *bench_notes(result)])


def _with_commands(result: BenchResult, context: click.Context, bundles: tuple[Path, ...]) -> BenchResult:
    """The result with the commands that measure it, and each of its rows, again."""
    given = context.params
    for row in result.rows:
        alone = {name: given[name][row.bundle : row.bundle + 1] for name in ("bundles", "expect_digests")}
        row.command = command_line(context, {**given, **alone, "engines": (row.engine,)}, without=OUTPUTS)
    return dataclasses.replace(result, command=command_line(context, given))


def _status(errors: list[IcfError], rows: int) -> int:
    """0 without errors; the errors' own status where nothing else was measured and they agree; else 1."""
    statuses = {error.exit_status for error in errors}
    if not statuses:
        return 0
    return statuses.pop() if len(errors) == rows and len(statuses) == 1 else 1
