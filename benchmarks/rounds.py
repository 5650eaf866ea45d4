"""Turns of several engines, each alone in a process: shuffled rounds inside, fresh processes around.

What disturbs the machine for a while disturbs all candidates of a round alike, and the order inside a round is drawn anew
each time, so that none always follows the same other one. A process keeps its layout of memory for life, and two processes
of one engine differ by a per cent or two for that alone; so every candidate is started several times, each time in another
order, and the spread between processes counts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from icf_deploy.benchmarks.candidate import Scope
from icf_deploy.benchmarks.clock import StopRule, WarmUpRule, short_warm_up
from icf_deploy.benchmarks.measured import Measured, Turn, costs_its_row
from icf_deploy.benchmarks.pace import PaceRule
from icf_deploy.benchmarks.remote import Inputs, WorkerProcess

ROUNDS = 20  # fewer show less and, with other statistics than ours, false differences
PROCESSES = 5  # fresh ones per candidate; fewer make intervals wide, more cost loading and warm-up
# The first process of a candidate is warmed up until its latency is stable; the others are known to be what they are.
LATER_WARM_UP = WarmUpRule(calls=5, window_calls=2, limit_seconds=2.0)

Progress = Callable[[int, int, str], None]
"""progress(done, total, what): steps done, steps in all, what happens now."""
Warmed = Callable[[Measured, WorkerProcess], None]
"""Called once for each candidate before its turns; drift is measured there, so that an interrupted run has it."""


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
        paces: Sequence[PaceRule] = (),
    ) -> None:
        self._rows, self._scope, self._inputs, self._stop, self._paces = rows, scope, inputs, stop, paces
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
                    label = self._rows[index].candidate.label
                    self._tell(f"round {number + 1} of {self._rounds}: {label}")
                    with costs_its_row(self._rows[index]):
                        self._turn(self._rows[index], workers[index], number, process)
                        for rule in self._paces:
                            self._tell(f"round {number + 1} of {self._rounds}: {label} at {rule.fps:g} a second")
                            self._paced_turn(self._rows[index], workers[index], rule, number, process)
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
        timed = worker.turn(short_warm_up(self._stop.seconds), self._stop)
        row.turns.append(Turn(number, process, timed.samples, timed.joules))
        row.idle_share = max(row.idle_share, worker.idle_share)
        row.gpu_states += timed.gpu
        if timed.others is not None:
            row.others.append(timed.others)

    def _paced_turn(self, row: Measured, worker: WorkerProcess, rule: PaceRule, number: int, process: int) -> None:
        found, joules = worker.paced(rule)
        row.paced.setdefault(rule.fps, []).append(Turn(number, process, found.samples, joules, found.late))

    def _shuffled(self) -> list[int]:
        """The candidates that have not failed, in a new order. The draw is the same whether or not one has failed."""
        order = self._order.sample(range(len(self._rows)), len(self._rows))
        return [index for index in order if self._rows[index].error is None]

    def _tell(self, what: str) -> None:
        if self._progress is not None:
            steps = self._rounds * (1 + len(self._paces)) + self._processes
            self._progress(self._done, len(self._rows) * steps, what)
        self._done += 1
