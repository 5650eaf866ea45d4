"""The process in which one engine lives alone: `python -m icf_deploy.benchmarks.worker`.

It reads commands from standard input, one at a time, and blocks between them. What libraries print goes to standard error;
standard output belongs to the protocol of `wire`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from icf_deploy.benchmarks import clock
from icf_deploy.benchmarks.candidate import REGISTERED, Candidate, Scope
from icf_deploy.benchmarks.clock import NS, Call, StopRule, WarmUpRule, collector_frozen, sample, warm_up
from icf_deploy.benchmarks.energy import EnergyMeter, Rapl
from icf_deploy.benchmarks.gpu_state import GpuDevice, find_gpus, uses_gpu
from icf_deploy.benchmarks.machine import busy_seconds
from icf_deploy.benchmarks.memory import read_memory, reset_peak
from icf_deploy.benchmarks.wire import Array, Message, receive, send
from icf_deploy.errors import IcfError

if TYPE_CHECKING:
    from icf_deploy.benchmarks.loadgen import Run
    from icf_deploy.runtimes.base import Session

SETTLE_STEP = 0.008  # seconds between two looks at the processor time
SETTLE_LOOKS = 2  # in a row must find it quiet: on a busy machine a spinning thread may miss one
SETTLE_SHARE = 0.1  # of one core: below it an idle engine counts as blocked
SETTLE_LIMIT = 0.25  # seconds after which an engine that still spins is let go, and reported

Reply = tuple[Message, list[Array]]


class Worker:
    """One engine and its inputs, and the commands that the run may give.

    meter, gpu: what energy and the GPU's state are read with; None: this machine's, for an engine on the GPU its GPU.
    """

    def __init__(self, meter: EnergyMeter | None = None, gpu: GpuDevice | None = None) -> None:
        self.session: Session | None = None
        self.call: Call | None = None
        self.run_photos: Run | None = None
        self.photos = 0
        self.candidate: Candidate | None = None
        self._meter, self._gpu = meter, gpu

    def open(self, message: Message, _: list[Array]) -> Reply:
        """Load the engine: how long that took, what size it wants, and the memory it needs."""
        self.candidate = candidate = Candidate.from_json(message["candidate"])
        before = read_memory().now
        start = clock.now_ns()
        imported = _import_engine(candidate)
        import_ns = clock.now_ns() - start
        self.session = candidate.open()
        load_ns = clock.now_ns() - start
        loaded = read_memory()
        return {
            "import_ns": import_ns if imported else None,
            "load_ns": load_ns,
            "size": list(self.session.size),
            "output_size": list(self.session.output_size),
            "memory": {"start": before, "loaded": loaded.now, "peak_loading": loaded.peak},
        }, []

    def first_call(self, message: Message, arrays: list[Array]) -> Reply:
        """Take the inputs of the scope, forget the peak of memory, and make the first call."""
        assert self.session is not None and self.candidate is not None
        self.call = _call_of(message["scope"], self.session, self.candidate.threads, arrays)
        self.run_photos = _photos_of(message["scope"], self.session, self.call, arrays)
        self.photos = len(arrays)
        resettable = reset_peak()
        start = clock.now_ns()
        self.call(0)
        return {"first_call_ns": clock.now_ns() - start, "peak_resettable": resettable}, []

    def warm_up(self, message: Message, _: list[Array]) -> Reply:
        """Warm up by the rule of the message."""
        assert self.call is not None
        with collector_frozen():
            found = warm_up(self.call, WarmUpRule(**message["rule"]))
        return {**asdict(found), "idle_share": _settle()}, []

    def turn(self, message: Message, _: list[Array]) -> Reply:
        """A short warm-up, then timed calls; arrays: int64 nanoseconds of each. others: cores that other processes used."""
        assert self.call is not None
        meter, gpu = self._instruments()
        states = _states(gpu)
        busy, own, start = busy_seconds(), time.process_time(), time.perf_counter()
        with collector_frozen():
            warm_up(self.call, WarmUpRule(**message["warm_up"]))
            meter.start()
            taken = sample(self.call, StopRule(**message["stop"]))
            joules = meter.stop()
            states += _states(gpu)
        wall, own = time.perf_counter() - start, time.process_time() - own
        after = busy_seconds()
        others = None if busy is None or after is None else max(0.0, (after - busy - own) / wall)
        return {"idle_share": _settle(), "others": others, "joules": asdict(joules), "gpu": states}, [taken]

    def paced(self, message: Message, _: list[Array]) -> Reply:
        """Timed calls at a steady pace; arrays: int64 nanoseconds of each."""
        from icf_deploy.benchmarks.pace import PaceRule, sample_paced

        assert self.call is not None
        meter, _gpu = self._instruments()
        with collector_frozen():
            meter.start()
            found = sample_paced(self.call, PaceRule(**message["rule"]))
            joules = meter.stop()
        return {"late": found.late, "joules": asdict(joules)}, [found.samples]

    def loadgen(self, message: Message, _: list[Array]) -> Reply:
        """A whole run of LoadGen: its summary. Its logs stay in the folder of the message."""
        from icf_deploy.benchmarks.loadgen import SUMMARY, LoadgenRule, run_loadgen

        assert self.run_photos is not None
        rule, folder, run = LoadgenRule(**message["rule"]), Path(message["folder"]), self.run_photos
        meter, gpu = self._instruments()
        with collector_frozen():
            found = warm_up(lambda i: run([(i * rule.batch + k) % self.photos for k in range(rule.batch)]))
            photo_seconds = max(found.medians_ns[-1], 1.0) / NS / rule.batch
            states = _states(gpu)
            meter.start()
            samples, seconds = run_loadgen(run, self.photos, rule, folder, photo_seconds)
            joules = meter.stop()
            states += _states(gpu)
        summary = (folder / SUMMARY).read_text()
        return {"summary": summary, "samples": samples, "seconds": seconds, "joules": asdict(joules), "gpu": states}, []

    def run(self, _: Message, arrays: list[Array]) -> Reply:
        """One batch through the engine, untimed: this is how its drift is measured."""
        assert self.session is not None
        return {}, [self.session.run(arrays[0])]

    def memory(self, _: Message, __: list[Array]) -> Reply:
        """Peak memory since the first call."""
        return {"peak": read_memory().peak}, []

    def formats(self, _: Message, __: list[Array]) -> Reply:
        """The formats that were executed; looking them up may load the graph once more."""
        assert self.session is not None
        return {"formats": dict(self.session.formats)}, []

    def serve(self, source: IO[bytes], sink: IO[bytes]) -> None:
        """Answer commands until the other side closes. An error is answered too, and ends nothing."""
        commands = {
            "open": self.open,
            "first_call": self.first_call,
            "warm_up": self.warm_up,
            "turn": self.turn,
            "paced": self.paced,
            "loadgen": self.loadgen,
            "run": self.run,
            "memory": self.memory,
            "formats": self.formats,
        }
        while True:
            try:
                message, arrays = receive(source)
            except EOFError:
                return
            try:
                reply, results = commands[message["do"]](message, arrays)
            except Exception as error:
                reply, results = _error_reply(error), []
            send(sink, reply, results)

    def _instruments(self) -> tuple[EnergyMeter, GpuDevice | None]:
        """What measures energy and, for an engine on the GPU, that GPU. Found at the first use: not part of a cold start."""
        assert self.candidate is not None
        if self._meter is None:
            self._gpu = find_gpus().of_engine() if uses_gpu(self.candidate.runtime) else None
            self._meter = EnergyMeter(Rapl(), self._gpu)
        return self._meter, self._gpu


def main() -> None:
    """Take over standard input and output, say hello, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run hears the interrupt, and ends its workers itself
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    send(sink, {"pid": os.getpid(), "affinity": affinity})
    Worker().serve(sys.stdin.buffer, sink)


