"""What a search leaves behind: the recipes that are worth a graph in the bundle, and the table of everything measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from icf_deploy.bundle.sensitivity import Gain, Part, Point, Ratio, Run
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.export.precision.search import Found, Result, Timed
from icf_deploy.export.precision.space import BF16, INT8, Parts, Space

WORTH_A_GRAPH = 0.03  # of the latency: what gains less is not worth its megabytes in the bundle
BF16_EVERYWHERE = "-bf16"  # ending of engines that compute in bf16 what a graph leaves in float32


@dataclass(frozen=True)
class Searched:
    """The search on one engine."""

    engine: str
    space: Space
    result: Result

    @property
    def runtime(self) -> str:
        """`openvino` of `openvino:cpu-bf16`."""
        return self.engine.partition(":")[0]

    @property
    def wide_milliseconds(self) -> float:
        """Latency of the float32 graph here: the median over all comparisons, in each of which it was the baseline."""
        baselines = [found.timed.baseline for found in self.result.measured if found.timed is not None]
        known = [baseline for baseline in baselines if math.isfinite(baseline)]
        return statistics.median(known) if known else math.inf

    def milliseconds(self, found: Found) -> float:
        """Latency of a recipe: its paired ratio times that of the float32 graph. Infinite where it was not timed."""
        return math.inf if found.timed is None else found.timed.ratio * self.wide_milliseconds


@dataclass(frozen=True)
class Extra:
    """A recipe that was measured beside the searches: drift and latency by engine."""

    name: str
    recipe: Recipe
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Chosen:
    """A recipe that gets a graph, and for what it was chosen."""

    recipe: Recipe
    engine: str
    budget: float
    drift: float
    milliseconds: float
    ratio: Ratio


def choose(searched: Sequence[Searched], parts: Parts, others: Sequence[Extra]) -> dict[str, Chosen]:
    """{name: recipe} of the graphs worth having beside the float32 one and `others`: for each runtime and budget the fastest.

    The name says for what: `openvino-1` is the fastest found with OpenVINO inside the budget 1. A recipe is left out where
    the graphs that are there already, on any device of that runtime, come as near as WORTH_A_GRAPH.
    """
    chosen: dict[str, Chosen] = {}
    for runtime in dict.fromkeys(one.runtime for one in searched):
        mine = [one for one in searched if one.runtime == runtime]
        there = [(run.de2000_p95, run.milliseconds or math.inf) for extra in others for run in extra.runs
                 if run.engine.partition(":")[0] == runtime]  # fmt: skip
        there += [(found.drift.value, one.wide_milliseconds) for one in mine for found in one.result.measured
                  if found.choice == one.space.base]  # fmt: skip
        for budget in sorted(mine[0].result.best):
            best = [(one, found) for one in mine if (found := one.result.best[budget]) is not None]
            if not best:
                continue
            one, found = min(best, key=lambda pair: pair[0].milliseconds(pair[1]))
            milliseconds = one.milliseconds(found)
            rivals = [latency for drift, latency in there if drift <= budget]
            if found.timed is None or milliseconds > (1 - WORTH_A_GRAPH) * min(rivals, default=math.inf):
                continue
            there.append((found.drift.value, milliseconds))
            recipe = parts.recipe(one.space.blocks, found.choice)
            chosen[f"{runtime}-{budget:g}"] = Chosen(
                recipe, one.engine, budget, found.drift.value, milliseconds, _ratio(found.timed)
            )
    return chosen


def block_parts(searched: Sequence[Searched]) -> tuple[Part, ...]:
    """What every block does alone, in each format: drift from the first engine that leaves the rest in float32, all gains."""
    found: dict[tuple[str, str], Part] = {}
    for one in sorted(searched, key=lambda one: one.engine.endswith(BF16_EVERYWHERE)):
        for measured in one.result.measured:
            if not one.space.is_alone(measured.choice):
                continue
            block = one.space.block_alone(measured.choice)
            option = measured.choice[one.space.blocks.index(block)]
            if option not in (BF16, INT8) or ((block, option) not in found and one.engine.endswith(BF16_EVERYWHERE)):
                continue
            first = found.get((block, option)) or Part(
                block, block, option, one.engine, measured.drift.value, measured.drift.mean
            )
            gains = [] if measured.timed is None else [_gain(one.engine, measured.timed)]
            found[block, option] = Part(
                first.name, first.block, first.format, first.engine, first.de2000_p95, first.de2000_mean, (*first.gains, *gains)
            )
    return tuple(sorted(found.values(), key=lambda part: -part.de2000_p95))


def points(
    searched: Sequence[Searched], parts: Parts, others: Sequence[Extra], names: Mapping[str, Recipe]
) -> tuple[Point, ...]:
    """Every recipe that was measured, with the name of its graph where `names` has it."""
    found: dict[str, Point] = {}
    for extra in others:
        _add(found, parts, extra.recipe, extra.runs)
    for one in searched:
        for measured in one.result.measured:
            run = Run(
                one.engine,
                measured.drift.value,
                measured.drift.mean,
                None if measured.predicted is None else _rounded(measured.predicted * one.wide_milliseconds),
                _rounded(one.milliseconds(measured)),
                None if measured.timed is None else _ratio(measured.timed),
            )
            _add(found, parts, parts.recipe(one.space.blocks, measured.choice), (run,))
    graphs = {_identity(recipe): name for name, recipe in names.items()}
    return tuple(Point(graphs.get(identity), point.blocks, point.nodes, point.runs) for identity, point in found.items())


def _add(found: dict[str, Point], parts: Parts, recipe: Recipe, runs: Iterable[Run]) -> None:
    identity = _identity(recipe)
    before = found.get(identity)
    merged = {run.engine: run for run in (*(before.runs if before is not None else ()), *runs)}
    found[identity] = Point(None, parts.narrowest(recipe), dict(recipe.nodes), tuple(merged.values()))


def _identity(recipe: Recipe) -> str:
    """Recipes that ask for the same have the same."""
    return repr((recipe.default, sorted(recipe.blocks.items()), sorted(recipe.nodes.items())))


def _gain(engine: str, timed: Timed) -> Gain:
    return Gain(engine, _ratio(timed), round(timed.milliseconds, 4), round(timed.baseline, 4))


def _ratio(timed: Timed) -> Ratio:
    return Ratio(round(timed.ratio, 4), round(timed.low, 4), round(timed.high, 4))


def _rounded(milliseconds: float) -> float | None:
    return round(milliseconds, 4) if math.isfinite(milliseconds) else None
