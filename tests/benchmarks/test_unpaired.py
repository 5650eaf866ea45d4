from __future__ import annotations

import numpy as np
import pytest

from icf_deploy.benchmarks.measured import Turn
from icf_deploy.benchmarks.unpaired import unpaired_ratio


def turns(latencies: np.ndarray, processes: int = 5) -> list[Turn]:
    """[rounds, calls] in nanoseconds."""
    each = len(latencies) // processes
    return [Turn(number, number // each, row.astype(np.int64)) for number, row in enumerate(latencies)]


def run(generator: np.random.Generator, median: float, *, processes: float = 0.0) -> list[Turn]:
    """20 turns of 10 calls; calls scatter by 2 %, and processes by `processes`."""
    offsets = np.repeat(generator.normal(0, processes, 5), 4)[:, None]
    return turns(median * np.exp(offsets + generator.normal(0, 0.02, (20, 10))))


def test_a_run_compared_with_itself_shows_no_difference() -> None:
    same = run(np.random.default_rng(0), 1e7)
    found = unpaired_ratio(same, same)
    assert found is not None
    assert found.ratio == 1 and found.low < 1 < found.high
    assert found.verdict == "no difference shown"


def test_latencies_times_1_2_are_slower_by_1_2() -> None:
    base = run(np.random.default_rng(1), 1e7)
    scaled = [Turn(turn.round, turn.process, (turn.samples * 1.2).astype(np.int64)) for turn in base]
    found = unpaired_ratio(scaled, base)
    assert found is not None
    assert found.ratio == pytest.approx(1.2, rel=1e-6)
    assert found.low < 1.2 < found.high and found.verdict == "slower"
    back = unpaired_ratio(base, scaled)
    assert back is not None
    assert (back.low, back.high) == pytest.approx((1 / found.high, 1 / found.low)) and back.verdict == "faster"


def test_the_interval_holds_the_true_ratio_19_times_of_20_although_processes_differ() -> None:
    generator = np.random.default_rng(2)
    found = [unpaired_ratio(run(generator, 1.1e7, processes=0.02), run(generator, 1e7, processes=0.02)) for _ in range(150)]
    covered = np.mean([one is not None and one.low <= 1.1 <= one.high for one in found])
    assert 0.91 <= covered <= 0.99


def test_too_few_calls_give_no_interval() -> None:
    few, many = turns(np.full((5, 3), 1e7)), run(np.random.default_rng(3), 1e7)
    assert unpaired_ratio(few, many) is None
    assert unpaired_ratio([], many) is None


def test_latencies_without_any_spread_are_known_exactly() -> None:
    found = unpaired_ratio(turns(np.full((20, 10), 12_000_000)), turns(np.full((20, 10), 10_000_000)))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((1.2, 1.2)) and found.verdict == "slower"
