from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from icf_deploy.benchmarks import Candidate, LoadgenRule, benchmark
from icf_deploy.benchmarks.inputs import inputs_of
from icf_deploy.benchmarks.loadgen import parse_summary
from icf_deploy.benchmarks.measured import Measured
from icf_deploy.benchmarks.scenario import run_scenario
from icf_deploy.errors import EngineUnavailableError, UsageError, WorkError

FAKES = str(Path(__file__).with_name("fake_engines.py"))

# As LoadGen 6.0.17 writes it, the part before its settings.
SINGLE_STREAM = """\
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : SingleStream
Mode     : PerformanceOnly
90.0th percentile latency (ns) : 5149765
Result is : VALID
  Min duration satisfied : Yes
  Min queries satisfied : Yes
  Early stopping satisfied: Yes
Early Stopping Result:
 * Processed at least 64 queries (391).
 * Would discard 24 highest latency queries.
 * Early stopping 90.0th percentile estimate: 5172351
 * Not enough queries processed for 99.0th percentile
 early stopping estimate (would need to process at
 least 662 total queries).

================================================
Additional Stats
================================================
QPS w/ loadgen overhead         : 194.61
QPS w/o loadgen overhead        : 194.81

Min latency (ns)                : 5085277
Max latency (ns)                : 7021369
Mean latency (ns)               : 5133217
50.00 percentile latency (ns)   : 5114178
90.00 percentile latency (ns)   : 5149765
99.90 percentile latency (ns)   : 7021369
"""
SERVER = """\
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 93.67
Result is : INVALID
  Performance constraints satisfied : Yes
  Min duration satisfied : NO
  Min queries satisfied : Yes
  Early stopping satisfied: NO
Recommendations:
Early Stopping Result:
 * Run unsuccessful.
Scheduled samples per second : 93.93
50.00 percentile latency (ns)   : 5457020
"""
OFFLINE = """\
Scenario : Offline
Samples per second: 195.766
Result is : VALID
  Min duration satisfied : Yes
50.00 percentile latency (ns)   : 1073283751
"""


def test_a_single_stream_is_judged_by_its_90th_percentile() -> None:
    found = parse_summary(SINGLE_STREAM, "single-stream")
    assert (found.valid, found.metric, found.value, found.unit) == (True, "90.0th percentile latency (ns)", 5149765, "ns")
    assert found.percentiles_ns == {"50": 5114178, "90": 5149765, "99.9": 7021369}
    assert (found.mean_ns, found.min_ns, found.max_ns, found.qps) == (5133217, 5085277, 7021369, 194.61)
    assert found.invalid_because == ()
    assert found.summary == SINGLE_STREAM


def test_an_invalid_run_says_which_rules_were_not_met() -> None:
    found = parse_summary(SERVER, "server")
    assert (found.valid, found.metric, found.value) == (False, "Completed samples per second", 93.67)
    assert found.invalid_because == ("Min duration satisfied", "Early stopping satisfied")


def test_offline_is_a_rate_and_its_queueing_times_are_no_latencies() -> None:
    found = parse_summary(OFFLINE, "offline")
    assert (found.valid, found.value, found.unit, found.qps) == (True, 195.766, "samples/s", 195.766)
    assert found.percentiles_ns == {}


@pytest.mark.parametrize("text", ["", "Result is : VALID", SINGLE_STREAM.replace("Result is", "Result was")])
def test_a_summary_without_a_result_is_an_error(text: str) -> None:
    with pytest.raises(WorkError, match="holds no result of single-stream"):
        parse_summary(text, "single-stream")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (LoadgenRule("server"), "--target-qps"),
        (LoadgenRule("offline", target_qps=3.0), "--target-qps"),
        (LoadgenRule("single-stream", batch=2), "one photo at a time"),
    ],
)
def test_what_makes_no_sense_together_is_refused(rule: LoadgenRule, message: str, tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match=message):
        benchmark(tiny_bundle, ["ort"], loadgen=rule)


def test_without_loadgen_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineUnavailableError, match=r"pip install 'icf-deploy\[bench\]'"):
        LoadgenRule("single-stream").check()


