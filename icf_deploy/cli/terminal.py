"""What commands print: results to standard output, everything else to standard error; plain where nobody looks."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from icf_deploy.text_output import write_text

Update = Callable[[int, int, str], None]
"""update(done, total, what): moves a progress bar."""


def show_json(document: Any) -> None:
    """The one JSON document on standard output."""
    click.echo(json.dumps(_finite(document), indent=1, ensure_ascii=False, allow_nan=False))


def show_table(lines: Sequence[Sequence[str]], title: str = "") -> None:
    """A header and its lines on standard output: a rich table on a terminal, aligned columns of text in a pipe.

    On a terminal that is too narrow for that, a block per line: no cell is cut.
    """
    from icf_deploy.benchmarks.columns import aligned, gap, narrowest, stacked

    if not sys.stdout.isatty():
        click.echo((title + "\n" if title else "") + aligned(lines))
        return
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if narrowest(lines) > console.width:
        click.echo((title + "\n" if title else "") + stacked(lines))
        return
    rule = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")  # a line under the header, and no other
    table = Table(box=rule, title=title or None, title_style="", title_justify="left", pad_edge=False,
                  padding=(0, gap(lines) - 1, 0, 0), show_edge=False)  # fmt: skip
    for index, name in enumerate(lines[0]):
        table.add_column(
            Text(name), justify="right" if index else "left", vertical="bottom", no_wrap=index > 0, overflow="fold"
        )
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    console.print(table)


def show_lines(lines: Sequence[str]) -> None:
    """Lines of text on standard output."""
    for line in lines:
        click.echo(line)


def say(line: str) -> None:
    """A message for the person, on standard error."""
    click.echo(line, err=True)


@contextmanager
def progress_bar() -> Iterator[Update | None]:
    """Gives what moves a progress bar on standard error; None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    # Drawn only when it moves: a thread that redraws ten times a second would disturb what is being timed.
    # Lines that are printed meanwhile go above it, but standard output in a pipe stays what it is.
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what, refresh=True)


def write_json(document: Any, path: Path, *, overwrite: bool) -> None:
    """Write a JSON file, complete or not at all. Raises WorkError as `write_text` does."""
    write_text(json.dumps(_finite(document), allow_nan=False) + "\n", path, overwrite=overwrite)


def _finite(value: Any) -> Any:
    """The document with null for every number that is not finite: JSON knows none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
