"""A run of LoadGen for each candidate, each alone in a fresh process, one after the other."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from icf_deploy.benchmarks.candidate import Scope
from icf_deploy.benchmarks.clock import WarmUpRule
from icf_deploy.benchmarks.loadgen import LoadgenRule
from icf_deploy.benchmarks.measured import Measured, costs_its_row
from icf_deploy.benchmarks.remote import Inputs, WorkerProcess
from icf_deploy.benchmarks.rounds import Progress, Warmed


def run_scenario(
    rows: Sequence[Measured],
    scope: Scope,
    inputs: Inputs,
    rule: LoadgenRule,
    *,
    log_folder: Path | None = None,
    progress: Progress | None = None,
    warmed: Warmed | None = None,
) -> bool:
    """Fill `rows`. Returns whether the user interrupted; what was measured until then stays.

    log_folder: LoadGen's logs go to a folder of each row's name in it; None: they are read and thrown away.
    """
    try:
        for number, row in enumerate(rows):
            label = row.candidate.label
            if progress is not None:
                progress(number, len(rows), f"{label}: LoadGen {rule.scenario}, {rule.seconds:g} s or more")
            with ExitStack() as stack, costs_its_row(row):
                kept = None if log_folder is None else log_folder / re.sub(r"[^\w.+-]+", "_", label)
                folder = kept or Path(stack.enter_context(tempfile.TemporaryDirectory()))
                worker = stack.enter_context(WorkerProcess(row.candidate, scope, inputs))
                row.starts.append(worker.start)
                row.warm_up = worker.warm_up(WarmUpRule())
                if warmed is not None:
                    warmed(row, worker)
                result, row.loadgen_joules, states = worker.loadgen(rule, folder)
                row.loadgen = dataclasses.replace(result, log_folder=None if kept is None else str(kept))
                row.gpu_states += states
                row.memory_peak_running = worker.memory_peak()
                row.formats = worker.formats
    except KeyboardInterrupt:
        return True
    return False
