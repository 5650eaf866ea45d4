"""Search for the front of latency against drift on one engine: the fastest recipe within each of a few budgets.

1. The base (everything wide), every block alone, and the uniform recipes are measured; `model.Model` is made of that.
2. For each budget the most promising choice that is not measured yet is taken, with optimism: one standard deviation faster
   than believed, and half of one below the believed drift. At most 128,000 choices are few enough to look at all of them.
3. Its drift is measured first, since that is cheap. One outside the budget teaches the model and is never timed.
4. What is inside is timed, all budgets' choices together, and teaches the model as well. On to 2.
5. It ends when no choice promises to be faster than the best one by WORTH, or after so many steps.

Given the same measurements it does the same, so a search that was interrupted goes on where it was, with a ledger as `oracle`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from icf_deploy.export.precision.model import Alone, Model
from icf_deploy.export.precision.space import Choice, Space

WORTH = 0.01  # of the latency: what the intervals of a comparison can still tell apart
OPTIMISM = 1.5  # standard deviations of the latency
DRIFT_OPTIMISM = 0.5  # of the drift: every try costs a measurement, and most misses are near
TRIES = 6  # choices of one budget whose drift is measured in one step
FAILED = 10.0  # the ratio that the model believes of what an engine did not run

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Drifted:
    """Drift in the metric of the budgets, and its mean over pixels; infinite where the engine does not take the graph."""

    value: float
    mean: float


@dataclass(frozen=True)
class Timed:
    """Latency over that of the wide graph with its 95 % interval, and both medians in milliseconds."""

    ratio: float
    low: float
    high: float
    milliseconds: float
    baseline: float


class Oracle(Protocol):
    """Measures choices on the engine that is searched for."""

    def drift(self, choice: Choice) -> Drifted:
        """Its drift."""
        ...

    def time(self, choices: Sequence[Choice]) -> Sequence[Timed | None]:
        """Their latencies, side by side with the wide graph; None for one that failed."""
        ...


@dataclass(frozen=True)
class Found:
    """A choice that was measured. timed: None where its drift is outside every budget. predicted: the ratio believed before."""

    choice: Choice
    drift: Drifted
    timed: Timed | None
    predicted: float | None = None


@dataclass(frozen=True)
class Result:
    """Everything that was measured, in order; and for each budget the fastest inside it, None where nothing is."""

    measured: tuple[Found, ...]
    best: Mapping[float, Found | None]


def search(space: Space, oracle: Oracle, budgets: Sequence[float], *, steps: int, progress: Progress | None = None) -> Result:
    """Find the fastest choice within each budget. steps: at most so many rounds of measuring whole choices."""
    return _Search(space, oracle, tuple(sorted(budgets)), progress or (lambda _: None)).run(steps)


class _Search:
    def __init__(self, space: Space, oracle: Oracle, budgets: tuple[float, ...], say: Progress) -> None:
        self._space, self._oracle, self._budgets, self._say = space, oracle, budgets, say
        self._drifts: dict[Choice, Drifted] = {}
        self._timed: dict[Choice, Timed | None] = {}
        self._predicted: dict[Choice, float] = {}
        self._model: Model | None = None

    def run(self, steps: int) -> Result:
        space = self._space
        self._drift(space.base)
        self._timed[space.base] = Timed(1.0, 1.0, 1.0, math.nan, math.nan)
        for choice in space.alone():
            self._drift(choice)
        space = self._space = self._without_hopeless()
        self._time(space.alone())
        model = self._model = Model(space, self._alone(), self._drifts[space.base].value)
        self._every = list(itertools.product(*space.options))
        labels = dict.fromkeys(option for options in space.options for option in options[1:])
        uniform = [space.uniform(option) for option in labels]
        for choice in uniform:
            self._drift(choice)
        self._time([choice for choice in uniform if self._drifts[choice].value <= self._budgets[-1]])
        for step in range(steps):
            looked_at = len(self._drifts)
            promising = [self._promising(model, budget) for budget in self._budgets]
            batch = [choice for choice in dict.fromkeys(promising) if choice is not None]
            if not batch and len(self._drifts) == looked_at:
                break
            if batch:
                self._say(f"step {step + 1}: timing {len(batch)} recipes")
                self._time(batch)
        return self._result()

    def _promising(self, model: Model, budget: float) -> Choice | None:
        """The choice to time next for a budget, inside it; None where none promises enough."""
        for _ in range(TRIES):
            choice = self._best_guess(model, budget)
            if choice is None:
                return None
            if choice not in self._drifts:
                self._drift(choice)
            if self._drifts[choice].value <= budget:
                self._predicted[choice] = float(model.time([choice]).mean[0])
                return choice
        return None

    def _best_guess(self, model: Model, budget: float) -> Choice | None:
        time, drift = model.time(self._every), model.drift(self._every)
        optimistic = time.mean - OPTIMISM * time.deviation
        inside = drift.mean - DRIFT_OPTIMISM * drift.deviation <= budget
        for number, choice in enumerate(self._every):
            if choice in self._timed:
                inside[number] = False
            elif choice in self._drifts:
                inside[number] = self._drifts[choice].value <= budget
        if not inside.any():
            return None
        number = int(np.where(inside, optimistic, np.inf).argmin())
        best = self._best(budget)
        fastest = best.timed.ratio if best is not None and best.timed is not None else math.inf
        return self._every[number] if optimistic[number] < fastest * (1 - WORTH) else None

    def _best(self, budget: float) -> Found | None:
        inside = [found for found in self._all() if found.timed is not None and found.drift.value <= budget]
        return min(inside, key=lambda found: found.timed.ratio if found.timed else math.inf, default=None)

    def _all(self) -> list[Found]:
        return [
            Found(choice, drift, self._timed.get(choice), self._predicted.get(choice)) for choice, drift in self._drifts.items()
        ]

    def _result(self) -> Result:
        return Result(tuple(self._all()), {budget: self._best(budget) for budget in self._budgets})

    def _drift(self, choice: Choice) -> None:
        if choice not in self._drifts:
            self._drifts[choice] = self._oracle.drift(choice)
            if self._model is not None:
                self._model.learn(choice, drift=self._drifts[choice].value)

    def _time(self, choices: Sequence[Choice]) -> None:
        missing = [choice for choice in dict.fromkeys(choices) if choice not in self._timed]
        if not missing:
            return
        for choice, timed in zip(missing, self._oracle.time(missing), strict=True):
            self._timed[choice] = timed
            if self._model is not None:
                self._model.learn(choice, ratio=FAILED if timed is None else timed.ratio)

    def _alone(self) -> dict[tuple[str, str], Alone]:
        """Of every block's options that are left."""
        found = {}
        for choice in self._space.alone():
            block = self._space.block_alone(choice)
            timed = self._timed.get(choice)
            ratio = FAILED if timed is None else timed.ratio
            found[block, choice[self._space.blocks.index(block)]] = Alone(ratio, self._drifts[choice].value)
        return found

    def _without_hopeless(self) -> Space:
        """The space without options that alone are outside the loosest budget already."""
        options = [list(options) for options in self._space.options]
        for choice in self._space.alone():
            if self._drifts[choice].value > self._budgets[-1]:
                number = self._space.blocks.index(self._space.block_alone(choice))
                options[number].remove(choice[number])
        return replace(self._space, options=tuple(map(tuple, options)))
