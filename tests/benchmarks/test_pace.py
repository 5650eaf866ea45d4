from __future__ import annotations

from collections.abc import Callable

import pytest

from icf_deploy.benchmarks import clock
from icf_deploy.benchmarks.pace import PaceRule, sample_paced

MS = 1_000_000


class Machine:
    """A clock that calls and pauses move. latency_ms(i): of call i."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, latency_ms: Callable[[int], float]) -> None:
        self.time, self.latency_ms = 0, latency_ms
        self.begun: list[float] = []
        monkeypatch.setattr(clock, "now_ns", lambda: self.time)
        monkeypatch.setattr(clock, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.time += round(seconds * 1000 * MS)

    def call(self, number: int) -> None:
        self.begun.append(self.time / MS)
        self.time += int(self.latency_ms(number) * MS)


def test_calls_come_on_a_fixed_schedule_and_the_pauses_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda i: 10 + i)
    found = sample_paced(machine.call, PaceRule(fps=20, calls=4, settle_calls=0))
    assert machine.begun == [50, 100, 150, 200]
    assert found.samples.tolist() == [10 * MS, 11 * MS, 12 * MS, 13 * MS]
    assert found.late == 0


def test_a_late_call_begins_at_once_and_the_schedule_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda i: 120 if i == 0 else 10)
    found = sample_paced(machine.call, PaceRule(fps=20, calls=5, settle_calls=0))
    assert machine.begun == [50, 170, 180, 200, 250]
    assert found.late == 2


def test_an_engine_that_does_not_keep_the_pace_is_always_late(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda _: 200)
    found = sample_paced(machine.call, PaceRule(fps=30, calls=5, settle_calls=1))
    assert found.late == 5
    assert set(found.samples.tolist()) == {200 * MS}


def test_calls_that_settle_are_made_at_the_pace_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda i: 30 if i < 3 else 5)
    found = sample_paced(machine.call, PaceRule(fps=20, calls=2, settle_calls=3))
    assert machine.begun == [50, 100, 150, 200, 250]
    assert found.samples.tolist() == [5 * MS, 5 * MS]


@pytest.mark.parametrize(
    ("fps", "percents", "calls", "settle"),
    [
        (1, [50, 90], 4, 0),  # 64 calls for p90 over 20 rounds; the first comes after a whole second anyway
        (30, [50, 90], 5, 5),  # 0.15 s a turn is more; 0.2 s to settle
        (1, [50, 99], 34, 0),  # 662 calls for p99
    ],
)
def test_the_turns_carry_the_percentiles_together(fps: float, percents: list[float], calls: int, settle: int) -> None:
    rule = PaceRule.for_turn(fps, percents, rounds=20, seconds=0.15)
    assert (rule.calls, rule.settle_calls) == (calls, settle)
    assert rule.seconds == (calls + settle) / fps
