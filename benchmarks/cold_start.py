"""From nothing to the first result: fresh processes, one after the other, with the engine's cache off and with it filled.

What the operating system keeps of files in memory is not emptied (that takes root), so a first start after booting is slower.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from icf_deploy.benchmarks.candidate import Candidate, Scope
from icf_deploy.benchmarks.remote import Inputs, Start, WorkerProcess
from icf_deploy.runtimes.cache_folder import FOLDER_VARIABLE, OFF

PROCESSES = 5  # fresh ones in each state of the cache


@dataclass(frozen=True)
class Spread:
    """Seconds over the processes: median, shortest, longest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Phases:
    """Where the time of a cold start goes. import_s: None where the engine's opener does not tell it apart."""

    processes: int
    process_s: Spread
    import_s: Spread | None
    load_s: Spread
    first_call_s: Spread
    total_s: Spread

    @classmethod
    def of(cls, starts: Sequence[Start]) -> Phases:
        """Over one or more starts. Loading is without importing here."""
        imports = [start.import_s for start in starts if start.import_s is not None]
        return cls(
            processes=len(starts),
            process_s=_spread([start.process_s for start in starts]),
            import_s=_spread(imports) if len(imports) == len(starts) else None,
            load_s=_spread([start.load_s - (start.import_s or 0.0) for start in starts]),
            first_call_s=_spread([start.first_call_s for start in starts]),
            total_s=_spread([start.total_s for start in starts]),
        )


@dataclass(frozen=True)
class ColdStart:
    """cache_off: nothing is kept between processes. cache_on: another process has filled the engine's cache before."""

    cache_off: Phases
    cache_on: Phases

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure_cold_start(candidate: Candidate, scope: Scope, inputs: Inputs, processes: int = PROCESSES) -> ColdStart:
    """Start `candidate` in 2 * processes fresh processes, the two states of the cache in turns, and one that fills the cache.

    Raises what opening the engine raises.
    """
    starts: dict[str, list[Start]] = {"off": [], "on": []}
    with tempfile.TemporaryDirectory() as folder:
        states = {"off": {FOLDER_VARIABLE: OFF}, "on": {FOLDER_VARIABLE: folder}}
        _start(candidate, scope, inputs, states["on"])
        for _ in range(processes):
            for state, variables in states.items():
                starts[state].append(_start(candidate, scope, inputs, variables))
    return ColdStart(Phases.of(starts["off"]), Phases.of(starts["on"]))


def _start(candidate: Candidate, scope: Scope, inputs: Inputs, variables: dict[str, str]) -> Start:
    with WorkerProcess(candidate, scope, inputs, variables) as worker:
        return worker.start


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))
