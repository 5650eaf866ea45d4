"""Every recipe of blocks that there is, measured: what the search for the front is held against.

    python benchmarks/suites/block_recipes.py export CHECKPOINT FOLDER [--only SET ...] [--seconds S]
    python benchmarks/suites/block_recipes.py measure FOLDER [--only SET ...] [--seconds S]
    python benchmarks/suites/block_recipes.py table FOLDER [--csv FILE]

A recipe is a number: bit i says which of two formats block i (`export/precision/blocks.py`) is asked to compute in. There are
three sets of 256, each on one engine; see SETS. `export` writes the graphs and measures the drift of each on its engine, on
the packaged photos. `measure` times them, a group at a time inside one process, in shuffled rounds with the float32 graph, and
again in other processes among others; what a round did to all in it is taken out of every latency (`without_rounds`). Both go
on where they were. `table` prints, for each budget, the fastest recipe inside it, what the search finds when this table
measures for it, and the best uniform recipe. Run `measure` on a quiet machine.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from icf_deploy.benchmarks.clock import StopRule, collector_frozen, sample
from icf_deploy.benchmarks.stats import order_statistic_interval
from icf_deploy.errors import IcfError

if TYPE_CHECKING:
    from icf_deploy.export.precision.space import Space

FloatArray = np.ndarray[tuple[int], np.dtype[np.float64]]

BUDGETS = (0.5, 1.0, 2.0)  # de2000_p95
METRIC, MEAN = "de2000_p95", "de2000_mean"
PLAN, DRIFT = "plan.json", "drift.json"
GROUP = 32  # recipes that share a process, and with the float32 graph a round
ROUNDS = 3  # in one process
CALLS = 4  # timed in one turn, after one that is not
WARM_UP = 2  # calls of every session before the first round
PROCESSES = 3  # that every recipe is timed in, each time among others
MEDIAN = 50  # per cent
POLISHES = 20  # passes of median polish; it settles in a few
MILLISECOND = 1e6  # nanoseconds
BASELINE = -1  # the float32 graph
FLOAT32_FILE = "fp32.onnx"
CACHE = {"ICF_DEPLOY_CACHE_LIMIT": "40000"}  # MiB: what OpenVINO compiles is kept in the folder, all of it


@dataclass(frozen=True)
class RecipeSet:
    """All recipes with one of two options in each block (`export/precision/space.py`), on one engine. first: of block 0."""

    engine: str
    first: tuple[str, str]
    others: tuple[str, str]

    def options(self, number: int, blocks: int) -> tuple[str, ...]:
        """The options that recipe `number` stands for."""
        return tuple((self.first if i == 0 else self.others)[number >> i & 1] for i in range(blocks))

    @property
    def files(self) -> str:
        """Sets of the same graphs share their files."""
        return "-".join((*self.first, *self.others)).replace("/", "")


SETS = {
    "ort": RecipeSet("ort:cpu", ("wide", "int8"), ("wide", "int8")),
    # The first block drifts beyond every budget in int8, so there the choice is whether bf16 may have it.
    "openvino": RecipeSet("openvino:cpu", ("wide", "bf16"), ("bf16", "int8")),
    "openvino-bf16": RecipeSet("openvino:cpu-bf16", ("wide", "int8"), ("wide", "int8")),
}


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("checkpoint")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--only", multiple=True, type=click.Choice(list(SETS)), default=list(SETS), show_default=True)
@click.option("--size", default=256, show_default=True)
@click.option("--seconds", default=float("inf"), help="Begin nothing after so many seconds.")
def export(*, checkpoint: str, folder: Path, only: tuple[str, ...], size: int, seconds: float) -> None:
    """Write the graphs and measure their drift."""
    import onnx_ir as ir

    from icf_deploy.export.graph import example_gray, to_onnx
    from icf_deploy.export.lowering import lower, lower_graph
    from icf_deploy.export.pipeline import open_source
    from icf_deploy.export.precision.identity import network_digest
    from icf_deploy.export.precision.photos import packaged_photos
    from icf_deploy.export.precision.probe import DriftProbe
    from icf_deploy.export.precision.recipe import Recipe
    from icf_deploy.export.precision.scale_cache import calibrated
    from icf_deploy.export.precision.sensitivity import noisy_products
    from icf_deploy.export.precision.space import FLOAT32, Parts

    start = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    _keep_engines_in(folder)
    network = open_source(checkpoint).network
    model = lower_graph(to_onnx(lower(network, (size, size)).network, (example_gray((size, size)),))).model
    photos = packaged_photos((size, size))
    calibration = calibrated(model, photos)
    base = Recipe(network.preset, (size, size), network_digest(model), FLOAT32)
    parts = Parts.of(base, ir.from_proto(model).graph, noisy_products(calibration))
    blocks = tuple(block for block, products in parts.products.items() if products)
    plan = {"network": base.digest, "preset": network.preset, "stride": network.stride, "size": [size, size],
            "blocks": list(blocks), "borders": sorted(map(list, parts.borders)), "photos": photos.source,
            "views": len(photos.names)}  # fmt: skip
    if _read(folder / PLAN) not in ({}, plan):
        raise click.UsageError(f"{folder} holds the recipes of another network: choose another folder")
    _write(folder / PLAN, plan)
    (folder / FLOAT32_FILE).write_bytes(model.SerializeToString())
    probe = DriftProbe(model, calibration, photos, stride=network.stride)
    found = _read(folder / DRIFT)
    for name in only:
        one = SETS[name]
        drifts = found.setdefault(name, {})
        for number in (BASELINE, *range(2 ** len(blocks))):
            if time.monotonic() - start > seconds:
                click.echo("time is over: the same command goes on")
                return
            if str(number) in drifts:
                continue
            options = ("wide",) * len(blocks) if number == BASELINE else one.options(number, len(blocks))
            try:
                drift, applied = probe.measure(parts.recipe(blocks, options), engine=one.engine)
            except IcfError as error:
                raise click.ClickException(f"recipe {number} of {name}: {error}") from error
            if number != BASELINE:
                _graph(folder, one, number).write_bytes(applied.model.SerializeToString())
            drifts[str(number)] = [round(drift.value(METRIC), 4), round(drift.value(MEAN), 4), applied.label]
            _write(folder / DRIFT, found)
            click.echo(f"{name} {number}: {drifts[str(number)][0]}")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--only", multiple=True, type=click.Choice(list(SETS)), default=list(SETS), show_default=True)
@click.option("--processes", default=PROCESSES, show_default=True)
@click.option("--rounds", default=ROUNDS, show_default=True)
@click.option("--calls", default=CALLS, show_default=True)
@click.option("--seconds", default=float("inf"), help="Begin nothing after so many seconds.")
def measure(*, folder: Path, only: tuple[str, ...], processes: int, rounds: int, calls: int, seconds: float) -> None:
    """Time every recipe."""
    start = time.monotonic()
    _keep_engines_in(folder)
    plan = _read(folder / PLAN)
    for process in range(processes):
        for name in only:
            results = _read(_times(folder, name))
            done = {entry["recipe"] for entry in results.get("turns", []) if entry["process"] == process}
            for group in groups(2 ** len(plan["blocks"]), process):
                if set(group) <= done:
                    continue
                if time.monotonic() - start > seconds:
                    click.echo("time is over: the same command goes on")
                    return
                turns = _timed_apart(folder, name=name, group=group, process=process, rounds=rounds, calls=calls)
                results.setdefault("turns", []).extend(turns)
                _write(_times(folder, name), results)
                done |= set(group)
                click.echo(
                    f"{name}, process {process + 1} of {processes}: {len(done)} recipes, {time.monotonic() - start:.0f} s"
                )


@main.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.argument("work")
def worker(folder: Path, work: str) -> None:
    """Time a group of recipes in this process; prints the turns as JSON."""
    asked = json.loads(work)
    sys.stdout.write(json.dumps(list(time_group(folder, **asked))))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--csv", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write every recipe as a line, too.")
def table(folder: Path, file: Path | None) -> None:
    """Print what the budgets cost, as Markdown."""
    plan, drifts = _read(folder / PLAN), _read(folder / DRIFT)
    rows = {name: rows_of(name, plan, drifts[name], _read(_times(folder, name))["turns"])
            for name in drifts if _times(folder, name).is_file()}  # fmt: skip
    click.echo(markdown(plan, rows))
    if file is None:
        return
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("set", "engine", "recipe", *plan["blocks"], METRIC, MEAN, "ms", "time_of_fp32", "low", "high"))
        for name, found in rows.items():
            for row in found.values():
                ratio = (f"{x:.4f}" for x in (row.ratio.ratio, row.ratio.low, row.ratio.high))
                number = "fp32" if row.number == BASELINE else row.number
                writer.writerow((name, SETS[name].engine, number, *row.options, row.drift, row.mean, f"{row.ms:.3f}", *ratio))


@dataclass(frozen=True)
class Ratio:
    """Latency over that of the float32 graph, and its 95 % interval by order statistics over the turns."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One recipe. options: of every block. ms: median of its turns. ratio: to the float32 graph."""

    number: int
    options: tuple[str, ...]
    drift: float
    mean: float
    ms: float
    ratio: Ratio

    @property
    def uniform(self) -> bool:
        """Whether all blocks have the same option."""
        return len(set(self.options)) == 1


