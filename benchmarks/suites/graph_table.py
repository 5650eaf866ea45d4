"""Every graph of a bundle on every engine of this machine: latency, drift, size, and the formats that really ran, as Markdown.

    icf-deploy tune BUNDLE --budget "de2000_p95<=1000" --dry-run --json > tuned.json
    python benchmarks/suites/graph_table.py tuned.json [MORE.json]

The wide budget is there so that every row is timed. Run `tune` on a quiet machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from icf_deploy.benchmarks.memory import MEGABYTE
from icf_deploy.benchmarks.result_file import drift_text

MILLISECOND = 1e6  # nanoseconds
HEAD = (
    "| graph | MB | engine | p50 ms | 95 % | drift p95, mean (worst photo) | nodes that computed, by format |\n"
    "|---|--:|---|--:|--:|--:|---|"
)


@click.command(help=__doc__)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
def main(files: tuple[Path, ...]) -> None:
    for file in files:
        found = json.loads(file.read_text())
        click.echo(f"{found['bundle']['preset']}, {found['bundle']['name']}:\n\n{HEAD}")
        for row in sorted(found["rows"], key=lambda row: (row["graph"], row["engine"])):
            click.echo(f"| {' | '.join(cells(row))} |")
        settings = found["settings"]
        click.echo(
            f"\n{found['machine']['cpu']}; processes each: {settings['processes']}; "
            + ("; ".join(found["warnings"]) or "no warnings")
            + "\n"
        )


def cells(row: Mapping[str, Any]) -> list[str]:
    """The row of one graph on one engine; the problem, where it did not run."""
    size = f"{row['artefact']['bytes'] / MEGABYTE:.1f}" if row["artefact"]["bytes"] else ""
    start = [row["graph"], size, row["engine"]]
    if row["problem"] is not None or row["drift"] is None:
        return [*start, "refused", "", "", str(row["problem"]).partition(". ")[0]]
    metrics = row["drift"]["metrics"]
    drift = " ".join(
        text.format(drift_text(metrics[name])) for name, text in (("de2000_p95", "{}"), ("de2000_p95_worst", "({})"))
    )
    formats = ", ".join(f"{name} {count}" for name, count in sorted(row["executed"].items()))
    return [*start, *_latency(row), drift, formats]


def _latency(row: Mapping[str, Any]) -> tuple[str, str]:
    median = next((one for one in row.get("percentiles_ns", ()) if one["percent"] == 50), None)
    if median is None or median["value"] is None:
        return "not timed", ""
    interval = median["interval"] or {"low": None}
    between = "" if interval["low"] is None else f"{interval['low'] / MILLISECOND:.2f} .. {interval['high'] / MILLISECOND:.2f}"
    return f"{median['value'] / MILLISECOND:.2f}", between


if __name__ == "__main__":
    main()
