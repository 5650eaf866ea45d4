"""What a run of `bench` found out: rows, what they cost, and all of it as plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_deploy.benchmarks.candidate import Scope
from icf_deploy.benchmarks.clock import NS
from icf_deploy.benchmarks.cost import Cost, Offer, Prices, cost_of, headline
from icf_deploy.benchmarks.energy import per_photo
from icf_deploy.benchmarks.gpu_state import GpuState, uses_gpu
from icf_deploy.benchmarks.loadgen import LoadgenRule
from icf_deploy.benchmarks.machine import Machine
from icf_deploy.benchmarks.measured import Measured, Turn, percentile_of, ratio_of
from icf_deploy.benchmarks.report import measured_json, peak_memory, percentile_json, ratio_json
from icf_deploy.benchmarks.stats import Percentile
from icf_deploy.errors import IcfError
from icf_deploy.runtimes.cores import thread_count

if TYPE_CHECKING:
    from icf_deploy.benchmarks.ratio import PairedRatio
    from icf_deploy.quality.table import DriftTable

SCHEMA = "icf-bench 2"


@dataclass(frozen=True)
class BenchBundle:
    """A bundle of the run. path: as it was given; None is the shipped one. graph, size: what its engines run, (H, W)."""

    name: str
    path: Path | None
    digest: str
    preset: str
    graph: str
    size: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "path": None if self.path is None else str(self.path), "size": list(self.size)}


@dataclass(frozen=True)
class EnergyPerPhoto:
    """Joules, idle power included; None where it cannot be read, and then `why_not` says why. both: what the engine used."""

    cpu: float | None
    gpu: float | None
    both: float | None
    photos: int
    why_not: str | None


@dataclass
class BenchRow:
    """One engine on one bundle: what was measured, which file that was, and the drift of that very file.

    bundle: its number in the run. sha256, bytes, recipe: of the graph (for `pytorch`: of the checkpoint); None where it could
    not be read. command: what measures just this row again.
    """

    measured: Measured
    bundle: int = 0
    sha256: str | None = None
    bytes: int | None = None
    recipe: str | None = None
    drift: DriftTable | None = None
    command: str | None = None

    @property
    def label(self) -> str:
        """Unique in the run: the engine, with its bundle where there are several."""
        return self.measured.candidate.label

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.measured.candidate.runtime

    @property
    def threads(self) -> int:
        """Threads that one call uses."""
        return thread_count(self.measured.candidate.threads)

    def percentile(self, percent: float) -> Percentile:
        """Latency per call, in nanoseconds."""
        return self.measured.percentile(percent)

    def photos_per_second(self, batch: int = 1) -> float | None:
        """Photos per second of calls made one after the other, or what LoadGen says; None without samples."""
        if self.measured.loadgen is not None:
            return self.measured.loadgen.qps
        samples = self.measured.samples
        return batch * len(samples) * NS / float(samples.sum()) if len(samples) else None

    def energy(self, machine: Machine, batch: int = 1) -> EnergyPerPhoto:
        """Joules per photo over all timed turns, or over LoadGen's run."""
        measured, on_gpu = self.measured, uses_gpu(self.engine)
        if measured.loadgen is not None:
            turns, photos = [measured.loadgen_joules], measured.loadgen.samples or 0
        else:
            turns, photos = [turn.joules for turn in measured.turns], batch * len(measured.samples)
        cpu, gpu, both = per_photo(turns, photos, on_gpu=on_gpu)
        reasons = [] if cpu is not None or photos == 0 else [machine.cpu_energy or "the package's energy could not be read"]
        if on_gpu and gpu is None and photos:
            reasons.append(machine.gpu_missing or "this GPU counts no energy and shows no power")
        return EnergyPerPhoto(cpu, gpu, both, photos, "; ".join(reasons) or None)


