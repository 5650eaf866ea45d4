"""What a run of `tune` found out: a row for each engine and graph, the choice, and all of it as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icf_deploy.benchmarks.bench_result import drift_json
from icf_deploy.benchmarks.measured import Measured, ratio_of
from icf_deploy.benchmarks.report import measured_json, ratio_json
from icf_deploy.errors import ArtefactError, BudgetError, EngineUnavailableError, IcfError

if TYPE_CHECKING:
    from icf_deploy.benchmarks.gallery import Shot
    from icf_deploy.benchmarks.machine import Machine
    from icf_deploy.benchmarks.ratio import PairedRatio
    from icf_deploy.benchmarks.stats import Percentile
    from icf_deploy.quality.budget import Budget
    from icf_deploy.quality.table import DriftTable
    from icf_deploy.tuning.choose import Choice
    from icf_deploy.tuning.misses import NearestMiss
    from icf_deploy.tuning.yardstick import Yardstick

SCHEMA = "icf-tune 1"
PERCENTS = (50.0, 90.0)
NS_PER_MS = 1_000_000

Verdict = Literal["chosen", "inside", "outside", "refused", "not here", "failed"]


@dataclass(eq=False)
class TuneRow:
    """One graph on one engine. look: its start and a short timing, in a process of its own. measured: the paired rounds.

    sha256, bytes, recipe: of the graph (for `pytorch`: of the checkpoint). measured: None where the first look has shown that
    it cannot be the choice, because of its drift or its latency. shot: its worst photo, where it was drawn.
    """

    look: Measured
    sha256: str | None = None
    bytes: int | None = None
    recipe: str | None = None
    drift: DriftTable | None = None
    measured: Measured | None = None
    shot: Shot | None = None

    @property
    def label(self) -> str:
        """Engine and graph, unique in the run."""
        return self.look.candidate.label

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.look.candidate.runtime

    @property
    def graph(self) -> str | None:
        """The graph's name; None for an engine that runs the checkpoint."""
        return self.look.candidate.graph

    @property
    def timed(self) -> Measured:
        """The best timing that there is."""
        return self.measured if self.measured is not None and self.measured.turns else self.look

    @property
    def is_paired(self) -> bool:
        """Whether it was timed in the paired rounds."""
        return self.timed is self.measured

    @property
    def error(self) -> IcfError | None:
        """Why there is nothing, or nothing more."""
        return self.look.error or (self.measured.error if self.measured is not None else None)

    @property
    def formats(self) -> Mapping[str, int]:
        """Formats that were executed, by node."""
        return self.look.formats or {}

    def latency(self, percent: float = 50) -> Percentile | None:
        """Nanoseconds per photo; None where nothing was timed."""
        return self.timed.percentile(percent) if self.timed.turns else None

    def milliseconds(self) -> float | None:
        """The median latency; None where nothing was timed."""
        found = self.latency()
        return None if found is None or found.value is None else found.value / NS_PER_MS

    def is_inside(self, budget: Budget) -> bool:
        """Whether its drift was measured and keeps the budget."""
        return self.drift is not None and not self.drift.problems and not budget.misses(self.drift)


