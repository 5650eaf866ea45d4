"""Any candidates side by side, compared with one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from icf_deploy.benchmarks.candidate import Candidate, Scope, check_labels
from icf_deploy.benchmarks.clock import StopRule
from icf_deploy.benchmarks.inputs import inputs_of, reference_gray
from icf_deploy.benchmarks.machine import Machine, read_machine
from icf_deploy.benchmarks.measured import FEWEST_PAIRS, Measured, ratio_of
from icf_deploy.benchmarks.rounds import PROCESSES, ROUNDS, Progress, Rounds
from icf_deploy.benchmarks.stats import Percentile
from icf_deploy.errors import UsageError

if TYPE_CHECKING:
    from icf_deploy.benchmarks.ratio import PairedRatio
    from icf_deploy.runtimes.base import FloatArray


@dataclass(frozen=True)
class Comparison:
    """Candidates against a baseline. Latencies are per call, in nanoseconds."""

    scope: Scope
    baseline: str
    settings: dict[str, Any]
    machine: Machine
    rows: tuple[Measured, ...]
    interrupted: bool
    created: str

    def ratio(self, label: str) -> PairedRatio | None:
        """Latency of `label` over that of the baseline; None for the baseline and where fewer than two rounds pair up."""
        return None if label == self.baseline else ratio_of(self.row(label).turns, self.row(self.baseline).turns)

    def row(self, label: str) -> Measured:
        """What was measured of `label`. Raises UsageError for one that was not in the run."""
        for row in self.rows:
            if row.candidate.label == label:
                return row
        raise UsageError(f"no candidate {label!r} in this run; there are {', '.join(r.candidate.label for r in self.rows)}")

    def median(self, label: str) -> Percentile:
        """p50 of all calls of `label`, in nanoseconds."""
        return self.row(label).percentile(50)

    def warnings(self) -> list[str]:
        """Everything that a reader should know before believing a number."""
        return [*self.machine.warnings(), *(line for row in self.rows for line in row.warnings())]

    def to_json(self) -> dict[str, Any]:
        """Plain values, raw samples included."""
        from icf_deploy.benchmarks.report import comparison_json

        return comparison_json(self)

    def table(self) -> str:
        """Plain text for a terminal."""
        from icf_deploy.benchmarks.report import comparison_table

        return comparison_table(self)


def compare(
    candidates: Sequence[Candidate],
    *,
    baseline: str | None = None,
    scope: Scope = "engine",
    rounds: int = ROUNDS,
    processes: int = PROCESSES,
    seconds_per_turn: float = 0.4,
    calls_per_turn: int = 5,
    inputs: FloatArray | None = None,
    batch: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Measure candidates side by side.

    baseline: the label that the others are compared with; None is the first. inputs: gray photos float32 [N,1,H,W] in 0..1,
    resized for each engine; None: the reference set of the first candidate's bundle. The rounds are shared out among
    `processes` fresh processes of every candidate; a turn lasts at least seconds_per_turn and calls_per_turn. A candidate
    that fails costs its row. Raises UsageError for labels that are not unique or an unknown baseline.
    """
    chosen = list(candidates)
    check_labels(chosen)
    name = chosen[0].label if baseline is None else baseline
    if name not in [candidate.label for candidate in chosen]:
        raise UsageError(f"the baseline {name!r} is not one of the candidates")
    if rounds < FEWEST_PAIRS:
        raise UsageError(f"comparing needs two rounds or more, got {rounds}; {ROUNDS} is the default")
    gray = reference_gray(chosen[0].bundle) if inputs is None else inputs
    machine = read_machine()
    stop = StopRule(seconds_per_turn, calls_per_turn)
    rows = [Measured(candidate) for candidate in chosen]
    run = Rounds(
        rows,
        scope,
        inputs_of(scope, gray, batch=batch),
        stop=stop,
        rounds=rounds,
        processes=processes,
        seed=seed,
        progress=progress,
    )
    interrupted = run.measure()
    settings = {
        "rounds": rounds,
        "processes": processes,
        "seconds_per_turn": seconds_per_turn,
        "calls_per_turn": calls_per_turn,
        "photos": len(gray),
        "batch": batch,
        "seed": seed,
    }
    return Comparison(scope, name, settings, machine, tuple(rows), interrupted, now_utc())


def now_utc() -> str:
    """The present, to the second, as ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
