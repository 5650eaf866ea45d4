from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from icf_deploy.benchmarks.candidate import Candidate
from icf_deploy.benchmarks.clock import StopRule, WarmUpRule, short_warm_up
from icf_deploy.benchmarks.inputs import inputs_of
from icf_deploy.benchmarks.remote import WorkerProcess
from icf_deploy.errors import ArtefactError, EngineUnavailableError, UsageError, WorkError

FAKES = str(Path(__file__).with_name("fake_engines.py"))


def fake(name: str = "sleeper", **options: object) -> Candidate:
    return Candidate(name, opener=f"{FAKES}:{name}", options=options)


@pytest.fixture
def start(gray: np.ndarray):
    def of(candidate: Candidate) -> WorkerProcess:
        return WorkerProcess(candidate, "engine", inputs_of("engine", gray))

    return of


def test_the_engine_runs_in_another_process_and_answers_the_same(start, tiny_onnx: Path, gray: np.ndarray) -> None:
    with start(Candidate("tiny", file=tiny_onnx, threads=1)) as worker:
        assert worker.pid != os.getpid()
        assert (worker.size, worker.output_size) == ((64, 64), (32, 32))
        with Candidate("here", file=tiny_onnx, threads=1).open() as session:
            np.testing.assert_array_equal(worker.run(gray), session.run(gray))


def test_timed_calls_take_as_long_as_the_engine_does(start) -> None:
    with start(fake(ms=4)) as worker:
        taken = worker.turn(short_warm_up(0.2), StopRule(0.2, 20))
    assert len(taken) == 50
    assert set(taken.tolist()) == {4_000_000, 4_040_000}


def test_load_first_call_and_process_start_are_told_apart(start) -> None:
    with start(fake(ms=50, load_ms=2000)) as worker:
        found = worker.start
    assert found.first_call_s == 0.05
    assert found.load_s >= 2
    assert found.process_s > 0.01  # Python itself


def test_memory_that_running_needs_is_told_apart_from_what_loading_took(start) -> None:
    with start(fake("greedy")) as worker:
        found, peak = worker.start, worker.memory_peak()
    if not found.peak_resettable:
        pytest.skip("this system does not let a process reset its peak")
    assert found.memory_start is not None and found.memory_loaded is not None and peak is not None
    assert 29e6 < found.memory_loaded - found.memory_start < 45e6
    assert 79e6 < peak - found.memory_loaded < 95e6


def test_what_a_library_prints_does_not_disturb_the_protocol(start) -> None:
    with start(fake("chatty")) as worker:
        assert worker.warm_up(WarmUpRule()).stable
        assert worker.formats == {"fp32": 7}


def test_an_idle_worker_blocks(start) -> None:
    with start(fake()) as worker:
        worker.turn(short_warm_up(0.1), StopRule(0.1, 5))
        stat = Path(f"/proc/{worker.pid}/stat")
        if not stat.exists():
            pytest.skip("needs /proc")
        before = sum(map(int, stat.read_text().split()[13:15]))
        time.sleep(0.5)
        assert sum(map(int, stat.read_text().split()[13:15])) - before <= 1  # hundredths of a second
        assert worker.idle_share < 0.1


def test_an_engine_whose_threads_keep_spinning_is_found_out(start) -> None:
    with start(fake("spinner")) as worker:
        for _ in range(5):
            worker.turn(short_warm_up(0.1), StopRule(0.1, 5))
        assert worker.idle_share > 0.1


def test_an_engine_that_cannot_be_opened_raises_its_own_error(start, tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="refused: no such accelerator"):
        start(fake("refused"))
    with pytest.raises(ArtefactError, match=r"none\.onnx cannot be read"):
        start(Candidate("x", file=tmp_path / "none.onnx"))
    with pytest.raises(UsageError, match="there is no engine 'nonsense'"):
        start(Candidate("x", runtime="nonsense", file=tiny_onnx))


def test_a_foreign_error_names_its_class_and_ends_nothing(start) -> None:
    with start(fake(fails_at=3)) as worker:
        with pytest.raises(WorkError, match="sleeper: ValueError: a batch went wrong"):
            worker.turn(short_warm_up(0.1), StopRule(0.1, 5))
        assert worker.formats == {"fp32": 7}


def test_an_engine_that_dies_tells_its_last_words(start) -> None:
    with start(fake(dies_at=3)) as worker, pytest.raises(WorkError, match=r"its process died \(exit status 9\): out of luck"):
        worker.turn(short_warm_up(0.1), StopRule(0.1, 5))


def test_a_process_that_is_killed_says_by_which_signal(start) -> None:
    with start(fake()) as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkError, match="signal SIGKILL"):
            worker.run(np.zeros((1, 1, 32, 64), np.float32))


def test_closing_ends_the_process(start) -> None:
    worker = start(fake())
    worker.close()
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)


def test_a_worker_does_not_hear_the_interrupt_of_its_run(start) -> None:
    with start(fake()) as worker:
        os.kill(worker.pid, signal.SIGINT)
        assert worker.formats == {"fp32": 7}