@dataclass(frozen=True)
class BenchResult:
    """What a run measured. Ratios compare with the first row; latencies are per call, in nanoseconds.

    loadgen: what LoadGen was asked for; None for rounds of calls. gpus_after: the GPUs when all was done. command: what
    repeats the run; None when it was not started from the command line.
    """

    bundles: tuple[BenchBundle, ...]
    scope: Scope
    loadgen: LoadgenRule | None
    settings: dict[str, Any]
    prices: Prices
    machine: Machine
    gpus_after: tuple[GpuState, ...]
    rows: tuple[BenchRow, ...]
    interrupted: bool
    created: str
    command: str | None = None

    def ratio(self, row: BenchRow) -> PairedRatio | None:
        """Latency of a row over that of the first one, paired by round; None for the first one and without pairs."""
        return None if row is self.rows[0] else ratio_of(row.measured.turns, self.rows[0].measured.turns)

    def cost(self, row: BenchRow) -> Cost:
        """What photos cost with a row's engine."""
        return cost_of(
            row.photos_per_second(self.settings["batch"]),
            row.threads,
            on_gpu=uses_gpu(row.engine),
            prices=self.prices,
            joules_per_photo=row.energy(self.machine, self.settings["batch"]).both,
            memory_peak=peak_memory(row.measured),
        )

    @property
    def headline(self) -> str | None:
        """What a thousand photos cost; None where nothing was measured, and at a server's rate, which is not the engine's.

        An engine whose drift shows a problem (NaN, lost colour) is not weighed.
        """
        if self.loadgen is not None and self.loadgen.scenario == "server":
            return None
        good = [row for row in self.rows if row.drift is not None and not row.drift.problems]
        networks = [f"{bundle.preset} at {bundle.size}" for bundle in self.bundles]
        return headline([Offer(row.label, row.engine, networks[row.bundle], self.cost(row)) for row in good])

    def errors(self) -> list[IcfError]:
        """Why rows are missing, in their order."""
        return [row.measured.error for row in self.rows if row.measured.error is not None]

    def warnings(self) -> list[str]:
        """Everything that a reader should know before believing a number."""
        return [*self.machine.warnings(), *(line for row in self.rows for line in row.measured.warnings())]

    def to_json(self) -> dict[str, Any]:
        """Plain values with their schema's version, raw samples included."""
        return {
            "schema": SCHEMA,
            "created": self.created,
            "command": self.command,
            "bundles": [bundle.to_json() for bundle in self.bundles],
            "scope": self.scope,
            "scenario": None if self.loadgen is None else self.loadgen.scenario,
            "settings": self.settings,
            "machine": {**self.machine.to_json(), "gpus_after": [state.to_json() for state in self.gpus_after]},
            "interrupted": self.interrupted,
            "headline": self.headline,
            "warnings": self.warnings(),
            "rows": [self._row_json(row) for row in self.rows],
        }

    def _row_json(self, row: BenchRow) -> dict[str, Any]:
        measured, cost, percents = row.measured, self.cost(row), self.settings["percentiles"]
        energy = row.energy(self.machine, self.settings["batch"])
        loadgen = measured.loadgen
        return {
            "label": row.label,
            "engine": row.engine,
            "bundle": self.bundles[row.bundle].name,
            "bundle_index": row.bundle,
            "command": row.command,
            "threads": row.threads,
            "scope": self.scope,
            "artefact": {"sha256": row.sha256, "bytes": row.bytes, "recipe": row.recipe},
            "photos_per_second": cost.photos_per_second,
            "photos_per_second_per_core": cost.photos_per_second_per_core,
            "drift": None if row.drift is None else drift_json(row.drift),
            "ratio": ratio_json(self.ratio(row)),
            "paced": [_paced_json(fps, turns, measured, percents) for fps, turns in measured.paced.items()],
            "cold_start": None if measured.cold_start is None else measured.cold_start.to_json(),
            "energy": {
                "cpu_joules_per_photo": energy.cpu,
                "gpu_joules_per_photo": energy.gpu,
                "joules_per_photo": energy.both,
                "photos": energy.photos,
                "why_not": energy.why_not,
            },
            "gpu": None if measured.gpu is None else measured.gpu.to_json(),
            "throttled": None if measured.gpu is None else bool(measured.gpu.slowdowns),
            "cost": asdict(cost),
            "loadgen": None if loadgen is None or self.loadgen is None else loadgen.to_json(self.loadgen),
            **measured_json(measured, percents),
        }


def drift_json(drift: DriftTable) -> dict[str, Any]:
    """The drift table, and its worst photo by the 95th percentile of CIEDE2000; null stands for an infinite value."""
    photo, value = drift.worst("de2000_p95")
    worst = {"photo": photo, "de2000_p95": value if math.isfinite(value) else None}
    return {**drift.to_json(), "worst": worst}


def _paced_json(fps: float, turns: Sequence[Turn], measured: Measured, percents: Sequence[float]) -> dict[str, Any]:
    """The turns at one pace, beside those of the same engine in the same rounds back to back."""
    return {
        "fps": fps,
        "calls": sum(len(turn.samples) for turn in turns),
        "late": sum(turn.late for turn in turns),
        "percentiles_ns": [percentile_json(percentile_of(turns, percent)) for percent in percents],
        "ratio": ratio_json(ratio_of(turns, measured.turns)),
        "turns": [
            {"round": turn.round, "process": turn.process, "ns": turn.samples.tolist(), "joules": asdict(turn.joules)}
            for turn in turns
        ],
    }
