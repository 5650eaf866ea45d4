"""scripts/gpu.py, as far as it goes without a GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from icf_deploy.runtimes import cuda

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu.py"
_spec = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
assert _spec is not None and _spec.loader is not None
script: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


def row(engine: str, **fields: object) -> dict[str, object]:
    nothing = {"engine": engine, "calls": 0, "error": None, "drift": None, "formats": None, "photos_per_second": None}
    return {**nothing, **fields}


MEASURED = row(
    "ort:cuda",
    calls=100,
    formats={"fp32": 153},
    photos_per_second=812.5,
    starts=[{"load_s": 1.25}],
    percentiles_ns=[{"percent": 50.0, "value": 1.21e6}, {"percent": 90.0, "value": None}],
    drift={"metrics": {"de2000_p95_worst": 0.00123, "dab_max_worst": 0.0456}},
)
MISSING = row("trt:cuda", error={"kind": "EngineUnavailableError", "message": "trt:cuda: neither library is installed"})
ENGINES = {"ort": {"version": "1.31.1"}, "trt": {"version": None}}


def test_the_table_has_a_line_per_engine_and_says_below_why_one_is_missing() -> None:
    tests = {"ort:cuda": Counter(passed=27, skipped=2), "other": Counter(passed=3, failed=1)}
    lines = script.table(ENGINES, tests, {"rows": [MEASURED, MISSING]}).splitlines()
    assert lines[0].split()[:4] == ["engine", "version", "tests", "formats"]
    assert lines[1].split() == [
        "ort:cuda",
        "1.31.1",
        "27",
        "passed",
        "fp32",
        "x153",
        "1.2",
        "1.21",
        "-",
        "812",
        "0.00123",
        "0.0456",
    ]
    assert lines[2].startswith("trt:cuda")
    assert "1 failed of 4" in lines[3]
    assert lines[-1] == "trt:cuda: neither library is installed"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("trt:cuda", "trt:cuda"),
        ("trt:cuda-tf32", "trt:cuda-tf32"),
        ("trt:cuda-tf32-shape0", "trt:cuda-tf32"),
        ("pytorch:cuda-shape0-float32", "pytorch:cuda"),
        ("pytorch:cuda-compiled-stride", "pytorch:cuda-compiled"),
        ("ort:cpu", "other"),
    ],
)
def test_a_tests_parameters_tell_the_engine_that_it_was_about(text: str, expected: str) -> None:
    assert script.engine_of(text) == expected


def test_outcomes_are_counted_per_engine_from_pytests_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (
        '<testcase name="test_a[trt:cuda]"/><testcase name="test_b[trt:cuda-shape0-float32]"><failure/></testcase>'
        '<testcase name="test_c[stride-pytorch:cuda-compiled]"><skipped/></testcase><testcase name="test_d"><error/></testcase>'
    )

    def run(command: list[str], **_: object) -> None:
        assert command[command.index("-m", 2) + 1] == "gpu"
        (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")

    monkeypatch.setattr(script.subprocess, "run", run)
    assert script.run_tests(tmp_path, {}) == {
        "trt:cuda": Counter(passed=1, failed=1),
        "pytorch:cuda-compiled": Counter(skipped=1),
        "other": Counter(failed=1),
    }


def test_the_checkout_is_a_package_without_being_installed(tmp_path: Path) -> None:
    environment = script.environment_for(tmp_path)
    names = "import icf_deploy.runtimes.trt, icf_deploy.benchmarks, icf_deploy.export as e; print(e.__file__)"
    done = script.run([sys.executable, "-c", names], tmp_path, environment)
    assert Path(done.stdout.strip()).resolve().is_relative_to(SCRIPT.parents[1])
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


@pytest.mark.skipif(cuda.driver_present(), reason="this machine has an NVIDIA driver")
def test_without_a_gpu_it_lists_what_is_here_runs_nothing_and_ends_with_status_5(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "There is no CUDA GPU" in done.stdout
    for engine in script.ENGINES:  # each with the reason why it would not run
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{engine} ")]
        assert len(line.split()) > 3
    assert "onnxruntime" in done.stdout
    assert json.dumps(list(tmp_path.iterdir()), default=str) == "[]"
