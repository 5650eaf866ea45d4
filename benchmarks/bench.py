"""Bundles on the engines of this machine: latency, memory, energy and drift of the very same files, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_deploy.benchmarks.bench_result import BenchBundle, BenchResult, BenchRow
from icf_deploy.benchmarks.candidate import Candidate, Scope, check_labels
from icf_deploy.benchmarks.clock import StopRule
from icf_deploy.benchmarks.cold_start import measure_cold_start
from icf_deploy.benchmarks.cost import Prices
from icf_deploy.benchmarks.gpu_state import find_gpus
from icf_deploy.benchmarks.inputs import PHOTO_SIDE, inputs_of
from icf_deploy.benchmarks.loadgen import LoadgenRule
from icf_deploy.benchmarks.machine import read_machine
from icf_deploy.benchmarks.measured import Measured, costs_its_row
from icf_deploy.benchmarks.pace import PaceRule
from icf_deploy.benchmarks.paired import now_utc
from icf_deploy.benchmarks.rounds import PROCESSES, ROUNDS, Progress, Rounds
from icf_deploy.benchmarks.scenario import run_scenario
from icf_deploy.errors import EngineUnavailableError, IcfError, UsageError
from icf_deploy.runtimes.cores import thread_count

if TYPE_CHECKING:
    from icf_deploy.benchmarks.remote import Inputs, WorkerProcess
    from icf_deploy.bundle.opening import Bundle
    from icf_deploy.imaging.codec import PhotoLike

SECONDS = 3.0  # of timed calls per engine, at least
CALLS = 100  # timed per engine, at least
MIDDLE = 50.0  # the percentile that is always there
PERCENTS = (MIDDLE, 90.0)
FEWEST_TURN_CALLS = 3  # a turn's median is not one call
HIGHEST_PACE = 1000.0  # calls a second; above it a sleeping process does not wake up in time
BundlePath = str | Path


def benchmark(
    bundle: BundlePath | Sequence[BundlePath] | None = None,
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
    photos: Sequence[PhotoLike] | None = None,
    paces: Sequence[float] = (),
    loadgen: LoadgenRule | None = None,
    log_folder: Path | None = None,
    cold_starts: int = 0,
    prices: Prices | None = None,
    expect_digests: Sequence[str] = (),
    trust_engines: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> BenchResult:
    """Measure bundles (None: the shipped one) on engines of this machine (None: all that are installed).

    Every engine lives alone in `processes` processes, one after the other, and they take turns in shuffled rounds. Each gets at
    least `seconds` of timed calls, `calls` of them, and as many as the highest of `percentiles` needs. An engine that fails
    costs its row, and there is no latency without the drift of the same file.

    batch: photos per call, scope `engine` only. photos: what is fed to the engines in every scope; None: the reference set of
    the first bundle, at one megapixel for the scopes `image` and `file`. paces: calls per second at which every engine is
    timed too, beside its calls back to back. loadgen: a run of LoadGen for each engine instead of rounds; log_folder: where
    its logs are kept, a folder per engine. cold_starts: fresh processes in each state of the engine's cache. expect_digests:
    those that the bundles must have, in their order. trust_engines: also use engines that lie in the bundles.

    Raises UsageError for an unknown engine or graph and for what makes no sense together, IntegrityError for an unreadable
    bundle or another one than its digest says, PhotoError for an unreadable photo, EngineUnavailableError where no engine, or
    LoadGen, is installed.
    """
    from icf_deploy.bundle.opening import open_bundle

    paths, prices, paces = _paths(bundle), prices or Prices(), tuple(dict.fromkeys(paces))
    if expect_digests and len(expect_digests) != len(paths):
        raise UsageError(f"each bundle needs its digest: {len(paths)} bundles and {len(expect_digests)} digests were given")
    digests = expect_digests or (None,) * len(paths)
    opened = [
        open_bundle(path, expect_digest=digest, trust_engines=trust_engines)
        for path, digest in zip(paths, digests, strict=True)
    ]
    percents = sorted({MIDDLE, *percentiles})
    stop = StopRule.carrying(*percents, seconds=seconds, calls=calls)
    _check(scope, threads, batch, paces, loadgen)
    rows = _rows(opened, paths, engines, graph, threads)
    turn = StopRule(stop.seconds / ROUNDS, max(FEWEST_TURN_CALLS, -(-stop.calls // ROUNDS)))
    references = [one.reference() for one in opened]
    inputs = inputs_of(scope, references[0].gray, batch=1 if loadgen is not None else batch, photos=photos)
    photo_size = None if scope == "engine" else _sizes(photos)
    machine = read_machine()

    def measure(measured: Measured, worker: WorkerProcess) -> None:
        from icf_deploy.quality.drift import measure_drift

        row = next(row for row in rows if row.measured is measured)
        row.drift = measure_drift(worker, references[row.bundle])

    measurable = [row.measured for row in rows if row.measured.error is None]
    if loadgen is not None:
        interrupted = run_scenario(measurable, scope, inputs, loadgen, log_folder=log_folder, progress=progress, warmed=measure)
    else:
        interrupted = Rounds(
            measurable,
            scope,
            inputs,
            stop=turn,
            processes=processes,
            seed=seed,
            progress=progress,
            warmed=measure,
            paces=[PaceRule.for_turn(pace, percents, ROUNDS, turn.seconds) for pace in paces],
        ).measure()
    interrupted = interrupted or _cold_starts(measurable, scope, inputs, cold_starts, progress)
    settings: dict[str, Any] = {
        "rounds": 0 if loadgen is not None else ROUNDS,
        "processes": 1 if loadgen is not None else processes,
        "seconds": loadgen.seconds if loadgen is not None else stop.seconds,
        "calls": loadgen.queries if loadgen is not None else stop.calls,
        "percentiles": percents,
        "batch": loadgen.batch if loadgen is not None else batch,
        "threads": threads,
        "photos": len(references[0].names) if photos is None else len(photos),
        "photo_size": photo_size,
        "photo_source": "reference set" if photos is None else "own photos",
        "photo_names": list(references[0].names) if photos is None else _names(photos),
        "seed": seed,
        "pace": list(paces),
        "cold_starts": cold_starts,
        "target_qps": None if loadgen is None else loadgen.target_qps,
        "target_latency_ms": loadgen.target_latency_ms if loadgen is not None and loadgen.scenario == "server" else None,
        "trust_engines": trust_engines,
        "price_per_core_hour": prices.per_core_hour,
        "price_per_gpu_hour": prices.per_gpu_hour,
    }
    return BenchResult(
        bundles=tuple(_facts(one, path, graph) for one, path in zip(opened, paths, strict=True)),
        scope=scope,
        loadgen=loadgen,
        settings=settings,
        prices=prices,
        machine=machine,
        gpus_after=find_gpus().states(),
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


def _paths(bundle: BundlePath | Sequence[BundlePath] | None) -> list[Path | None]:
    if bundle is None:
        return [None]
    return [Path(path) for path in ([bundle] if isinstance(bundle, str | Path) else bundle)] or [None]


def _check(scope: Scope, threads: int | None, batch: int, paces: Sequence[float], loadgen: LoadgenRule | None) -> None:
    """Raises UsageError for what makes no sense together."""
    thread_count(threads)
    biggest = batch if loadgen is None else loadgen.batch
    if biggest > 1 and scope != "engine":
        raise UsageError(f"the scope {scope} takes one photo at a time: leave --batch out, or take --scope engine")
    for pace in paces:
        if not 0 < pace <= HIGHEST_PACE:
            raise UsageError(f"a pace lies above 0 and at most at {HIGHEST_PACE:g} calls a second, found {pace:g}")
    if loadgen is not None:
        loadgen.check()
        if paces:
            raise UsageError(f"--scenario {loadgen.scenario} has LoadGen's own schedule: leave --pace out, or --scenario")


def _rows(
    bundles: Sequence[Bundle],
    paths: Sequence[Path | None],
    engines: Sequence[str] | None,
    graph: str | None,
    threads: int | None,
) -> list[BenchRow]:
    """Bundle by engine, with the facts of every file. Raises UsageError for a name that no engine or graph has."""
    from icf_deploy.runtimes import registry

    shown = [bundle.path.name for bundle in bundles]
    if len(set(shown)) < len(shown):
        shown = [str(path) for path in paths]
    rows = []
    for number, (bundle, path) in enumerate(zip(bundles, paths, strict=True)):
        for engine in installed_engines(bundle) if engines is None else engines:
            registry.split(engine)
            label = engine if len(bundles) == 1 else f"{shown[number]} {engine}"
            candidate = Candidate(
                label, engine, threads, path, graph, expect_digest=bundle.digest, trust_engines=bundle.trust_engines
            )
            row = BenchRow(Measured(candidate), number)
            rows.append(row)
            try:
                found = registry.graph_for(bundle, engine, graph)
            except UsageError:
                raise
            except IcfError as error:
                row.measured.error = type(error)(f"{label}: {error}")
                continue
            row.sha256, row.bytes, row.recipe = found.sha256, len(found.data), found.recipe
    check_labels([row.measured.candidate for row in rows])
    return rows


def _cold_starts(rows: Sequence[Measured], scope: Scope, inputs: Inputs, processes: int, progress: Progress | None) -> bool:
    """Returns whether the user interrupted."""
    try:
        for number, row in enumerate(rows if processes else []):
            if row.error is None:
                if progress is not None:
                    progress(number, len(rows), f"{row.candidate.label}: {2 * processes} cold starts")
                with costs_its_row(row):
                    row.cold_start = measure_cold_start(row.candidate, scope, inputs, processes)
    except KeyboardInterrupt:
        return True
    return False


def _facts(bundle: Bundle, path: Path | None, graph: str | None) -> BenchBundle:
    manifest, name = bundle.manifest, graph or bundle.manifest.default_graph
    entry = manifest.graph(name)
    size = manifest.size if entry is None else entry.size
    return BenchBundle(bundle.path.name, path, bundle.digest, manifest.preset, name, size)


def _sizes(photos: Sequence[PhotoLike] | None) -> list[list[int]]:
    """[H, W] of every photo; one entry where they are all alike."""
    from icf_deploy.imaging.codec import read_photo

    sizes = [[PHOTO_SIDE, PHOTO_SIDE]] if photos is None else [list(read_photo(photo).size) for photo in photos]
    return sizes[:1] if all(size == sizes[0] for size in sizes) else sizes


def _names(photos: Sequence[PhotoLike]) -> list[str] | None:
    """File names, where all photos are files."""
    files = [Path(photo).name for photo in photos if isinstance(photo, str | Path)]
    return files if len(files) == len(photos) else None