class TestTheRealLoadgen:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        if importlib.util.find_spec("mlperf_loadgen") is None:
            pytest.skip("mlcommons-loadgen is not installed")

    def test_a_single_stream_of_a_real_engine_is_valid_and_keeps_its_logs(self, tiny_bundle: Path, tmp_path: Path) -> None:
        rule = LoadgenRule("single-stream", seconds=1.0)
        result = benchmark(tiny_bundle, ["ort"], threads=1, loadgen=rule, log_folder=tmp_path / "logs")
        (row,) = result.to_json()["rows"]
        found = row["loadgen"]
        assert row["error"] is None
        assert found["valid"], found["summary"]
        assert found["samples"] >= 100
        assert found["seconds"] == pytest.approx(1.0, abs=0.1)  # the run ends with the query that is under way
        assert found["percentiles_ns"]["50"] <= found["percentiles_ns"]["99"]
        assert found["qps"] == pytest.approx(found["samples"] / found["seconds"], rel=0.05)
        assert row["photos_per_second"] == found["qps"]
        assert row["drift"]["metrics"]["de2000_p95"] < 1e-3  # no latency without it
        assert row["turns"] == [] and row["formats"] == {"fp32": row["formats"]["fp32"]}
        log = tmp_path / "logs/ort/mlperf_log_summary.txt"
        assert found["log_folder"] == str(log.parent) and log.read_text() == found["summary"]
        assert "min_duration (ms): 1000" in found["summary"]

    def test_offline_hands_the_engine_whole_batches_and_every_photo_once(self, tmp_path: Path) -> None:
        script = (
            "import sys, json; from pathlib import Path\n"
            "from icf_deploy.benchmarks.loadgen import LoadgenRule, run_loadgen\n"
            "asked = []\n"
            "rule = LoadgenRule('offline', seconds=0.2, batch=4)\n"
            "count, _ = run_loadgen(lambda numbers: asked.append(list(numbers)), 5, rule, Path(sys.argv[1]), 1e-3)\n"
            "print(json.dumps([count, asked]))\n"
        )
        ran = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
        count, asked = json.loads(ran.stdout.splitlines()[-1])
        lengths = [len(numbers) for numbers in asked]
        assert count == sum(lengths) >= 200  # 0.2 s of photos that are said to take 1 ms
        assert set(lengths[:-1]) == {4} and lengths[-1] == (count % 4 or 4)
        assert {number for numbers in asked for number in numbers} == {0, 1, 2, 3, 4}

    def test_the_rate_of_offline_is_loadgens_own(self, tiny_bundle: Path) -> None:
        rule = LoadgenRule("offline", seconds=0.5, batch=4)
        (row,) = benchmark(tiny_bundle, ["ort"], threads=1, loadgen=rule).to_json()["rows"]
        assert row["loadgen"]["metric"] == "Samples per second" and row["loadgen"]["value"] > 0
        assert row["loadgen"]["log_folder"] is None

    def test_a_server_answers_at_the_rate_that_is_asked_for(self, tiny_bundle: Path) -> None:
        rule = LoadgenRule("server", seconds=1.0, target_qps=200.0, target_latency_ms=500)
        result = benchmark(tiny_bundle, ["ort"], threads=1, loadgen=rule)
        (row,) = result.to_json()["rows"]
        assert row["loadgen"]["value"] == pytest.approx(200, rel=0.35)  # Poisson arrivals of a second
        assert row["loadgen"]["target_qps"] == 200 and row["loadgen"]["target_latency_ms"] == 500
        assert result.headline is None  # the rate was ours, not the engine's

    def test_the_scope_of_a_photo_goes_through_loadgen_too(self, tiny_bundle: Path, photo) -> None:
        rule = LoadgenRule("single-stream", seconds=0.5)
        result = benchmark(tiny_bundle, ["ort"], threads=1, scope="file", photos=[photo("chelsea")], loadgen=rule)
        assert not result.errors()
        assert result.rows[0].measured.loadgen is not None

    def test_an_engine_that_fails_under_loadgen_costs_its_row_and_not_the_run(self, gray: np.ndarray, tiny_onnx: Path) -> None:
        rows = [
            Measured(Candidate("fails", opener=f"{FAKES}:sleeper", options={"fails_at": 900})),
            Measured(Candidate("tiny", file=tiny_onnx, threads=1)),
        ]
        rule = LoadgenRule("single-stream", seconds=0.5)
        assert not run_scenario(rows, "engine", inputs_of("engine", gray), rule)
        assert "a batch went wrong" in str(rows[0].error)
        assert rows[1].error is None and rows[1].loadgen is not None

    def test_an_interrupt_keeps_the_rows_that_are_done(self, gray: np.ndarray, tiny_onnx: Path) -> None:
        def stop(done: int, _: int, __: str) -> None:
            if done == 1:
                raise KeyboardInterrupt

        rows = [Measured(Candidate(name, file=tiny_onnx, threads=1)) for name in ("first", "second")]
        rule = LoadgenRule("single-stream", seconds=0.2)
        assert run_scenario(rows, "engine", inputs_of("engine", gray), rule, progress=stop)
        assert rows[0].loadgen is not None and rows[1].loadgen is None
