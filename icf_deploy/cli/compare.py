"""`icf-deploy compare`: two results of `bench`, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from icf_deploy.cli.options import PATH, json_option
from icf_deploy.cli.terminal import show_json, show_lines, show_table
from icf_deploy.errors import WorkError

if TYPE_CHECKING:
    from icf_deploy.benchmarks.comparison import ComparedRow, ResultComparison
    from icf_deploy.benchmarks.result_file import Result

HEADER = ("engine", "A p50\nms", "B p50\nms", "B / A", "95 %", "B is", "drift\nA", "drift\nB")


@click.command("compare", short_help="Compare two results of bench.")
@click.argument("a", type=PATH, metavar="A.json")
@click.argument("b", type=PATH, metavar="B.json")
@click.option("--force", is_flag=True, help="Compare all the same where device, driver, scope or settings differ.")
@json_option
def command(a: Path, b: Path, *, force: bool, as_json: bool) -> None:
    """Compare two results that `icf-deploy bench -o` wrote.

    Engines that both have are compared, B with A. Where device, driver, engine version, scope or settings differ, that is said
    and the exit status is 4: such numbers say nothing about the engines.
    """
    from icf_deploy.benchmarks.comparison import compare_results
    from icf_deploy.benchmarks.result_file import read_result

    first, second = read_result(a), read_result(b)
    try:
        found = compare_results(first, second, force=force)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise WorkError(f"{a} or {b} is a damaged result ({error!r}): measure it again") from error
    if as_json:
        show_json({**found.to_json(), "a": str(a), "b": str(b)})
    else:
        _show(found, (a, first), (b, second))


def _show(found: ResultComparison, *results: tuple[Path, Result]) -> None:
    import textwrap

    from icf_deploy.benchmarks.columns import WIDTH

    show_lines([f"{name}: {path}, {result['created']}" for name, (path, result) in zip("AB", results, strict=True)])
    if found.differences:
        show_lines(["NOT COMPARABLE, compared because of --force:", *(f"- {line}" for line in found.differences)])
    show_table([HEADER, *map(_cells, found.rows)])
    seen = [f"{row.label} {row.ratio.smallest_effect:.1%}" for row in found.rows if row.ratio is not None]
    notes = [
        "B / A: ratio of the median latencies; drift: CIEDE2000 p95, mean over photos",
        *([f"smallest difference that would have been seen: {', '.join(seen)}"] if seen else []),
        *found.notes,
    ]
    show_lines([line for note in notes for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ")])


def _cells(row: ComparedRow) -> tuple[str, ...]:
    from icf_deploy.benchmarks.report import milliseconds
    from icf_deploy.benchmarks.result_file import drift_text

    drifts = ["-" if value is None else drift_text(value) for value in (row.a_drift, row.b_drift)]
    verdict = ("-", "-", "-")
    if row.ratio is not None:
        words = row.ratio.verdict.replace("difference ", "difference\n")
        verdict = (f"{row.ratio.ratio:.3f}", f"{row.ratio.low:.3f} .. {row.ratio.high:.3f}", words)
    return row.label, milliseconds(row.a_ns), milliseconds(row.b_ns), *verdict, *drifts
