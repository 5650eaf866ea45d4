"""Turns of several engines, each alone in a process: shuffled rounds inside, fresh processes around.

What disturbs the machine for a while disturbs all candidates of a round alike, and the order inside a round is drawn anew
each time, so that none always follows the same other one. A process keeps its layout of memory for life, and two processes
of one engine differ by a per cent or two for that alone; so every candidate is started several times, each time in another
order, and the spread between processes counts.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from icf_deploy.benchmarks.candidate import Candidate, Scope
from icf_deploy.benchmarks.clock import StopRule, WarmUp, WarmUpRule, short_warm_up
from icf_deploy.benchmarks.ratio import PairedRatio, paired_ratio
from icf_deploy.benchmarks.remote import Inputs, Start, WorkerProcess
from icf_deploy.benchmarks.stats import MOST_BLOCKS, Nanoseconds, Percentile, concatenate, percentile
from icf_deploy.errors import IcfError

if TYPE_CHECKING:
    from types import TracebackType

ROUNDS = 20  # fewer show less and, with other statistics than ours, false differences
PROCESSES = 5  # fresh ones per candidate; fewer make intervals wide, more cost loading and warm-up
FEWEST_PAIRS = 2
SPINNING_SHARE = 0.1  # of one core, used by an engine that has nothing to do
DISTURBING_CORES = 0.1  # used by other processes during the turns
# The first process of a candidate is warmed up until its latency is stable; the others are known to be what they are.
LATER_WARM_UP = WarmUpRule(calls=5, window_calls=2, limit_seconds=2.0)

Progress = Callable[[int, int, str], None]
"""progress(done, total, what): steps done, steps in all, what happens now."""
Warmed = Callable[["Measured", WorkerProcess], None]
"""Called once for each candidate before its turns; drift is measured there, so that an interrupted run has it."""


@dataclass(frozen=True)
class Turn:
    """One turn: in which round, in which of the candidate's processes, and the latencies in nanoseconds."""

    round: int
    process: int
    samples: Nanoseconds


@dataclass
class Measured:
    """What a run found out about one candidate. `error` says why there is nothing, or nothing more.

    starts: one per process. warm_up: of the first process. memory_peak_running: bytes, since loading where
    `start.peak_resettable`, the most of all processes. formats: executed ones, by node. idle_share: of one core, the most
    that the engine used while it was idle. others: cores that other processes used during each turn, where the system says.
    """

    candidate: Candidate
    starts: list[Start] = field(default_factory=list)
    warm_up: WarmUp | None = None
    memory_peak_running: int | None = None
    formats: Mapping[str, int] | None = None
    turns: list[Turn] = field(default_factory=list)
    idle_share: float = 0.0
    others: list[float] = field(default_factory=list)
    error: IcfError | None = None

    @property
    def start(self) -> Start | None:
        """The first start; None where there was none."""
        return self.starts[0] if self.starts else None

    def median_start(self, what: Literal["process_s", "load_s", "first_call_s"]) -> float | None:
        """Median over the processes, in seconds; None where there was none."""
        return statistics.median(getattr(start, what) for start in self.starts) if self.starts else None

    @property
    def samples(self) -> Nanoseconds:
        """All latencies in nanoseconds, in order."""
        return concatenate([turn.samples for turn in self.turns])

    def percentile(self, percent: float) -> Percentile:
        """Latency per call in nanoseconds; its interval sees the spread between the processes."""
        processes = len({turn.process for turn in self.turns})
        return percentile(self.samples, percent, most_blocks=processes if processes > 1 else MOST_BLOCKS)

    def warnings(self) -> list[str]:
        """What a reader of this row should know."""
        label = self.candidate.label
        found = [str(self.error)] if self.error is not None else []
        if self.warm_up is not None and not self.warm_up.stable:
            found.append(f"{label}: latency had not settled after {self.warm_up.seconds:.0f} s of warm-up")
        if self.idle_share > SPINNING_SHARE:
            found.append(f"{label}: its threads kept {self.idle_share:.0%} of a core busy while it was idle; others suffered")
        if self.others and (mean := sum(self.others) / len(self.others)) > DISTURBING_CORES:
            found.append(f"{label}: other processes used {mean:.1f} cores while it was timed")
        return found


