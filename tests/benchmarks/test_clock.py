from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

from icf_deploy.benchmarks.clock import NS, StopRule, WarmUpRule, collector_frozen, sample, short_warm_up, warm_up

MS = 1_000_000


class FakeMachine:
    """A clock that only the engine's calls move: latency_ms(i) for call i."""

    def __init__(self, latency_ms: Callable[[int], float]) -> None:
        self.time, self.calls, self.latency_ms = 0, 0, latency_ms
        self.arguments: list[int] = []

    def now(self) -> int:
        return self.time

    def call(self, i: int) -> None:
        self.arguments.append(i)
        self.time += int(self.latency_ms(self.calls) * MS)
        self.calls += 1


def test_samples_are_exactly_the_engines_latencies_outliers_included() -> None:
    machine = FakeMachine(lambda i: 500 if i == 30 else 10 + i % 3)
    taken = sample(machine.call, StopRule(seconds=0, calls=100), now=machine.now)
    assert taken.dtype == np.int64
    assert taken.tolist() == [(500 if i == 30 else 10 + i % 3) * MS for i in range(100)]


def test_the_calls_are_numbered_so_that_every_input_gets_its_turn() -> None:
    machine = FakeMachine(lambda _: 1)
    sample(machine.call, StopRule(seconds=0, calls=5), now=machine.now)
    assert machine.arguments == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("latency_ms", "calls"), [(1, 3000), (30, 100), (100, 100)])
def test_sampling_stops_when_both_time_and_calls_are_enough(latency_ms: float, calls: int) -> None:
    machine = FakeMachine(lambda _: latency_ms)
    assert len(sample(machine.call, StopRule(seconds=3, calls=100), now=machine.now)) == calls


def test_a_time_limit_ends_a_slow_engine_early() -> None:
    machine = FakeMachine(lambda _: 1000)
    assert len(sample(machine.call, StopRule(seconds=3, calls=100, limit_seconds=10), now=machine.now)) == 10


def test_the_stop_rule_asks_for_what_the_highest_percentile_needs() -> None:
    assert StopRule.carrying(50, 90).calls == 100
    assert StopRule.carrying(50, 99).calls == 662


def test_a_steady_engine_is_warm_after_200_ms_10_calls_and_three_windows() -> None:
    machine = FakeMachine(lambda _: 5)
    found = warm_up(machine.call, now=machine.now)
    assert (found.stable, found.calls, found.seconds) == (True, 40, 0.2)


def test_a_slow_steady_engine_gets_three_windows_and_ten_calls() -> None:
    machine = FakeMachine(lambda _: 1000)
    found = warm_up(machine.call, now=machine.now)
    assert (found.stable, found.calls) == (True, 15)


def test_the_warm_up_goes_on_while_the_engine_gets_faster() -> None:
    machine = FakeMachine(lambda i: 10 if i >= 200 else 20 - i / 20)
    found = warm_up(machine.call, now=machine.now)
    assert found.stable
    assert found.calls >= 200
    assert max(found.medians_ns[-3:]) <= 1.02 * min(found.medians_ns[-3:])


def test_an_engine_that_never_settles_is_called_unstable_at_the_limit() -> None:
    machine = FakeMachine(lambda i: 10 if (i // 5) % 2 else 20)
    found = warm_up(machine.call, now=machine.now)
    assert not found.stable
    assert 10 <= found.seconds < 10.2


def test_windows_within_the_tolerance_are_stable_and_beyond_it_are_not() -> None:
    def stepping(percent: float) -> FakeMachine:
        return FakeMachine(lambda i: 100 * (1 + percent / 100) if (i // 5) % 2 else 100)

    assert warm_up((machine := stepping(1.9)).call, now=machine.now).stable
    assert not warm_up((machine := stepping(2.1)).call, now=machine.now).stable


def test_a_single_outlier_in_a_window_does_not_keep_the_warm_up_going() -> None:
    machine = FakeMachine(lambda i: 300 if i == 3 else 20)
    assert warm_up(machine.call, now=machine.now).calls <= 20


def test_a_turns_warm_up_is_short_and_never_gives_up() -> None:
    machine = FakeMachine(lambda i: 1 + i % 7)
    found = warm_up(machine.call, short_warm_up(0.4), now=machine.now)
    assert found.stable
    assert 0.05 <= found.seconds <= 0.06
    slow = FakeMachine(lambda _: 700)
    assert warm_up(slow.call, short_warm_up(0.4), now=slow.now).calls == 2


def test_no_garbage_is_collected_while_timing_and_afterwards_it_is_again() -> None:
    assert gc.isenabled()
    with collector_frozen():
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_the_collector_comes_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="x"), collector_frozen():
        raise ValueError("x")
    assert gc.isenabled()


def test_a_limit_in_seconds_is_not_in_nanoseconds() -> None:
    assert StopRule(seconds=3, calls=1).enough(1, 3 * NS)
    assert not StopRule(seconds=3, calls=1).enough(1, 3 * NS - 1)


def test_a_warm_up_rule_can_ask_for_more_windows() -> None:
    machine = FakeMachine(lambda _: 100)
    assert warm_up(machine.call, WarmUpRule(windows=7), now=machine.now).calls == 35