def groups(count: int, process: int) -> Iterator[list[int]]:
    """All recipes, in groups that differ from process to process."""
    order = random.Random(process).sample(range(count), count)
    for start in range(0, len(order), GROUP):
        yield order[start : start + GROUP]


def time_group(folder: Path, *, name: str, group: list[int], process: int, rounds: int, calls: int) -> Iterator[dict[str, Any]]:
    """Turns of the float32 graph and a group of recipes, shuffled anew in every round: medians in ms."""
    from icf_deploy.export.reference import reference_gray
    from icf_deploy.runtimes import registry
    from icf_deploy.runtimes.base import Target

    plan, one = _read(folder / PLAN), SETS[name]
    labels = _labels(folder, one)
    gray = reference_gray((plan["size"][0], plan["size"][1]))[1]
    runtime_name, device = registry.split(one.engine)
    runtime = registry.get(runtime_name)
    order = random.Random(process * 1000 + group[0])
    with ExitStack() as stack, collector_frozen():
        sessions = {}
        for number in (BASELINE, *group):
            path = folder / FLOAT32_FILE if number == BASELINE else _graph(folder, one, number)
            built = runtime.build(_as_graph(path, plan, labels[str(number)]), Target(device))
            sessions[number] = stack.enter_context(runtime.open(built))
            for photo in gray[:WARM_UP]:
                sessions[number].run(photo[None])
        for turn in range(rounds):
            photo = gray[turn % len(gray)][None]
            for number in order.sample(list(sessions), len(sessions)):
                session = sessions[number]
                session.run(photo)
                taken = sample(lambda _, run=session.run, x=photo: void(run(x)), StopRule(seconds=0.0, calls=calls))  # type: ignore[misc]
                yield {"recipe": number, "process": process, "group": group[0], "round": turn,
                       "ms": round(float(np.median(taken)) / MILLISECOND, 5)}  # fmt: skip


