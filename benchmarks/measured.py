"""What a run found out about one candidate: its turns, and everything that was noticed on the way."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from icf_deploy.benchmarks.candidate import Candidate
from icf_deploy.benchmarks.clock import WarmUp
from icf_deploy.benchmarks.energy import UNREAD, Joules
from icf_deploy.benchmarks.gpu_state import GpuState, GpuWatch
from icf_deploy.benchmarks.ratio import PairedRatio, paired_ratio
from icf_deploy.benchmarks.remote import Start
from icf_deploy.benchmarks.stats import MOST_BLOCKS, Nanoseconds, Percentile, concatenate, percentile
from icf_deploy.errors import IcfError

if TYPE_CHECKING:
    from types import TracebackType

    from icf_deploy.benchmarks.cold_start import ColdStart
    from icf_deploy.benchmarks.loadgen import LoadgenResult

FEWEST_PAIRS = 2
SPINNING_SHARE = 0.1  # of one core, used by an engine that has nothing to do
DISTURBING_CORES = 0.1  # used by other processes during the turns


@dataclass(frozen=True)
class Turn:
    """One turn: in which round, in which of the candidate's processes, the latencies in nanoseconds, and what they took.

    late: of a paced turn, calls that could begin only after their tick.
    """

    round: int
    process: int
    samples: Nanoseconds
    joules: Joules = UNREAD
    late: int = 0


@dataclass
class Measured:
    """What a run found out about one candidate. `error` says why there is nothing, or nothing more.

    starts: one per process. warm_up: of the first process. memory_peak_running: bytes, since loading where
    `start.peak_resettable`, the most of all processes. formats: executed ones, by node. idle_share: of one core, the most
    that the engine used while it was idle. others: cores that other processes used during each turn, where the system says.
    paced: the turns at each pace, by calls per second. gpu_states: of the engine's GPU, before and after every turn.
    loadgen, loadgen_joules: what LoadGen said, and the energy of its run.
    """

    candidate: Candidate
    starts: list[Start] = field(default_factory=list)
    warm_up: WarmUp | None = None
    memory_peak_running: int | None = None
    formats: Mapping[str, int] | None = None
    turns: list[Turn] = field(default_factory=list)
    idle_share: float = 0.0
    others: list[float] = field(default_factory=list)
    paced: dict[float, list[Turn]] = field(default_factory=dict)
    gpu_states: list[GpuState] = field(default_factory=list)
    cold_start: ColdStart | None = None
    loadgen: LoadgenResult | None = None
    loadgen_joules: Joules = UNREAD
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
        return percentile_of(self.turns, percent)

    @property
    def gpu(self) -> GpuWatch | None:
        """What the engine's GPU did; None for an engine on the CPU, and where nothing says."""
        return GpuWatch(tuple(self.gpu_states)) if self.gpu_states else None

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
        if self.gpu is not None and self.gpu.slowdowns:
            found.append(f"{label}: throttled: the GPU lowered its clocks ({', '.join(self.gpu.slowdowns)})")
        for fps, turns in self.paced.items():
            late, calls = sum(turn.late for turn in turns), sum(len(turn.samples) for turn in turns)
            if late:
                found.append(f"{label}: {late} of {calls} calls at {fps:g} a second were late: it does not keep that pace")
        if self.loadgen is not None and not self.loadgen.valid:
            found.append(
                f"{label}: LoadGen calls this run INVALID ({', '.join(self.loadgen.invalid_because) or 'see summary'})"
            )
        return found


def percentile_of(turns: Sequence[Turn], percent: float) -> Percentile:
    """Latency per call in nanoseconds over turns; its interval sees the spread between their processes."""
    processes = len({turn.process for turn in turns})
    samples = concatenate([turn.samples for turn in turns])
    return percentile(samples, percent, most_blocks=processes if processes > 1 else MOST_BLOCKS)


def ratio_of(turns: Sequence[Turn], baseline: Sequence[Turn]) -> PairedRatio | None:
    """Paired by round, from the median of each turn; None where fewer than two rounds have both."""
    theirs = {turn.round: turn for turn in baseline}
    pairs = [(turn, theirs[turn.round]) for turn in turns if turn.round in theirs]
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
