"""MLCommons LoadGen, the real one, around one engine: who asks when, and what the answer is, is LoadGen's.

Scenarios (MLPerf inference rules): `single-stream`: the next photo when the last one is done, judged by the 90th percentile.
`offline`: all photos at once, judged by photos per second. `server`: photos at random times (Poisson) at a target rate, judged
by whether 99 % of them are answered within a target latency. VALID and INVALID are LoadGen's words; they say that its rules for
this scenario were met, not that this is an MLPerf submission.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import queue
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from icf_deploy.benchmarks.clock import NS
from icf_deploy.errors import EngineUnavailableError, UsageError, WorkError

Scenario = Literal["single-stream", "offline", "server"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
INSTALL = "pip install 'icf-deploy[bench]'"
SUMMARY = "mlperf_log_summary.txt"
SECONDS = 60.0  # that LoadGen has to go on for, at least; MLPerf's submissions take 600
TARGET_LATENCY_MS = 100.0  # of the server: below a tenth of a second an answer feels instantaneous (Miller 1968)
EXPECTED_SPEEDUP = 2.0  # LoadGen prepares queries for an engine that turns out so much faster than its warm-up said
OFFLINE_SLACK = 1.05  # offline has one query of a fixed length: too short a one would end before its time
MS = 1_000_000  # nanoseconds

Run = Callable[[Sequence[int]], None]
"""Runs the photos of these numbers, together in one call where the engine takes batches."""


@dataclass(frozen=True)
class LoadgenRule:
    """What LoadGen is asked for. seconds, queries: at least both. target_qps: photos per second, for `server` only.

    target_latency_ms: for `server` only, of its 99th percentile. batch: photos that the engine takes at once, if so many wait.
    """

    scenario: Scenario
    seconds: float = SECONDS
    queries: int = 100
    batch: int = 1
    target_qps: float | None = None
    target_latency_ms: float = TARGET_LATENCY_MS

    def check(self) -> None:
        """Raises UsageError for what makes no sense together, EngineUnavailableError where LoadGen is not installed."""
        if (self.scenario == "server") != (self.target_qps is not None):
            raise UsageError("the scenario server, and no other, needs a rate: --scenario server --target-qps 30")
        if self.scenario == "single-stream" and self.batch > 1:
            raise UsageError("single-stream asks for one photo at a time: leave --batch out, or take --scenario offline")
        if importlib.util.find_spec("mlperf_loadgen") is None:
            raise EngineUnavailableError(
                f"--scenario {self.scenario} needs MLCommons LoadGen, which is not installed: {INSTALL}"
            )


@dataclass(frozen=True)
class LoadgenResult:
    """What LoadGen's summary says.

    metric, value: the scenario's own result, under LoadGen's own name; unit `ns` or `samples/s`. percentiles_ns: per photo, by
    percent; empty for `offline`, where they would tell how long photos queued. qps: photos per second. invalid_because: the
    rules that were not met. samples, seconds: of the run, by our own count. summary: the whole text.
    """

    scenario: Scenario
    valid: bool
    metric: str
    value: float
    unit: str
    percentiles_ns: dict[str, float]
    mean_ns: float | None
    min_ns: float | None
    max_ns: float | None
    qps: float | None
    invalid_because: tuple[str, ...]
    summary: str = field(repr=False)
    samples: int | None = None
    seconds: float | None = None
    log_folder: str | None = None

    def to_json(self, rule: LoadgenRule) -> dict[str, Any]:
        """Plain values, with what was asked for."""
        server = rule.scenario == "server"
        return {
            **asdict(self),
            "invalid_because": list(self.invalid_because),
            "target_qps": rule.target_qps,
            "target_latency_ms": rule.target_latency_ms if server else None,
            "min_duration_s": rule.seconds,
        }


def run_loadgen(run: Run, photos: int, rule: LoadgenRule, folder: Path, photo_seconds: float) -> tuple[int, float]:
    """Let LoadGen ask for the `photos` photos of `run` by `rule`, in this process. Its logs go to `folder`.

    photo_seconds: what one photo took in the warm-up. Returns how many were run, and the seconds from the first question to the
    last answer. An error of the engine ends the process, after its last words: LoadGen has no other way to stop.
    """
    loadgen = importlib.import_module("mlperf_loadgen")
    folder.mkdir(parents=True, exist_ok=True)
    answer = _Answers(loadgen, run, rule)
    sut = loadgen.ConstructSUT(answer.issue, answer.flush)
    library = loadgen.ConstructQSL(photos, photos, _stay, _stay)  # the photos are in memory already, and stay there
    try:
        # The name of an audit file that is not there: one in the user's folder must not change the run.
        loadgen.StartTestWithLogSettings(
            sut, library, _test_settings(loadgen, rule, photo_seconds), _log_settings(loadgen, folder), str(folder / "no-audit")
        )
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)
        answer.close()
    return answer.count, answer.seconds


def parse_summary(text: str, scenario: Scenario) -> LoadgenResult:
    """Read mlperf_log_summary.txt. Raises WorkError for a text that has no result."""
    pairs = dict(_PAIR.findall(text))
    metric = {
        "single-stream": next((key for key in pairs if key.endswith("th percentile latency (ns)")), ""),
        "offline": "Samples per second",
        "server": "Completed samples per second",
    }[scenario]
    if "Result is" not in pairs or metric not in pairs:
        raise WorkError(f"LoadGen's summary holds no result of {scenario}: {' '.join(text.split())[:200] or 'it is empty'}")
    rate = pairs.get("QPS w/ loadgen overhead") if scenario == "single-stream" else pairs[metric]
    percentiles = {f"{float(percent):g}": float(value) for percent, value in _PERCENTILE.findall(text)}
    return LoadgenResult(
        scenario=scenario,
        valid=pairs["Result is"] == "VALID",
        metric=metric,
        value=float(pairs[metric]),
        unit="ns" if metric.endswith("(ns)") else "samples/s",
        percentiles_ns={} if scenario == "offline" else percentiles,
        mean_ns=_number(pairs.get("Mean latency (ns)")),
        min_ns=_number(pairs.get("Min latency (ns)")),
        max_ns=_number(pairs.get("Max latency (ns)")),
        qps=_number(rate),
        invalid_because=tuple(key for key, value in pairs.items() if key.endswith("satisfied") and value.upper() == "NO"),
        summary=text,
    )


class _Answers:
    """The system under test: runs what LoadGen issues and says when it is done."""

    def __init__(self, loadgen: Any, run: Run, rule: LoadgenRule) -> None:
        self.count = 0
        self._first = self._last = 0
        self._loadgen, self._run, self._batch = loadgen, run, rule.batch
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # A single stream is answered at once in the thread that asks; the others queue for one thread that holds the engine.
        self._direct = rule.scenario == "single-stream"
        self._thread = None if self._direct else threading.Thread(target=self._serve, daemon=True)
        if self._thread is not None:
            self._thread.start()

    @property
    def seconds(self) -> float:
        """From the first question to the last answer."""
        return (self._last - self._first) / NS

    def issue(self, samples: Sequence[Any]) -> None:
        """Called by LoadGen, from a thread of its own."""
        self._first = self._first or time.perf_counter_ns()
        if self._direct:
            self._answer(list(samples))
            return
        for sample in samples:
            self._waiting.put((sample.id, sample.index))

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """End the serving thread."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()

    def _serve(self) -> None:
        while (first := self._waiting.get()) is not None:
            taken = [first]
            while len(taken) < self._batch:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    self._waiting.put(None)
                    break
                taken.append(following)
            self._answer([_Sample(*pair) for pair in taken])

    def _answer(self, samples: Sequence[Any]) -> None:
        try:
            self._run([sample.index for sample in samples])
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        self.count += len(samples)
        self._last = time.perf_counter_ns()
        self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in samples])