def _call_of(scope: Scope, session: Session, threads: int | None, arrays: Sequence[Array]) -> Call:
    """One call of the scope; call number i takes input i modulo their number."""
    if scope == "engine":
        batches = [np.ascontiguousarray(batch, np.float32) for batch in arrays]
        run = session.run
        return lambda i: void(run(batches[i % len(batches)]))
    import io

    from icf_deploy.colorizer import Colorizer
    from icf_deploy.imaging.output import FORMATS

    stride = session.size[0] // session.output_size[0]
    colorizer = Colorizer(session, size=session.size, stride=stride, owns_session=False, threads=threads)
    if scope == "image":
        photos = [np.ascontiguousarray(photo) for photo in arrays]
        return lambda i: void(colorizer.colorize_array(photos[i % len(photos)]))
    files, jpeg = [encoded.tobytes() for encoded in arrays], FORMATS[".jpg"]
    return lambda i: colorizer.colorize(files[i % len(files)]).save(io.BytesIO(), jpeg.name, **jpeg.options)


def _photos_of(scope: Scope, session: Session, call: Call, arrays: Sequence[Array]) -> Run:
    """Runs the photos of some numbers: at once where the scope is the engine, whose batches are of one photo here."""
    if scope != "engine":

        def one_by_one(numbers: Sequence[int]) -> None:
            for number in numbers:
                call(number)

        return one_by_one
    photos = [np.ascontiguousarray(photo, np.float32) for photo in arrays]
    return lambda numbers: void(session.run(np.concatenate([photos[number] for number in numbers])))


def _import_engine(candidate: Candidate) -> bool:
    """Import the library of a registered engine, so that this is told apart from loading. Whether there was one."""
    import importlib

    from icf_deploy.runtimes import registry

    if candidate.opener != REGISTERED:
        return False
    for package in registry.line(candidate.runtime).packages:
        try:
            importlib.import_module(package)
            return True
        except ImportError:  # opening it says what is wrong
            continue
    return False


def _states(gpu: GpuDevice | None) -> list[dict[str, Any]]:
    """The state of the engine's GPU as plain values; nothing for one on the CPU."""
    return [] if gpu is None else [gpu.state().to_json()]


def void(_: object) -> None:
    """Drop a result where a call returns nothing."""


def _settle() -> float:
    """Wait until this process's threads have gone to sleep, so that the next engine has the cores for itself.

    Returns the share of one core that they still used in the end.
    """
    start = time.perf_counter()
    quiet = 0
    while True:
        wall, used = time.perf_counter(), time.process_time()
        time.sleep(SETTLE_STEP)
        now = time.perf_counter()
        share = (time.process_time() - used) / (now - wall)
        quiet = quiet + 1 if share <= SETTLE_SHARE else 0
        if quiet == SETTLE_LOOKS or now - start >= SETTLE_LIMIT:
            return share


def _error_reply(error: Exception) -> dict[str, Any]:
    """What the run needs to raise the same error again."""
    status = error.exit_status if isinstance(error, IcfError) else None
    return {"error": {"kind": type(error).__name__, "message": str(error) or type(error).__name__, "exit_status": status}}


if __name__ == "__main__":
    main()
