"""The search for the front, held against looking at everything, on landscapes whose every point is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from icf_deploy.export.precision.blocks import BLOCKS
from icf_deploy.export.precision.search import Drifted, Timed, search
from icf_deploy.export.precision.space import BF16, INT8, WIDE, Choice, Space

BUDGETS = (0.5, 1.0, 2.0)
BORDERS = frozenset(itertools.pairwise(BLOCKS))


@dataclass
class Landscape:
    """Latency: gains of blocks, and a cost at every border between formats. Drift: errors that add as squares, correlated.

    noise: of the latency, relative. asked: what was measured, in order.
    """

    space: Space
    gains: dict[tuple[str, str], float]
    errors: dict[tuple[str, str], float]
    border: float = 0.02
    correlation: float = 0.2
    noise: float = 0.0
    seed: int = 0
    asked: list[tuple[str, Choice]] = field(default_factory=list)

    def ratio(self, choice: Choice) -> float:
        pairs = zip(self.space.blocks, choice, strict=True)
        total = 1 + sum(self.gains[pair] for pair in pairs if pair[1] != WIDE)
        return total + self.border * sum(a != b for a, b in itertools.pairwise(choice))

    def error(self, choice: Choice) -> float:
        each = [self.errors[pair] for pair in zip(self.space.blocks, choice, strict=True) if pair[1] != WIDE]
        together = sum(a * b for a, b in itertools.combinations(each, 2))
        return math.sqrt(sum(e * e for e in each) + 2 * self.correlation * together)

    def drift(self, choice: Choice) -> Drifted:
        self.asked.append(("drift", choice))
        return Drifted(self.error(choice), self.error(choice) / 2)

    def time(self, choices: Sequence[Choice]) -> list[Timed | None]:
        self.asked += [("time", choice) for choice in choices]
        found: list[Timed | None] = []
        for choice in choices:
            generator = np.random.default_rng([self.seed, *map(hash_of, choice)])
            ratio = self.ratio(choice) * (1 + self.noise * float(generator.standard_normal()))
            found.append(Timed(ratio, ratio * 0.99, ratio * 1.01, 10 * ratio, 10.0))
        return found

    def fastest(self, budget: float) -> float:
        inside = [c for c in itertools.product(*self.space.options) if self.error(c) <= budget]
        return min(map(self.ratio, inside))

    def count(self, kind: str) -> int:
        return sum(asked == kind for asked, _ in self.asked)


def hash_of(option: str) -> int:
    return sum(option.encode())


def landscape(seed: int, options: tuple[str, ...] = (WIDE, INT8), **how: float) -> Landscape:
    generator = np.random.default_rng(seed)
    pairs = [(block, option) for block in BLOCKS for option in options[1:]]
    gains = {pair: float(generator.uniform(-0.12, 0.04)) for pair in pairs}
    errors = {pair: float(generator.lognormal(-1.2, 0.8)) for pair in pairs}
    return Landscape(Space(BLOCKS, (options,) * 8, BORDERS), gains, errors, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(8))
def test_the_answer_is_as_fast_as_the_fastest_of_all_256_within_each_budget(seed: int) -> None:
    world = landscape(seed, noise=0.005)
    found = search(world.space, world, BUDGETS, steps=8)
    for budget, best in found.best.items():
        assert best is not None and world.error(best.choice) <= budget
        assert world.ratio(best.choice) <= 1.02 * world.fastest(budget)
    assert world.count("time") < 50


def test_it_finds_its_way_among_6561_recipes_of_three_formats() -> None:
    world = landscape(3, (WIDE, BF16, INT8))
    found = search(world.space, world, BUDGETS, steps=8)
    for budget, best in found.best.items():
        assert best is not None
        assert world.ratio(best.choice) <= 1.03 * world.fastest(budget)
    assert world.count("time") < 60


def test_the_same_measurements_give_the_same_search_and_nothing_is_measured_twice() -> None:
    one, other = landscape(5, noise=0.01), landscape(5, noise=0.01)
    assert search(one.space, one, BUDGETS, steps=8) == search(other.space, other, BUDGETS, steps=8)
    assert one.asked == other.asked
    assert len(set(one.asked)) == len(one.asked)


def test_what_is_outside_the_loosest_budget_is_never_timed() -> None:
    world = landscape(1)
    world.errors[BLOCKS[0], INT8] = 5.0
    found = search(world.space, world, BUDGETS, steps=8)
    assert all(world.error(choice) <= BUDGETS[-1] for kind, choice in world.asked if kind == "time")
    assert all(best is not None and best.choice[0] == WIDE for best in found.best.values())


def test_a_format_that_the_engine_refuses_is_left_alone() -> None:
    world = landscape(2)
    world.errors[BLOCKS[3], INT8] = math.inf
    world.correlation = 0
    found = search(world.space, world, BUDGETS, steps=4)
    assert all(best is not None and best.choice[3] == WIDE for best in found.best.values())


def test_a_recipe_that_fails_when_it_is_timed_is_not_chosen() -> None:
    class Failing(Landscape):
        def time(self, choices: Sequence[Choice]) -> list[Timed | None]:
            found = super().time(choices)
            return [None if sum(o == INT8 for o in choice) > 1 else timed for choice, timed in zip(choices, found, strict=True)]

    good = landscape(4)
    world = Failing(good.space, good.gains, good.errors)
    found = search(world.space, world, BUDGETS, steps=4)
    assert all(best is not None and sum(o == INT8 for o in best.choice) <= 1 for best in found.best.values())


def test_a_wide_graph_that_drifts_itself_leaves_tight_budgets_without_an_answer() -> None:
    class Bf16Everywhere(Landscape):
        def error(self, choice: Choice) -> float:
            return math.hypot(0.8, super().error(choice))

    good = landscape(6)
    world = Bf16Everywhere(good.space, good.gains, good.errors)
    found = search(world.space, world, BUDGETS, steps=8)
    assert found.best[0.5] is None
    best = found.best[1.0]
    assert best is not None and world.ratio(best.choice) <= 1.02 * world.fastest(1.0)