@dataclass(frozen=True)
class _Sample:
    id: int
    index: int


def _test_settings(loadgen: Any, rule: LoadgenRule, photo_seconds: float) -> Any:
    names = {"single-stream": "SingleStream", "offline": "Offline", "server": "Server"}
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, names[rule.scenario])
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(rule.seconds * 1000)
    settings.min_query_count = 1 if rule.scenario == "offline" else rule.queries
    settings.single_stream_expected_latency_ns = max(1, round(photo_seconds / EXPECTED_SPEEDUP * NS))
    settings.offline_expected_qps = OFFLINE_SLACK / photo_seconds
    settings.server_target_qps = rule.target_qps or 1.0
    settings.server_target_latency_ns = round(rule.target_latency_ms * MS)
    return settings


def _log_settings(loadgen: Any, folder: Path) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    settings = loadgen.LogSettings()
    settings.log_output = output
    settings.enable_trace = False
    return settings


def _stay(_: Sequence[int]) -> None:
    """Load or unload nothing."""


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


_PAIR = re.compile(r"^ *(\S[^:\n]*?) *: *(\S.*?) *$", re.MULTILINE)
_PERCENTILE = re.compile(r"^(\d+\.\d+) percentile latency \(ns\) *: *(\d+)", re.MULTILINE)
