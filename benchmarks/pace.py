"""Calls at a steady pace, as a camera or a person asks for them: processors lower their clocks between two photos."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from icf_deploy.benchmarks import clock
from icf_deploy.benchmarks.clock import NS, Call
from icf_deploy.benchmarks.stats import Nanoseconds, calls_needed

SETTLE_SECONDS = 0.2  # untimed at the new pace, before a turn's first timed call: caches and clocks have to get used to it


@dataclass(frozen=True)
class PaceRule:
    """So many timed calls at `fps` calls per second, after `settle_calls` untimed ones."""

    fps: float
    calls: int
    settle_calls: int

    @classmethod
    def for_turn(cls, fps: float, percentiles: list[float], rounds: int, seconds: float) -> PaceRule:
        """One of `rounds` turns which together carry the percentiles, each of at least `seconds`."""
        needed = max(map(calls_needed, percentiles))
        calls = max(math.ceil(needed / rounds), math.ceil(seconds * fps))
        # The first timed call comes a whole interval after the start anyway.
        return cls(fps, calls, max(0, math.ceil(SETTLE_SECONDS * fps) - 1))

    @property
    def seconds(self) -> float:
        """What it takes an engine that keeps up."""
        return (self.calls + self.settle_calls) / self.fps


@dataclass(frozen=True)
class Paced:
    """Latencies of timed calls in nanoseconds. late: how many of them could begin only after their tick."""

    samples: Nanoseconds
    late: int


def sample_paced(call: Call, rule: PaceRule) -> Paced:
    """Call at every tick of a fixed schedule and time the calls alone. One that is late begins at once; no tick is skipped."""
    taken: list[int] = []
    late = 0
    start = clock.now_ns()
    for number in range(rule.settle_calls + rule.calls):
        tick = start + round((number + 1) * NS / rule.fps)
        wait = tick - clock.now_ns()
        if wait > 0:
            clock.sleep(wait / NS)
        begun = clock.now_ns()
        call(number)
        ended = clock.now_ns()
        if number >= rule.settle_calls:
            taken.append(ended - begun)
            late += wait <= 0
    return Paced(np.array(taken, np.int64), late)