def void(_: object) -> None:
    """Drop a result where a call returns nothing."""


def rows_of(name: str, plan: dict[str, Any], drifts: dict[str, Any], turns: Sequence[dict[str, Any]]) -> dict[int, Row]:
    """Every recipe of a set that was timed: its latency over that of the float32 graph."""
    numbers = sorted({turn["recipe"] for turn in turns})
    levelled = without_rounds(turns)
    baseline = float(np.median(levelled[BASELINE]))
    count = len(plan["blocks"])
    rows = {}
    for number in numbers:
        interval = order_statistic_interval(levelled[number], MEDIAN)
        ends = (interval.low or levelled[number].min(), interval.high or levelled[number].max())
        ratio = Ratio(*(float(np.exp(x - baseline)) for x in (np.median(levelled[number]), *ends)))
        value, mean, _ = drifts[str(number)]
        options = ("wide",) * count if number == BASELINE else SETS[name].options(number, count)
        ms = float(np.median([turn["ms"] for turn in turns if turn["recipe"] == number]))
        rows[number] = Row(number, options, value, mean, ms, ratio)
    return rows


def without_rounds(turns: Sequence[dict[str, Any]]) -> dict[int, FloatArray]:
    """{recipe: log latency of each of its turns, less what its round did to all recipes in it}.

    In a round 33 engines are timed within seconds, so what the machine did then is seen better in all of them than in the one
    turn of the float32 graph: log latency = recipe + round, by median polish (Tukey, "Exploratory data analysis", 1977), which
    a disturbed turn does not move. The rounds' effects have the median 0.
    """
    recipes, recipe = np.unique([turn["recipe"] for turn in turns], return_inverse=True)
    names = [(turn["process"], turn["group"], turn["round"]) for turn in turns]
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    rounds = np.array([order[name] for name in names])
    logs = np.log([turn["ms"] for turn in turns])
    mine = [np.flatnonzero(recipe == i) for i in range(len(recipes))]
    inside = [np.flatnonzero(rounds == i) for i in range(len(order))]
    of_round = np.zeros(len(order))
    wide = [number for number, turn in enumerate(turns) if turn["recipe"] == BASELINE]
    of_round[rounds[wide]] = logs[wide]  # a start from which it settles at once where nothing was disturbed
    for _ in range(POLISHES):
        of_round -= np.median(of_round)
        of_recipe = np.array([np.median(logs[turns_of] - of_round[rounds[turns_of]]) for turns_of in mine])
        of_round = np.array([np.median(logs[turns_of] - of_recipe[recipe[turns_of]]) for turns_of in inside])
    return {int(number): logs[turns_of] - of_round[rounds[turns_of]] for number, turns_of in zip(recipes, mine, strict=True)}


