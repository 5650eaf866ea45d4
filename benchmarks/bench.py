"""One bundle on the engines of this machine: latency, memory and drift of the very same files, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_deploy.benchmarks.candidate import Candidate, Scope, check_labels
from icf_deploy.benchmarks.clock import NS, StopRule
from icf_deploy.benchmarks.inputs import PHOTO_SIDE, inputs_of
from icf_deploy.benchmarks.machine import Machine, read_machine
from icf_deploy.benchmarks.paired import now_utc
from icf_deploy.benchmarks.report import measured_json, ratio_json
from icf_deploy.benchmarks.rounds import PROCESSES, ROUNDS, Measured, Progress, Rounds, ratio_of
from icf_deploy.benchmarks.stats import Percentile
from icf_deploy.errors import EngineUnavailableError, IcfError, UsageError
from icf_deploy.runtimes.cores import thread_count

if TYPE_CHECKING:
    from icf_deploy.benchmarks.ratio import PairedRatio
    from icf_deploy.benchmarks.remote import WorkerProcess
    from icf_deploy.benchmarks.wire import Array
    from icf_deploy.bundle.opening import Bundle
    from icf_deploy.quality.table import DriftTable

SCHEMA = "icf-bench 1"
SECONDS = 3.0  # of timed calls per engine, at least
CALLS = 100  # timed per engine, at least
PERCENTS = (50.0, 90.0)
FEWEST_TURN_CALLS = 3  # a turn's median is not one call


@dataclass
class BenchRow:
    """One engine: what was measured, which file that was, and the drift of that very file.

    sha256, bytes, recipe: of the graph (for `pytorch`: of the checkpoint); None where it could not be read.
    """

    measured: Measured
    sha256: str | None = None
    bytes: int | None = None
    recipe: str | None = None
    drift: DriftTable | None = None

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.measured.candidate.label

    @property
    def threads(self) -> int:
        """Threads that one call uses."""
        return thread_count(self.measured.candidate.threads)

    def percentile(self, percent: float) -> Percentile:
        """Latency per call, in nanoseconds."""
        return self.measured.percentile(percent)

    def photos_per_second(self, batch: int = 1) -> float | None:
        """Photos per second of calls made one after the other; None without samples."""
        samples = self.measured.samples
        return batch * len(samples) * NS / float(samples.sum()) if len(samples) else None


@dataclass(frozen=True)
class BenchResult:
    """What a run measured. Ratios compare with the first row; latencies are per call, in nanoseconds."""

    bundle: str
    digest: str
    preset: str
    graph: str
    size: tuple[int, int]
    scope: Scope
    settings: dict[str, Any]
    machine: Machine
    rows: tuple[BenchRow, ...]
    interrupted: bool
    created: str

    def ratio(self, row: BenchRow) -> PairedRatio | None:
        """Latency of a row over that of the first one, paired by round; None for the first one and without pairs."""
        return None if row is self.rows[0] else ratio_of(row.measured, self.rows[0].measured)

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
            "bundle": {"name": self.bundle, "digest": self.digest, "preset": self.preset},
            "graph": self.graph,
            "size": list(self.size),
            "scope": self.scope,
            "settings": self.settings,
            "machine": self.machine.to_json(),
            "interrupted": self.interrupted,
            "warnings": self.warnings(),
            "rows": [self._row_json(row) for row in self.rows],
        }

    def _row_json(self, row: BenchRow) -> dict[str, Any]:
        rate = row.photos_per_second(self.settings["batch"])
        return {
            "engine": row.engine,
            "threads": row.threads,
            "scope": self.scope,
            "artefact": {"sha256": row.sha256, "bytes": row.bytes, "recipe": row.recipe},
            "photos_per_second": rate,
            "photos_per_second_per_core": None if rate is None else rate / row.threads,
            "drift": None if row.drift is None else row.drift.to_json(),
            "ratio": ratio_json(self.ratio(row)),
            **measured_json(row.measured, self.settings["percentiles"]),
        }


def benchmark(
    bundle: str | Path | None = None,
    engines: Sequence[str] | None = None,
    *,
    scope: Scope = "engine",
    graph: str | None = None,
    threads: int | None = None,
    seconds: float = SECONDS,
    calls: int = CALLS,
    percentiles: Sequence[float] = PERCENTS,
    batch: int = 1,
    processes: int = PROCESSES,
    photos: Sequence[Array] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> BenchResult:
    """Measure a bundle (None: the shipped one) on engines of this machine (None: all that are installed).

    Every engine lives alone in `processes` processes, one after the other, and they take turns in shuffled rounds. Each gets at
    least `seconds` of timed calls, `calls` of them, and as many as the highest of `percentiles` needs. photos: uint8 [H,W]
    or RGB [H,W,3] for the scopes `image` and `file`; None: the reference set at one megapixel. An engine that fails costs
    its row.

    Raises UsageError for an unknown engine or graph, IntegrityError for an unreadable bundle, EngineUnavailableError where
    no engine is installed.
    """
    from icf_deploy.bundle.opening import open_bundle

    opened = open_bundle(bundle)
    names = installed_engines(opened) if engines is None else list(engines)
    rows = [_row(opened, name, graph, threads, None if bundle is None else Path(bundle)) for name in names]
    check_labels([row.measured.candidate for row in rows])
    thread_count(threads)
    stop = StopRule.carrying(*percentiles, seconds=seconds, calls=calls)
    turn = StopRule(stop.seconds / ROUNDS, max(FEWEST_TURN_CALLS, -(-stop.calls // ROUNDS)))
    reference = opened.reference()
    machine = read_machine()

    def measure(measured: Measured, worker: WorkerProcess) -> None:
        from icf_deploy.quality.drift import measure_drift

        row = next(row for row in rows if row.measured is measured)
        row.drift = measure_drift(worker, reference)

    measurable = [row.measured for row in rows if row.measured.error is None]
    run = Rounds(
        measurable,
        scope,
        inputs_of(scope, reference.gray, batch=batch, photos=photos),
        stop=turn,
        processes=processes,
        seed=seed,
        progress=progress,
        warmed=measure,
    )
    interrupted = run.measure()
    settings = {
        "rounds": ROUNDS,
        "processes": processes,
        "seconds": stop.seconds,
        "calls": stop.calls,
        "percentiles": list(percentiles),
        "batch": batch if scope == "engine" else 1,
        "threads": threads,
        "photos": len(reference.names) if scope == "engine" or photos is None else len(photos),
        "photo_size": None if scope == "engine" else _sizes(photos),
        "seed": seed,
    }
    manifest, name = opened.manifest, graph or opened.manifest.default_graph
    entry = manifest.graph(name)
    return BenchResult(
        bundle=opened.path.name,
        digest=opened.digest,
        preset=manifest.preset,
        graph=name,
        size=manifest.size if entry is None else entry.size,
        scope=scope,
        settings=settings,
        machine=machine,
        rows=tuple(rows),
        interrupted=interrupted,
        created=now_utc(),
    )


def installed_engines(bundle: Bundle) -> list[str]:
    """Names of the engines that are installed and can run this bundle. Raises EngineUnavailableError where none is."""
    from icf_deploy.runtimes import registry

    found = []
    for name in registry.preferred():
        if registry.line(name).runs_checkpoint and bundle.checkpoint() is None:
            continue
        found.append(name)
    if not found:
        raise EngineUnavailableError("no engine is installed that can run this bundle; pip install 'icf-deploy[cpu]'")
    return found


def _row(bundle: Bundle, engine: str, graph: str | None, threads: int | None, path: Path | None) -> BenchRow:
    """The row of one engine, with the facts of its file. Raises UsageError for a name that no engine or graph has."""
    from icf_deploy.runtimes import registry

    registry.split(engine)
    row = BenchRow(Measured(Candidate(engine, engine, threads, path, graph)))
    try:
        found = registry.graph_for(bundle, engine, graph)
    except UsageError:
        raise
    except IcfError as error:
        row.measured.error = type(error)(f"{engine}: {error}")
        return row
    row.sha256, row.bytes, row.recipe = found.sha256, len(found.data), found.recipe
    return row


def _sizes(photos: Sequence[Array] | None) -> list[list[int]]:
    """[H, W] of every photo; one entry where they are all alike."""
    sizes = [[PHOTO_SIDE, PHOTO_SIDE]] if photos is None else [list(photo.shape[:2]) for photo in photos]
    return sizes[:1] if all(size == sizes[0] for size in sizes) else sizes