@dataclass(frozen=True)
class TuneResult:
    """What a run found out. choice: None where nothing is inside the budget, or where it was interrupted.

    nearest: where nothing is inside, what comes nearest. kept: the folder in which the choice is remembered; None where it is
    not. earlier: what was remembered before, where that stays in use. same: engines that were left out, since they are another
    one under a second name. command: what repeats the run.
    """

    bundle: str
    digest: str
    preset: str
    budget: Budget
    yardstick: Yardstick
    rows: tuple[TuneRow, ...]
    same: tuple[str, ...]
    choice: Choice | None
    nearest: NearestMiss | None
    machine: Machine
    settings: dict[str, Any]
    interrupted: bool
    seconds: float
    created: str
    kept: Path | None = None
    earlier: str | None = None
    command: str | None = None

    def verdict(self, row: TuneRow) -> Verdict:
        """What became of a row, in a word or two."""
        if self.choice is not None and row is self.choice.row:
            return "chosen"
        if isinstance(row.error, ArtefactError):
            return "refused"
        if isinstance(row.error, EngineUnavailableError):
            return "not here"
        if row.error is not None or row.drift is None:
            return "failed"
        return "inside" if row.is_inside(self.budget) else "outside"

    def ratio(self, row: TuneRow) -> PairedRatio | None:
        """Latency of a row over that of the choice, paired by round; None for the choice, and where they were not paired."""
        if self.choice is None or row is self.choice.row or not row.is_paired:
            return None
        return ratio_of(row.timed.turns, self.choice.row.timed.turns)

    def require_choice(self) -> Choice:
        """The choice. BudgetError, with the nearest miss and its causes, where nothing is inside the budget."""
        if self.choice is not None:
            return self.choice
        stays = f". What was tuned before stays in use: {self.earlier}" if self.earlier is not None else ""
        if self.nearest is not None:
            raise BudgetError(f"{self.nearest}{stays}")
        raise BudgetError(f"no engine could be measured, so none is inside the budget {self.budget}{stays}")

    def warnings(self) -> list[str]:
        """Everything that a reader should know before believing a number."""
        return [*self.machine.warnings(), *(line for row in self.rows for line in row.timed.warnings() if row.error is None)]

    def to_json(self) -> dict[str, Any]:
        """Plain values with their schema's version, raw samples included."""
        choice, nearest = self.choice, self.nearest
        return {
            "schema": SCHEMA,
            "created": self.created,
            "command": self.command,
            "bundle": {"name": self.bundle, "digest": self.digest, "preset": self.preset},
            "budget": str(self.budget),
            "photos": self.yardstick.notes(),
            "chosen": None if choice is None else {**self._brief(choice.row), "why": choice.why},
            "tied": [] if choice is None else [row.label for row in choice.tied],
            "nearest": None if nearest is None else {**self._brief(nearest.row), **nearest.to_json()},
            "kept": None if self.kept is None else str(self.kept),
            "earlier": self.earlier,
            "same": list(self.same),
            "settings": self.settings,
            "machine": self.machine.to_json(),
            "interrupted": self.interrupted,
            "seconds": self.seconds,
            "warnings": self.warnings(),
            "rows": [self._row_json(row) for row in self.rows],
        }

    def _brief(self, row: TuneRow) -> dict[str, Any]:
        metrics = dict.fromkeys(["de2000_p95", *(limit.metric for limit in self.budget.limits)])
        assert row.drift is not None  # it was chosen, or has missed the budget
        return {
            "label": row.label,
            "engine": row.engine,
            "graph": row.graph,
            "milliseconds": row.milliseconds(),
            "drift": {name: row.drift.value(name) for name in metrics},
        }

    def _row_json(self, row: TuneRow) -> dict[str, Any]:
        return {
            "label": row.label,
            "engine": row.engine,
            "graph": row.graph,
            "verdict": self.verdict(row),
            "paired": row.is_paired,
            "artefact": {"sha256": row.sha256, "bytes": row.bytes, "recipe": row.recipe},
            "executed": dict(row.formats),
            "drift": None if row.drift is None else drift_json(row.drift),
            "misses": [] if row.drift is None else [str(miss) for miss in self.budget.misses(row.drift)],
            "ratio_to_chosen": ratio_json(self.ratio(row)),
            "problem": None if row.error is None else str(row.error),
            **measured_json(row.timed, PERCENTS),
        }


def joined(first: Measured, more: Measured) -> Measured:
    """Two runs of paired rounds as one: the rounds and processes of the second are counted on from those of the first."""
    rounds = max((turn.round for turn in first.turns), default=-1) + 1
    processes = max((turn.process for turn in first.turns), default=-1) + 1
    turns = [replace(turn, round=turn.round + rounds, process=turn.process + processes) for turn in more.turns]
    return replace(
        first,
        starts=[*first.starts, *more.starts],
        turns=[*first.turns, *turns],
        others=[*first.others, *more.others],
        idle_share=max(first.idle_share, more.idle_share),
        gpu_states=[*first.gpu_states, *more.gpu_states],
        error=more.error,
    )
