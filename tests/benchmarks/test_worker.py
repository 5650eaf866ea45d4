from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icf_deploy.benchmarks.candidate import Candidate
from icf_deploy.benchmarks.clock import StopRule, WarmUpRule, short_warm_up
from icf_deploy.benchmarks.energy import EnergyMeter, Rapl
from icf_deploy.benchmarks.gpu_state import find_gpus
from icf_deploy.benchmarks.inputs import inputs_of
from icf_deploy.benchmarks.pace import PaceRule
from icf_deploy.benchmarks.remote import WorkerProcess
from icf_deploy.benchmarks.worker import Worker
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
        taken = worker.turn(short_warm_up(0.2), StopRule(0.2, 20)).samples
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


def test_energy_and_the_gpus_state_of_a_turn_come_from_the_workers_instruments(tmp_path: Path, fake_nvml: Any) -> None:
    nvml = fake_nvml()
    gpu = find_gpus(nvml).devices[0]

    class Busy:
        size, output_size, formats = (32, 64), (16, 32), {"fp32": 1}

        def run(self, gray: Any) -> Any:
            nvml.millijoules += 250
            nvml.reasons = 0x4  # the power cap is reached while it runs
            return gray

    worker = Worker(EnergyMeter(Rapl(tmp_path), gpu), gpu)
    worker.candidate, worker.session = Candidate("busy", "ort:cuda"), Busy()  # type: ignore[assignment]
    worker.first_call({"scope": "engine"}, [np.zeros((1, 1, 32, 64), np.float32)])
    nvml.reasons = 0
    rule, stop = asdict(short_warm_up(0.1)), asdict(StopRule(0.0, 8))
    reply, arrays = worker.turn({"warm_up": rule, "stop": stop}, [])
    assert len(arrays[0]) == 8
    assert reply["joules"] == {"cpu": None, "gpu": pytest.approx(8 * 0.25)}  # the warm-up is not in it
    assert [state["slowdowns"] for state in reply["gpu"]] == [[], ["power cap"]]
    paced, _ = worker.paced({"rule": asdict(PaceRule(fps=500, calls=4, settle_calls=0))}, [])
    assert paced["joules"]["gpu"] == pytest.approx(4 * 0.25)


def test_an_engine_on_the_cpu_tells_nothing_of_a_gpu(start) -> None:
    with start(fake()) as worker:
        timed = worker.turn(short_warm_up(0.1), StopRule(0.1, 5))
    assert timed.gpu == () and timed.joules.gpu is None


def test_calls_at_a_pace_are_timed_without_their_pauses(start) -> None:
    with start(fake(ms=4)) as worker:
        found, _ = worker.paced(PaceRule(fps=50, calls=10, settle_calls=2))
    assert set(found.samples.tolist()) == {4_000_000, 4_040_000} and found.late == 0


def test_the_library_of_a_registered_engine_is_told_apart_from_loading_it(start, tiny_onnx: Path) -> None:
    with start(Candidate("tiny", file=tiny_onnx, threads=1)) as worker:
        found = worker.start
    assert found.import_s is not None and 0.01 < found.import_s < found.load_s
    assert found.total_s > found.process_s + found.load_s + found.first_call_s
    with start(fake()) as worker:
        assert worker.start.import_s is None