class Rounds:
    """A run over `rows`, which it fills. A candidate that fails gets its error and no more turns."""

    def __init__(
        self,
        rows: Sequence[Measured],
        scope: Scope,
        inputs: Inputs,
        *,
        stop: StopRule,
        rounds: int = ROUNDS,
        processes: int = PROCESSES,
        seed: int = 0,
        progress: Progress | None = None,
        warmed: Warmed | None = None,
    ) -> None:
        self._rows, self._scope, self._inputs, self._stop = rows, scope, inputs, stop
        self._rounds, self._processes = rounds, max(1, min(processes, rounds))
        self._order = random.Random(seed)
        self._progress, self._warmed = progress, warmed
        self._done = 0

    def measure(self) -> bool:
        """Do all rounds. Returns whether the user interrupted; what was measured until then stays."""
        try:
            for process, rounds in enumerate(np.array_split(np.arange(self._rounds), self._processes)):
                self._one_set_of_processes(process, [int(number) for number in rounds])
        except KeyboardInterrupt:
            return True
        return False

    def _one_set_of_processes(self, process: int, rounds: Sequence[int]) -> None:
        with ExitStack() as stack:
            workers: dict[int, WorkerProcess] = {}
            for index in self._shuffled():
                self._tell(f"{self._rows[index].candidate.label}: loading and warming up")
                with costs_its_row(self._rows[index]):
                    workers[index] = self._opened(self._rows[index], process, stack)
            for number in rounds:
                for index in self._shuffled():
                    self._tell(f"round {number + 1} of {self._rounds}: {self._rows[index].candidate.label}")
                    with costs_its_row(self._rows[index]):
                        self._turn(self._rows[index], workers[index], number, process)
            for index in self._shuffled() if process == 0 else []:
                with costs_its_row(self._rows[index]):
                    self._rows[index].formats = workers[index].formats

    def _opened(self, row: Measured, process: int, stack: ExitStack) -> WorkerProcess:
        """A fresh worker, warm."""
        worker = stack.enter_context(WorkerProcess(row.candidate, self._scope, self._inputs))
        row.starts.append(worker.start)
        found = worker.warm_up(LATER_WARM_UP if process else WarmUpRule())
        peaks = [peak for peak in (row.memory_peak_running, worker.memory_peak()) if peak is not None]
        row.memory_peak_running = max(peaks, default=None)
        if process == 0:
            row.warm_up = found
            if self._warmed is not None:
                self._warmed(row, worker)
        return worker

    def _turn(self, row: Measured, worker: WorkerProcess, number: int, process: int) -> None:
        samples = worker.turn(short_warm_up(self._stop.seconds), self._stop)
        row.turns.append(Turn(number, process, samples))
        row.idle_share = max(row.idle_share, worker.idle_share)
        row.others += worker.others[-1:]

    def _shuffled(self) -> list[int]:
        """The candidates that have not failed, in a new order. The draw is the same whether or not one has failed."""
        order = self._order.sample(range(len(self._rows)), len(self._rows))
        return [index for index in order if self._rows[index].error is None]

    def _tell(self, what: str) -> None:
        if self._progress is not None:
            self._progress(self._done, len(self._rows) * (self._rounds + self._processes), what)
        self._done += 1


def ratio_of(row: Measured, baseline: Measured) -> PairedRatio | None:
    """Paired by round, from the median of each turn; None where fewer than two rounds have both."""
    theirs = {turn.round: turn for turn in baseline.turns}
    pairs = [(turn, theirs[turn.round]) for turn in row.turns if turn.round in theirs]
    if len(pairs) < FEWEST_PAIRS:
        return None
    return paired_ratio(
        [float(np.median(mine.samples)) for mine, _ in pairs],
        [float(np.median(other.samples)) for _, other in pairs],
        [mine.process for mine, _ in pairs],
    )


class costs_its_row:  # noqa: N801 - reads as a phrase after `with`
    """Puts an engine's failure into its row instead of ending the run."""

    def __init__(self, row: Measured) -> None:
        self._row = row

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if isinstance(error, IcfError):
            self._row.error = error
            return True
        return False
