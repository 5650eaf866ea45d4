"""The run of `tune`: drift and a first look at everything, then paired rounds for those that could be the choice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_deploy.benchmarks.bench import FEWEST_TURN_CALLS, SECONDS
from icf_deploy.benchmarks.clock import StopRule, WarmUpRule, short_warm_up
from icf_deploy.benchmarks.inputs import inputs_of
from icf_deploy.benchmarks.machine import read_machine
from icf_deploy.benchmarks.measured import Measured, Turn, costs_its_row
from icf_deploy.benchmarks.paired import now_utc
from icf_deploy.benchmarks.remote import Inputs, WorkerProcess
from icf_deploy.benchmarks.rounds import PROCESSES, ROUNDS, Progress, Rounds
from icf_deploy.errors import WorkError
from icf_deploy.quality.budget import Budget, parse
from icf_deploy.runtimes.cache import default_cache
from icf_deploy.runtimes.cores import thread_count
from icf_deploy.runtimes.tuned import TunedChoice, engine_version, recall, remember
from icf_deploy.tuning.candidates import candidates, engines_of_device
from icf_deploy.tuning.checking import main_metric, worst_shots
from icf_deploy.tuning.choose import Choice, choose, undecided
from icf_deploy.tuning.misses import nearest_miss
from icf_deploy.tuning.result import PERCENTS, TuneResult, TuneRow, joined
from icf_deploy.tuning.yardstick import Yardstick, own_photos, reference_set

if TYPE_CHECKING:
    from icf_deploy.bundle.opening import Bundle

DEFAULT_BUDGET = "de2000_p95<=1.0"
LOOK = StopRule.carrying(*PERCENTS[:1], seconds=0.5, calls=1)  # of the first look; as many calls as a median needs
PASSES = 3  # of paired rounds, at most: two whose speed is undecided after one are measured again
# A candidate whose first look took this many times as long as that of the fastest inside the budget is not paired: the look
# is not interleaved, and on a shared machine two looks at one engine have differed by a quarter.
CONTENDER = 1.5


def tune(
    bundle: str | Path | None = None,
    budget: str | Budget = DEFAULT_BUDGET,
    *,
    engines: Sequence[str] = (),
    graphs: Sequence[str] = (),
    photos: Path | None = None,
    threads: int | None = None,
    seconds: float = SECONDS,
    rounds: int = ROUNDS,
    processes: int = PROCESSES,
    keep: bool = True,
    pictures: bool = False,
    expect_digest: str | None = None,
    trust_engines: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> TuneResult:
    """Find the fastest engine and graph of a bundle (None: the shipped one) whose drift is inside the budget, and keep it.

    engines: none: all of this device that run graphs. graphs: none: all whole ones of the default size. photos: a folder of
    colour photos on which drift is measured instead of the reference set. seconds: of timed calls for each that could be the
    choice, shared out among `rounds` in `processes` fresh processes. keep: remember the choice in the device's cache, under
    the bundle's digest, this device and the number of threads, so that `icf_deploy.load` takes it. pictures: draw the worst
    photo of each, for a report.

    Every candidate lives alone in a process. What cannot run, and what fails, costs its row. Interrupted, it keeps nothing.
    Raises UsageError for a budget, engine or graph that makes no sense, and for a cache that is off (`keep`), IntegrityError
    for an unreadable bundle, PhotoError for photos that cannot be read, EngineUnavailableError where no engine is installed,
    WorkError where the choice could not be kept. Nothing inside the budget is no error here: `TuneResult.require_choice`.
    """
    from icf_deploy.bundle.opening import open_bundle

    start = time.monotonic()
    limits = parse(budget) if isinstance(budget, str) else budget
    if photos is None:
        limits.require_photos()
    if keep:
        default_cache().entries()  # raises where there is no cache to keep anything in
    thread_count(threads)
    opened = open_bundle(bundle, expect_digest=expect_digest, trust_engines=trust_engines)
    rows, same = candidates(opened, None if bundle is None else Path(bundle), engines or engines_of_device(), graphs, threads)
    yardstick = reference_set(opened) if photos is None else own_photos(opened, photos, threads=threads, tell=progress)
    yardstick.require_truth(limits)
    machine, created = read_machine(), now_utc()
    inputs = inputs_of("engine", opened.reference().gray)
    stop = StopRule(seconds / rounds, FEWEST_TURN_CALLS)
    shots = main_metric(limits) if pictures else None
    interrupted = _look_at(rows, yardstick, inputs, shots, progress)
    if not interrupted:
        interrupted = _pair(rows, limits, inputs, stop=stop, rounds=rounds, processes=processes, seed=seed, progress=progress)
    choice = None if interrupted else choose(rows, limits)
    settings: dict[str, Any] = {
        "threads": thread_count(threads),
        "rounds": rounds,
        "processes": processes,
        "seconds": seconds,
        "contender": CONTENDER,
        "passes": PASSES,
        "photos": len(yardstick.reference.names),
        "seed": seed,
    }
    result = TuneResult(
        bundle=opened.path.name,
        digest=opened.digest,
        preset=opened.manifest.preset,
        budget=limits,
        yardstick=yardstick,
        rows=tuple(rows),
        same=tuple(same),
        choice=choice,
        nearest=None if choice is not None or interrupted else nearest_miss(opened, rows, limits),
        machine=machine,
        settings=settings,
        interrupted=interrupted,
        seconds=time.monotonic() - start,
        created=created,
    )
    if choice is not None and keep:
        return replace(result, kept=_keep(opened, threads, result, choice))
    earlier = recall(opened, threads)
    return result if earlier is None else replace(result, earlier=str(earlier))


def _look_at(
    rows: Sequence[TuneRow], yardstick: Yardstick, inputs: Inputs, metric: str | None, progress: Progress | None
) -> bool:
    """Measure each row's drift, then time it shortly, in a process of its own. Returns whether the user interrupted.

    metric: draw the photo that is worst in it; None draws none.
    """
    try:
        for number, row in enumerate(rows):
            if progress is not None:
                progress(number, len(rows), f"drift and a first look: {row.label}")
            if row.look.error is None:
                with costs_its_row(row.look), WorkerProcess(row.look.candidate, "engine", inputs) as worker:
                    row.look.starts.append(worker.start)
                    row.drift = yardstick.measure(worker)
                    if metric is not None:
                        (row.shot,) = worst_shots(worker, row.drift, yardstick, metric, 1)
                    row.look.warm_up = worker.warm_up(WarmUpRule())
                    timed = worker.turn(short_warm_up(LOOK.seconds), LOOK)
                    row.look.turns.append(Turn(0, 0, timed.samples, timed.joules))
                    row.look.memory_peak_running = worker.memory_peak()
                    row.look.formats = worker.formats
    except KeyboardInterrupt:
        return True
    return False


def _pair(
    rows: Sequence[TuneRow],
    budget: Budget,
    inputs: Inputs,
    *,
    stop: StopRule,
    rounds: int,
    processes: int,
    seed: int,
    progress: Progress | None,
) -> bool:
    """Time the contenders in paired rounds, and again those whose order is undecided. Returns whether the user interrupted."""
    waiting = _contenders(rows, budget)
    for number in range(PASSES):
        if not waiting:
            return False
        again = [Measured(row.look.candidate) for row in waiting]
        run = Rounds(
            again, "engine", inputs, stop=stop, rounds=rounds, processes=processes, seed=seed + number, progress=progress
        )
        interrupted = run.measure()
        for row, found in zip(waiting, again, strict=True):
            row.measured = found if row.measured is None else joined(row.measured, found)
        if interrupted:
            return True
        # Where all that were near the best have failed meanwhile, the next ones are it.
        waiting = undecided(rows, budget) if choose(rows, budget) is not None else _contenders(rows, budget)
    return False


def _contenders(rows: Sequence[TuneRow], budget: Budget) -> list[TuneRow]:
    """What is timed to the end: the rows inside the budget whose first look was near that of the fastest of them."""
    inside = [(row, row.milliseconds()) for row in rows if row.error is None and row.is_inside(budget)]
    fastest = min((latency for _, latency in inside if latency is not None), default=0.0)
    return [row for row, latency in inside if latency is not None and latency <= CONTENDER * fastest]


def _keep(bundle: Bundle, threads: int | None, result: TuneResult, choice: Choice) -> Path:
    """Remember the choice; the folder in which it is. WorkError where that fails."""
    row, version = choice.row, engine_version(choice.row.engine)
    if version is None or row.sha256 is None or row.drift is None:
        raise WorkError(f"{row.label} was measured, and is not here any more: nothing is remembered")
    metrics = dict.fromkeys(["de2000_p95", *(limit.metric for limit in result.budget.limits)])
    found = TunedChoice(
        engine=row.engine,
        graph=row.graph,
        sha256=row.sha256,
        version=version,
        budget=str(result.budget),
        milliseconds=row.milliseconds() or 0.0,
        drift={name: row.drift.value(name) for name in metrics},
        photos=result.yardstick.source,
        created=result.created,
    )
    return remember(bundle, threads, found, seconds=result.seconds)