class TableOracle:
    """Answers a search from what was measured of every recipe; notes what it was asked."""

    def __init__(self, rows: dict[int, Row]) -> None:
        self._rows = {row.options: row for number, row in rows.items() if number != BASELINE}
        self._base = rows[0]  # what the search compares with: the first option in every block
        self.drifts: set[tuple[str, ...]] = set()
        self.times: set[tuple[str, ...]] = set()

    def row(self, choice: Sequence[str]) -> Row:
        """The recipe of a choice of the search."""
        return self._rows[tuple(choice)]

    def drift(self, choice: tuple[str, ...]) -> Any:
        """Its drift."""
        from icf_deploy.export.precision.search import Drifted

        self.drifts.add(choice)
        return Drifted(self.row(choice).drift, self.row(choice).mean)

    def time(self, choices: Sequence[tuple[str, ...]]) -> list[Any]:
        """Their latencies."""
        from icf_deploy.export.precision.search import Timed

        self.times.update(choices)
        base = self._base.ratio.ratio
        found = [(self.row(choice).ratio, self.row(choice).ms) for choice in choices]
        return [Timed(time.ratio / base, time.low / base, time.high / base, ms, self._base.ms) for time, ms in found]


def space_of(name: str, plan: dict[str, Any]) -> Space:
    """What the search chooses among in a set."""
    from icf_deploy.export.precision.space import Space

    one, blocks = SETS[name], tuple(plan["blocks"])
    options = tuple(one.first if i == 0 else one.others for i in range(len(blocks)))
    return Space(blocks, options, frozenset((a, b) for a, b in plan["borders"]))


def searched(name: str, plan: dict[str, Any], rows: dict[int, Row]) -> tuple[dict[float, Row | None], TableOracle]:
    """What the search answers for each budget when the table measures for it."""
    from icf_deploy.export.precision.auto import STEPS
    from icf_deploy.export.precision.search import search

    oracle = TableOracle(rows)
    result = search(space_of(name, plan), oracle, BUDGETS, steps=STEPS)
    return {budget: None if best is None else oracle.row(best.choice) for budget, best in result.best.items()}, oracle


