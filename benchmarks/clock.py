"""Timing one call after another: warm-up until it is stable, then until there are enough samples. Every sample is kept."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from icf_deploy.benchmarks.stats import Nanoseconds, calls_needed

NS = 1_000_000_000  # nanoseconds in a second

Call = Callable[[int], None]
"""What is timed; the argument counts the calls, so that it can walk through its inputs."""
Now = Callable[[], int]
"""A monotonic clock in nanoseconds."""


def now_ns() -> int:
    """The clock of every timing, looked up at each use: a test of a whole process puts another one in its place."""
    return time.perf_counter_ns()


def sleep(seconds: float) -> None:
    """Wait; looked up at each use, as `now_ns` is."""
    time.sleep(seconds)


@dataclass(frozen=True)
class WarmUpRule:
    """When an engine is warm: after so much time and so many calls, once its last windows agree.

    seconds, calls: at least both. windows: so many medians in a row must agree. tolerance: largest over smallest median
    less one. window_seconds, window_calls: what one window holds at least. limit_seconds: give up and call it unstable,
    though never before `windows` windows.
    """

    seconds: float = 0.2
    calls: int = 10
    windows: int = 3
    tolerance: float = 0.02
    window_seconds: float = 0.05
    window_calls: int = 5
    limit_seconds: float = 10.0


@dataclass(frozen=True)
class WarmUp:
    """What a warm-up took. medians_ns: of every window, in order."""

    calls: int
    seconds: float
    stable: bool
    medians_ns: tuple[float, ...]


@dataclass(frozen=True)
class StopRule:
    """When there are enough samples: at least so many seconds of timed calls and so many calls.

    limit_seconds: stop there even with fewer calls; what they do not carry then says `n/a`. None: no limit.
    """

    seconds: float = 3.0
    calls: int = 100
    limit_seconds: float | None = None

    @classmethod
    def carrying(cls, *percentiles: float, seconds: float = 3.0, calls: int = 100) -> StopRule:
        """The rule whose samples carry these percentiles."""
        return cls(seconds, max([calls, *map(calls_needed, percentiles)]))

    def enough(self, calls: int, elapsed_ns: int) -> bool:
        """Whether to stop after so many calls that took so long together."""
        if self.limit_seconds is not None and calls > 0 and elapsed_ns >= self.limit_seconds * NS:
            return True
        return calls >= self.calls and elapsed_ns >= self.seconds * NS


def warm_up(call: Call, rule: WarmUpRule = WarmUpRule(), *, now: Now | None = None) -> WarmUp:
    """Call until the latency is stable, or the limit is reached."""
    now = now or now_ns
    medians: list[float] = []
    calls, start = 0, now()
    while True:
        window = _window(call, calls, rule, now)
        calls += len(window)
        medians.append(float(np.median(window)))
        elapsed = (now() - start) / NS
        seen = len(medians) >= rule.windows
        last = medians[-rule.windows :]
        stable = seen and max(last) <= min(last) * (1 + rule.tolerance)
        if stable and calls >= rule.calls and elapsed >= rule.seconds:
            return WarmUp(calls, elapsed, True, tuple(medians))
        if seen and elapsed >= rule.limit_seconds:
            return WarmUp(calls, elapsed, False, tuple(medians))


def sample(call: Call, rule: StopRule, *, now: Now | None = None) -> Nanoseconds:
    """Time call after call until `rule` has enough. Returns every latency in nanoseconds, in order."""
    now = now or now_ns
    taken: list[int] = []
    total = 0
    while not rule.enough(len(taken), total):
        start = now()
        call(len(taken))
        taken.append(now() - start)
        total += taken[-1]
    return np.array(taken, np.int64)


@contextmanager
def collector_frozen() -> Iterator[None]:
    """No garbage collection inside; what lives now is never scanned. Put back as it was afterwards."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def short_warm_up(turn_seconds: float) -> WarmUpRule:
    """The warm-up before one turn of an interleaved run: the engine is warm, only caches and clocks have to come back."""
    return WarmUpRule(
        seconds=min(0.05, turn_seconds / 4), calls=2, windows=1, tolerance=math.inf, window_seconds=0.0, window_calls=1
    )


def _window(call: Call, done: int, rule: WarmUpRule, now: Now) -> list[int]:
    """Latencies in nanoseconds of one window of the warm-up; `done` calls were made before."""
    window: list[int] = []
    while len(window) < rule.window_calls or sum(window) < rule.window_seconds * NS:
        start = now()
        call(done + len(window))
        window.append(now() - start)
    return window
