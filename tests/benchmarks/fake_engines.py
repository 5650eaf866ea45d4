"""Engines whose latency or end is known: openers for worker processes in tests.

They carry their own clock, which only their calls move, so that a busy machine changes nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

MS = 1_000_000


class FakeClock:
    """Nanoseconds that pass only where an engine says so."""

    def __init__(self) -> None:
        self.time = time.perf_counter_ns()

    def install(self) -> None:
        from icf_deploy.benchmarks import clock

        clock.now_ns = lambda: self.time
        clock.sleep = self.sleep

    def sleep(self, seconds: float) -> None:
        self.time += round(seconds * 1e9)


class FakeSession:
    """Answers gray with a constant ab. Call i takes `ms` on its own clock, and `ms / 100` more where i is odd."""

    size = (32, 64)
    output_size = (16, 32)
    formats: ClassVar[Mapping[str, int]] = {"fp32": 7}

    def __init__(self, ms: float = 1.0, load_ms: float = 0.0, dies_at: int = -1, fails_at: int = -1) -> None:
        self.ms, self.dies_at, self.fails_at, self.calls = ms, dies_at, fails_at, 0
        self.held: list[Any] = []
        self.clock = FakeClock()
        self.clock.install()
        self.clock.time += int(load_ms * MS)

    def run(self, gray: Any) -> Any:
        if self.calls == self.dies_at:
            sys.stderr.write("out of luck\n")
            sys.stderr.flush()
            os._exit(9)
        if self.calls == self.fails_at:
            raise ValueError("a batch went wrong")
        self.clock.time += int(self.ms * (1 + self.calls % 2 / 100) * MS)
        self.calls += 1
        return np.full((len(gray), 2, 16, 32), gray.mean(), np.float32)

    def close(self) -> None:
        pass


def sleeper(candidate: Any) -> FakeSession:
    """Options are those of FakeSession."""
    return FakeSession(**candidate.options)


def chatty(candidate: Any) -> FakeSession:
    """Prints to standard output while loading and running, from Python and from below it, as engines do."""
    os.write(1, b"loading\n")
    sys.stdout.write("loading\n")

    class Chatty(FakeSession):
        def run(self, gray: Any) -> Any:
            os.write(1, b"running\n")
            return super().run(gray)

    return Chatty()


def greedy(candidate: Any) -> FakeSession:
    """Holds 30 MB after loading and takes 80 MB more while it runs."""

    class Greedy(FakeSession):
        def run(self, gray: Any) -> Any:
            return super().run(gray + 0 * np.ones(80_000_000, np.uint8)[0])

    session = Greedy()
    session.held.append(np.ones(30_000_000, np.uint8))
    return session


def spinner(candidate: Any) -> FakeSession:
    """Keeps the cores busy while it is idle."""
    import hashlib
    import threading

    def spin() -> None:
        while True:
            hashlib.sha256(bytes(1_000_000))  # lets other threads run meanwhile

    for _ in range(4):
        threading.Thread(target=spin, daemon=True).start()
    return FakeSession()


def refused(candidate: Any) -> FakeSession:
    """Cannot be opened here."""
    from icf_deploy.errors import EngineUnavailableError

    raise EngineUnavailableError("no such accelerator; install one")


def cached(candidate: Any) -> FakeSession:
    """Says that it builds for three seconds unless its engine lies in the cache; option `log`: a file for what it did."""
    from pathlib import Path

    cache = os.environ["ICF_DEPLOY_CACHE"]
    kept = cache != "off" and (Path(cache) / "engine").exists()
    if cache != "off":
        (Path(cache) / "engine").touch()
    with Path(candidate.options["log"]).open("a") as log:
        log.write("kept\n" if kept else "off\n" if cache == "off" else "built\n")
    from icf_deploy.benchmarks import clock

    before = clock.now_ns()
    session = FakeSession()
    session.clock.time = before + (100 if kept else 3000) * MS
    return session