def markdown(plan: dict[str, Any], sets: dict[str, dict[int, Row]]) -> str:
    """For each set and budget: fastest of all, the search's answer, the best uniform recipe."""
    every = 2 ** len(plan["blocks"]) + 1
    lines = [
        "| set | p95 <= | inside | fastest of all: time / fp32 | the search: time / fp32 | search / fastest "
        "| best uniform: time / fp32 | search / uniform | the search's recipe |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    notes = []
    for name, rows in sets.items():
        if len(rows) < every:
            notes.append(f"{name}: {len(rows)} of {every} recipes are timed.")
            continue
        found, oracle = searched(name, plan, rows)
        for budget in BUDGETS:
            inside = [row for row in rows.values() if row.drift <= budget]
            mixed = [row for row in inside if row.number != BASELINE]
            answer = found[budget]
            if not mixed or answer is None:
                lines.append(f"| {name} | {budget:g} | {len(mixed)} | none | none | | | | |")
                continue
            fastest = min(mixed, key=lambda row: row.ratio.ratio)
            uniform = min((row for row in inside if row.uniform), key=lambda row: row.ratio.ratio, default=None)
            cells = [name, f"{budget:g}", str(len(mixed)), _shown(fastest), _shown(answer)]
            cells.append(f"{answer.ratio.ratio / fastest.ratio.ratio:.3f}")
            cells += ["none", "-"] if uniform is None else [
                f"{uniform.options[0]} {_shown(uniform)}", f"{answer.ratio.ratio / uniform.ratio.ratio:.3f}"
            ]  # fmt: skip
            lines.append(f"| {' | '.join([*cells, _words(answer, plan)])} |")
        notes.append(
            f"{name}: {SETS[name].engine}, fp32 {rows[BASELINE].ms:.2f} ms. The search asked for {len(oracle.drifts)} drifts "
            f"and {len(oracle.times)} latencies. Half of all 95 % intervals are within {_width(rows):.1%} to each side."
        )
    return "\n".join([*lines, "", *notes])


def _shown(row: Row) -> str:
    return f"{row.ratio.ratio:.3f} ({row.ratio.low:.3f} .. {row.ratio.high:.3f})"


def _words(row: Row, plan: dict[str, Any]) -> str:
    """`int8: fusion; wide: the rest`."""
    inside: dict[str, list[str]] = {}
    for block, option in zip(plan["blocks"], row.options, strict=True):
        inside.setdefault(option, []).append(block)
    if len(inside) == 1:
        return f"all {row.options[0]}"
    rest = max(inside, key=lambda option: len(inside[option]))
    return "; ".join([*(f"{o}: {', '.join(blocks)}" for o, blocks in inside.items() if o != rest), f"{rest}: the rest"])


def _width(rows: dict[int, Row]) -> float:
    return float(np.median([row.ratio.high / row.ratio.ratio - 1 for row in rows.values() if row.number != BASELINE]))


def _timed_apart(folder: Path, **work: Any) -> list[dict[str, Any]]:
    """`time_group` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "worker", str(folder), json.dumps(work)], stdout=subprocess.PIPE, check=True, text=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _as_graph(path: Path, plan: dict[str, Any], label: str) -> Any:
    import hashlib

    from icf_deploy.runtimes.base import Graph

    data = path.read_bytes()
    return Graph(data, hashlib.sha256(data).hexdigest(), (plan["size"][0], plan["size"][1]), plan["stride"], label)


def _labels(folder: Path, one: RecipeSet) -> dict[str, str]:
    """{number: formats} of a set's graphs, from any set with the same ones: timing does not have to wait for drift."""
    found = _read(folder / DRIFT)
    return {number: row[2] for name in found if SETS[name].files == one.files for number, row in found[name].items()}


def _keep_engines_in(folder: Path) -> None:
    """What OpenVINO compiles of so many graphs is not for the cache of whoever runs this; measuring again finds it here."""
    os.environ.update(CACHE | {"ICF_DEPLOY_CACHE": str((folder / "engines").resolve())})


def _graph(folder: Path, one: RecipeSet, number: int) -> Path:
    return folder / f"{one.files}-{number:03}.onnx"


def _times(folder: Path, name: str) -> Path:
    return folder / f"times-{name}.json"


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _write(path: Path, values: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(values, indent=1 if path.name == PLAN else None))
    unfinished.replace(path)


if __name__ == "__main__":
    main()
