"""The run's side of a worker process: start it, command it, notice when it dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from icf_deploy import errors
from icf_deploy.benchmarks.clock import NS, StopRule, WarmUp, WarmUpRule
from icf_deploy.benchmarks.energy import Joules
from icf_deploy.benchmarks.gpu_state import GpuState
from icf_deploy.benchmarks.loadgen import LoadgenResult, LoadgenRule, parse_summary
from icf_deploy.benchmarks.pace import Paced, PaceRule
from icf_deploy.benchmarks.wire import Array, Message, receive, send
from icf_deploy.errors import IcfError, WorkError

if TYPE_CHECKING:
    from icf_deploy.benchmarks.candidate import Candidate, Scope
    from icf_deploy.benchmarks.stats import Nanoseconds
    from icf_deploy.runtimes.base import FloatArray

Inputs = Callable[[tuple[int, int]], Sequence[Array]]
"""The inputs of a scope for an engine of size (H, W)."""

CLOSING_SECONDS = 5.0  # for an engine to free itself; then the process is killed
LAST_WORDS = 400  # characters of a dead worker's standard error that are quoted


@dataclass(frozen=True)
class Start:
    """What starting an engine took, in a process of its own.

    process_s: from starting the process until Python and this package were imported, seen from outside. import_s: the
    engine's library; None where that is the opener's business. load_s: opening the engine, that import included.
    first_call_s: the first call. total_s: from starting the process to the first result, seen from outside.
    Memory in bytes, None where the system does not say: start before loading, loaded after it, peak_loading the most until
    then. peak_resettable: whether the peak while running is separate.
    """

    process_s: float
    import_s: float | None
    load_s: float
    first_call_s: float
    total_s: float
    size: tuple[int, int]
    output_size: tuple[int, int]
    affinity: tuple[int, ...] | None
    memory_start: int | None
    memory_loaded: int | None
    memory_peak_loading: int | None
    peak_resettable: bool


@dataclass(frozen=True)
class Timed:
    """Timed calls. samples: nanoseconds of each. others: cores that other processes used meanwhile, where the system says.

    joules: what the calls took. gpu: the state of the engine's GPU before and after them; empty for one on the CPU.
    """

    samples: Nanoseconds
    others: float | None
    joules: Joules
    gpu: tuple[GpuState, ...]


class WorkerProcess:
    """One candidate, opened in a process of its own that blocks while it has nothing to do.

    variables: of its environment, besides this process's own.

    Also a `Session` as far as `run` goes, so drift is measured on the very engine that was timed. Every method raises
    WorkError when the process has died, and the engine's own error when that is what happened.
    """

    def __init__(self, candidate: Candidate, scope: Scope, inputs: Inputs, variables: Mapping[str, str] | None = None) -> None:
        self.candidate = candidate
        self.idle_share = 0.0  # of one core, the most that it still used after a turn
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        started = time.perf_counter_ns()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "icf_deploy.benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONSAFEPATH": "1", **(variables or {})},
        )
        try:
            hello, _ = self._receive()
            process_s = (time.perf_counter_ns() - started) / NS
            opened, _ = self._ask({"do": "open", "candidate": candidate.to_json()})
            size = (opened["size"][0], opened["size"][1])
            first, _ = self._ask({"do": "first_call", "scope": scope}, inputs(size))
            total_s = (time.perf_counter_ns() - started) / NS
        except BaseException:
            self._process.kill()
            self.close()
            raise
        memory = opened["memory"]
        self.start = Start(
            process_s=process_s,
            import_s=None if opened["import_ns"] is None else opened["import_ns"] / NS,
            load_s=opened["load_ns"] / NS,
            first_call_s=first["first_call_ns"] / NS,
            total_s=total_s,
            size=size,
            output_size=(opened["output_size"][0], opened["output_size"][1]),
            affinity=None if hello["affinity"] is None else tuple(hello["affinity"]),
            memory_start=memory["start"],
            memory_loaded=memory["loaded"],
            memory_peak_loading=memory["peak_loading"],
            peak_resettable=first["peak_resettable"],
        )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the gray input."""
        return self.start.size

    @property
    def output_size(self) -> tuple[int, int]:
        """(h, w) of the ab output."""
        return self.start.output_size

    @property
    def formats(self) -> Mapping[str, int]:
        """Formats that were executed, by node. Ask last: finding them may load the graph once more."""
        reply, _ = self._ask({"do": "formats"})
        return dict(reply["formats"])

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def warm_up(self, rule: WarmUpRule) -> WarmUp:
        """Warm the engine up."""
        reply, _ = self._ask({"do": "warm_up", "rule": asdict(rule)})
        self.idle_share = max(self.idle_share, reply["idle_share"])
        return WarmUp(reply["calls"], reply["seconds"], reply["stable"], tuple(reply["medians_ns"]))

    def turn(self, warm_up: WarmUpRule, stop: StopRule) -> Timed:
        """A short warm-up, then timed calls back to back."""
        reply, arrays = self._ask({"do": "turn", "warm_up": asdict(warm_up), "stop": asdict(stop)})
        self.idle_share = max(self.idle_share, reply["idle_share"])
        states = tuple(GpuState.from_json(state) for state in reply["gpu"])
        return Timed(arrays[0].astype(np.int64), reply["others"], Joules(**reply["joules"]), states)

    def paced(self, rule: PaceRule) -> tuple[Paced, Joules]:
        """Timed calls at a steady pace, and the energy of the whole time, the pauses included."""
        reply, arrays = self._ask({"do": "paced", "rule": asdict(rule)})
        return Paced(arrays[0].astype(np.int64), reply["late"]), Joules(**reply["joules"])

    def loadgen(self, rule: LoadgenRule, folder: Path) -> tuple[LoadgenResult, Joules, tuple[GpuState, ...]]:
        """A run of LoadGen, whose logs go to `folder`; its energy, and the engine's GPU before and after."""
        reply, _ = self._ask({"do": "loadgen", "rule": asdict(rule), "folder": str(folder.resolve())})
        result = parse_summary(reply["summary"], rule.scenario)
        states = tuple(GpuState.from_json(state) for state in reply["gpu"])
        return replace(result, samples=reply["samples"], seconds=reply["seconds"]), Joules(**reply["joules"]), states

    def run(self, gray: FloatArray) -> FloatArray:
        """gray: float32 [N,1,H,W] in 0..1 -> ab: float32 [N,2,h,w], untimed."""
        _, arrays = self._ask({"do": "run"}, [gray])
        return arrays[0].astype(np.float32)

    def memory_peak(self) -> int | None:
        """Peak memory in bytes since the engine was loaded (`Start.peak_resettable`), else since the process started."""
        reply, _ = self._ask({"do": "memory"})
        peak: int | None = reply["peak"]
        return peak

    def close(self) -> None:
        """End the process. Calling it twice does nothing."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):  # it is dead already
                self._process.stdin.close()
            try:
                self._process.wait(CLOSING_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._stderr.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._process.kill()  # it may be in the middle of a long call
        self.close()

    def _ask(self, message: Message, arrays: Sequence[Array] = ()) -> tuple[Message, list[Array]]:
        assert self._process.stdin is not None
        try:
            send(self._process.stdin, message, arrays)
        except OSError as error:
            raise self._died() from error
        return self._receive()

    def _receive(self) -> tuple[Message, list[Array]]:
        assert self._process.stdout is not None
        try:
            reply, arrays = receive(self._process.stdout)
        except (EOFError, ValueError) as error:
            raise self._died() from error
        if "error" in reply:
            raise _same_error(reply["error"], self.candidate.label)
        return reply, arrays

    def _died(self) -> WorkError:
        """The error for a process that is gone: how it ended and its last words."""
        self._process.kill()
        status = self._process.wait()
        ending = f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        self._stderr.seek(0)
        words = " ".join(self._stderr.read().decode(errors="replace").split())[-LAST_WORDS:]
        return WorkError(f"{self.candidate.label}: its process died ({ending}){': ' + words if words else ''}")


def _same_error(found: Mapping[str, Any], label: str) -> IcfError:
    """The worker's error as the same class here; a foreign one becomes a WorkError that names its class."""
    kind = getattr(errors, found["kind"], None)
    if isinstance(kind, type) and issubclass(kind, IcfError):
        return kind(f"{label}: {found['message']}")
    return WorkError(f"{label}: {found['kind']}: {found['message']}")
