"""What each exact rewrite brings: latency, memory, multiplications, nodes and bytes, rewrite after rewrite.

    python benchmarks/suites/lowering.py export CHECKPOINT FOLDER [--size 256] [--pieces N ...] [--ends-only]
    python benchmarks/suites/lowering.py measure FOLDER [--engine ort:cpu] [--rounds 12] [--only LABEL ...]
    python benchmarks/suites/lowering.py table FOLDER [--engine ort:cpu]

`export` writes one graph per rewrite, each with that rewrite and all before it (`--ends-only`: just the plain and the fully
lowered one; `--pieces`: fully lowered, with another number of pieces), and what the graph itself says into figures.json.
`measure` compares graphs with the plain one, a few at a time, each alone in a process of its own, and adds to ENGINE.json;
what is there is not measured again. `table` prints both as Markdown. CHECKPOINT is a file or a preset with random weights.
Run `measure` on a quiet machine.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from icf_deploy.benchmarks import Candidate, compare
from icf_deploy.benchmarks.memory import MEGABYTE
from icf_deploy.benchmarks.report import running_memory

PLAIN, LOWERED = "plain", "lowered"
TOGETHER = 3  # graphs that are compared with the plain one in one run; a large network loads for seconds
FIGURES = "figures.json"
MILLISECOND = 1e6  # nanoseconds


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("checkpoint")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--size", default=256, show_default=True)
@click.option("--pieces", multiple=True, type=int)
@click.option("--ends-only", is_flag=True)
def export(*, checkpoint: str, folder: Path, size: int, pieces: tuple[int, ...], ends_only: bool) -> None:
    """Write the graphs and their figures."""
    import onnx
    import torch

    from icf_deploy.export.graph import example_gray, to_onnx
    from icf_deploy.export.lowering import REWRITES, lower, lower_graph
    from icf_deploy.export.statistics import statistics
    from icf_deploy.network.checkpoint import load_checkpoint
    from icf_deploy.network.presets import PRESETS, build

    torch.manual_seed(0)
    network = build(checkpoint).eval() if checkpoint in PRESETS else load_checkpoint(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"size": size, "preset": network.preset, "graphs": {}}

    def keep(label: str, model: onnx.ModelProto, reason: str = "") -> None:
        onnx.save(model, folder / f"{label}.onnx")
        figures["graphs"][label] = {**asdict(statistics(model)), "reason": reason}
        (folder / FIGURES).write_text(json.dumps(figures, indent=1))
        click.echo(f"{label}: {len(model.graph.node)} nodes")

    keep(PLAIN, to_onnx(network, (example_gray((size, size)),)))
    stages = [(LOWERED, len(REWRITES), None)]
    if not ends_only:
        stages = [(name, i + 1, None) for i, name in enumerate(REWRITES)]
    stages += [(f"pieces-{n}", len(REWRITES), n) for n in pieces]
    for label, count, cut in stages:
        later = REWRITES[count:]
        lowered = lower(network, (size, size), keep=later, pieces=cut)
        rewritten = lower_graph(to_onnx(lowered.network, (example_gray((size, size)),)), keep=later)
        outcomes = {outcome.name: outcome for outcome in (*lowered.outcomes, *rewritten.outcomes)}
        if label in outcomes and not outcomes[label].applied:
            click.echo(f"{label}: {outcomes[label].reason}")
            continue
        keep(label, rewritten.model, outcomes[label].reason if label in outcomes else "")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--engine", default="ort:cpu", show_default=True)
@click.option("--rounds", default=12, show_default=True)
@click.option(
    "--processes", default=4, show_default=True, help="Fresh ones of each graph; the interval comes from their spread."
)
@click.option("--threads", default=2, show_default=True)
@click.option("--seconds", default=0.0, help="Start no further comparison after so many seconds.")
@click.option("--only", multiple=True)
def measure(
    *, folder: Path, engine: str, rounds: int, processes: int, threads: int, seconds: float, only: tuple[str, ...]
) -> None:
    """Compare graphs with the plain one."""
    import numpy as np

    start = time.monotonic()
    labels = [label for label in json.loads((folder / FIGURES).read_text())["graphs"] if label != PLAIN]
    results = _results(folder, engine)
    missing = [label for label in labels if label not in results and (not only or label in only)]
    photos = _photos(json.loads((folder / FIGURES).read_text())["size"])
    while missing and (not seconds or time.monotonic() - start < seconds):
        chosen, missing = missing[:TOGETHER], missing[TOGETHER:]
        found = compare(
            [Candidate(label, runtime=engine, threads=threads, file=folder / f"{label}.onnx") for label in (PLAIN, *chosen)],
            baseline=PLAIN,
            rounds=rounds,
            processes=processes,
            seconds_per_turn=0.3,
            calls_per_turn=2,
            inputs=photos,
        )
        for label in chosen:
            ratio, rows = found.ratio(label), (found.row(label), found.row(PLAIN))
            if ratio is None or any(row.error for row in rows):
                click.echo(f"{label}: {[row.error for row in rows]}")
                continue
            memory = [running_memory(row) for row in rows]
            results[label] = {
                "ratio": [ratio.ratio, ratio.low, ratio.high],
                "milliseconds": [float(np.median(row.samples)) / MILLISECOND for row in rows],
                "running_mb": [None if held is None else held / MEGABYTE for held in memory],
                "cpu": found.machine.cpu,
                "created": found.created,
                "warnings": found.warnings(),
            }
            click.echo(f"{label}: {ratio.ratio:.3f} ({ratio.low:.3f} .. {ratio.high:.3f})")
        _path(folder, engine).write_text(json.dumps(results, indent=1))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--engine", default="ort:cpu", show_default=True)
def table(folder: Path, engine: str) -> None:
    """Print what was exported and measured as Markdown. Memory: of the graph's activations; while running."""
    figures = json.loads((folder / FIGURES).read_text())
    results = _results(folder, engine)
    click.echo(f"{figures['preset']} at {figures['size']}x{figures['size']}, {engine}\n")
    click.echo("| rewrite | time | ms (plain) | GMAC | activations MB | running MB (plain) | nodes | MB |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for label, graph in figures["graphs"].items():
        cells = [label, "1", "", f"{graph['gmac']:.2f}", f"{graph['peak_bytes'] / 1e6:.1f}", ""]
        if label in results:
            found = results[label]
            ratio, low, high = found["ratio"]
            cells[1] = f"{ratio:.3f} ({low:.3f}-{high:.3f})"
            cells[2] = "{:.1f} ({:.1f})".format(*found["milliseconds"])
            if None not in found["running_mb"]:
                cells[5] = "{:.0f} ({:.0f})".format(*found["running_mb"])
        click.echo(f"| {' | '.join([*cells, str(graph['nodes']), format(graph['bytes'] / 1e6, '.2f')])} |")


def _photos(size: int) -> Any:
    from icf_deploy.export.reference import reference_gray

    return reference_gray((size, size))[1]


def _path(folder: Path, engine: str) -> Path:
    return folder / f"{engine.replace(':', '-')}.json"


def _results(folder: Path, engine: str) -> dict[str, Any]:
    path = _path(folder, engine)
    return json.loads(path.read_text()) if path.is_file() else {}


if __name__ == "__main__":
    main()
