from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

QUICK = ("--seconds", "0.1", "--threads", "1", "--processes", "1")


def test_the_table_has_a_row_per_engine_and_fits_80_columns(icf, tiny_bundle: Path) -> None:
    found = icf("bench", tiny_bundle, "--engine", "ort", "--engine", "openvino", *QUICK)
    assert (found.status, found.err) == (0, "")
    lines = found.out.splitlines()
    assert "tiny.icf" in lines[0]
    table, plot = lines[: lines.index("")], lines[lines.index("") + 1 :]
    rows = [line for line in table if line.startswith(("ort ", "openvino "))]
    assert len(rows) == 2 and all("fp32" in row for row in rows)
    assert [line.split()[0] for line in plot[:3]] == ["ort", "openvino", "ms"]  # how their latencies are distributed
    assert max(map(len, [*table[1:], *plot[:3]])) <= 80
    assert any(line.startswith("1,000 photos take ") for line in lines)
    assert any(line.startswith("scope engine") for line in lines)
    assert any(line.startswith("openvino: ") and "times the latency of ort" in line for line in lines)


def test_json_and_the_written_file_are_the_same_result(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    found = icf("bench", tiny_bundle, "--engine", "ort", *QUICK, "--json", "-o", tmp_path / "r.json")
    assert found.status == 0
    document = found.document
    assert document == json.loads((tmp_path / "r.json").read_text())
    assert document["schema"] == "icf-bench 2"
    assert document["rows"][0]["calls"] >= 100
    assert document["rows"][0]["drift"]["metrics"]["de2000_p95"] < 1e-3


def test_the_scope_of_a_photo_is_measured_and_named(icf, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icf_deploy.benchmarks.inputs.PHOTO_SIDE", 96)
    monkeypatch.setattr("icf_deploy.benchmarks.bench.PHOTO_SIDE", 96)
    found = icf("bench", tiny_bundle, "--engine", "ort", "--scope", "image", "--calls", "1", *QUICK)
    assert found.status == 0
    assert "scope image, photos of 96x96" in found.out


@pytest.mark.parametrize("kind", ["existing", "folder", "nowhere"])
def test_an_output_that_could_not_be_written_is_refused_before_measuring(
    icf, kind: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    output = {"existing": tmp_path / "r.json", "folder": tmp_path, "nowhere": tmp_path / "none/r.json"}[kind]
    (tmp_path / "r.json").write_text("mine")
    found = icf("bench", tiny_bundle, "--engine", "ort", "--seconds", "1000", "-o", output)
    assert found.status == 1 and str(output) in found.error
    assert (tmp_path / "r.json").read_text() == "mine"


def test_an_existing_output_may_be_replaced(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("mine")
    assert icf("bench", tiny_bundle, "--engine", "ort", *QUICK, "-o", tmp_path / "r.json", "--overwrite").status == 0
    assert json.loads((tmp_path / "r.json").read_text())["schema"] == "icf-bench 2"


def test_photos_paces_percentiles_and_prices_reach_the_result(
    icf, tiny_bundle: Path, tmp_path: Path, photos_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icf_deploy.cli.bench.COLD_STARTS", 1)
    monkeypatch.setattr("icf_deploy.benchmarks.pace.SETTLE_SECONDS", 0.02)
    (tmp_path / "photos").mkdir()
    for name in ("chelsea.png", "rocket.png"):
        (tmp_path / "photos" / name).write_bytes((photos_dir / name).read_bytes())
    (tmp_path / "photos/notes.txt").write_text("no photo")
    options = ("--photos", tmp_path / "photos", "--pace", "100", "--percentile", "80", "--price-per-core-hour", "0.1")
    arguments = (tiny_bundle, "--engine", "ort", *QUICK, *options, "--cold-start", "-o", tmp_path / "r.json")
    found = icf("bench", *arguments)
    assert (found.status, found.err) == (0, "")
    assert "p80" in found.out and "price" in found.out and "ort at 100 a second: p50" in found.out
    assert [line.split()[1] for line in found.out.splitlines() if line.startswith("ort ") and " .. " in line][:2] == [
        "off",
        "filled",
    ]
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["settings"]["photo_names"] == ["chelsea.png", "rocket.png"]
    assert document["settings"]["percentiles"] == [50, 80]
    again = shlex.split(document["rows"][0]["command"])
    assert again[:2] == ["icf-deploy", "bench"] and "-o" not in again and "--output" not in again
    assert again[2:] == [str(word) for word in (tiny_bundle, "--engine", "ort", "--pace", "100", "--threads", "1", "--photos",
        tmp_path / "photos", "--seconds", "0.1", "--percentile", "80", "--processes", "1", "--cold-start",
        "--price-per-core-hour", "0.1")]  # fmt: skip
    assert document["command"].endswith(f"--output {tmp_path / 'r.json'}")


def test_several_bundles_are_measured_side_by_side(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "other.icf")
    found = icf("bench", tiny_bundle, tmp_path / "other.icf", "--engine", "ort", *QUICK, "--json")
    assert [row["label"] for row in found.document["rows"]] == ["tiny.icf ort", "other.icf ort"]
    assert found.document["rows"][1]["ratio"] is not None


def test_a_scenario_shows_loadgens_own_numbers_and_its_verdict(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    arguments = (tiny_bundle, "--engine", "ort", "--threads", "1", "--scenario", "single-stream", "--seconds", "0.5")
    found = icf("bench", *arguments, "-o", tmp_path / "r.json")
    assert found.status == 0
    assert "LoadGen" in found.out and " VALID" in found.out and "INVALID" not in found.out
    assert (tmp_path / "r.loadgen/ort/mlperf_log_summary.txt").is_file()
    assert icf("bench", *arguments, "-o", tmp_path / "r.json").status == 1
    assert "drift" in found.out


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--scenario", "server"), 2, "--target-qps"),
        (("--target-qps", "3"), 2, "--scenario server"),
        (("--scenario", "offline", "--target-latency", "3"), 2, "--scenario server"),
        (("--scenario", "single-stream", "--pace", "1"), 2, "--pace"),
        (("--scope", "file", "--batch", "2"), 2, "--batch"),
        (("--percentile", "100"), 2, "--percentile"),
        (("--photos", "/nowhere"), 1, "/nowhere is no folder"),
        (("--report", "/nowhere/r.html"), 1, "/nowhere/r.html"),
    ],
)
def test_bad_use_is_refused_before_anything_is_measured(
    icf, tiny_bundle: Path, options: tuple[str, ...], status: int, message: str
) -> None:
    if "--scenario" in options:
        pytest.importorskip("mlperf_loadgen")
    found = icf("bench", tiny_bundle, "--engine", "ort", "--processes", "1", *options)
    assert found.status == status and message in found.error


def test_a_missing_loadgen_names_the_extra_to_install(icf, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "mlperf_loadgen" else real(name, *rest))
    found = icf("bench", tiny_bundle, "--engine", "ort", "--scenario", "offline")
    assert found.status == 5 and "pip install 'icf-deploy[bench]'" in found.error


def test_an_unknown_engine_and_a_bundle_that_is_none_have_their_statuses(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    assert icf("bench", tiny_bundle, "--engine", "orc").status == 2
    assert icf("bench", tmp_path / "none.icf").status == 6


def test_an_engine_that_cannot_run_costs_its_row_and_status_1(icf, tiny_bundle: Path) -> None:
    found = icf("bench", tiny_bundle, "--engine", "pytorch", "--engine", "ort", *QUICK)
    assert found.status == 1
    assert "--with-checkpoint" in found.error
    assert any(line.startswith("pytorch") and "failed" in line for line in found.out.splitlines())


def test_where_no_engine_can_run_the_status_says_why(icf, tiny_bundle: Path) -> None:
    assert icf("bench", tiny_bundle, "--engine", "pytorch", *QUICK).status == 5


def test_an_interrupted_run_keeps_what_was_measured(
    icf, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int, __: int, what: str) -> None:
        if what.startswith("round 4"):
            raise KeyboardInterrupt

    monkeypatch.setattr("icf_deploy.cli.bench.progress_bar", lambda: nullcontext(interrupt))
    found = icf("bench", tiny_bundle, "--engine", "ort", *QUICK, "-o", tmp_path / "r.json")
    assert found.status == 130
    assert "interrupted: this is what was measured until then" in found.out
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["interrupted"]
    assert [turn["round"] for turn in document["rows"][0]["turns"]] == [0, 1, 2]
    assert document["rows"][0]["drift"] is not None


def seconds_used(process: Path) -> float:
    """Processor time of a process of /proc (proc(5), fields 14 and 15 of stat)."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_an_interrupted_process_ends_with_130_and_leaves_no_worker(tiny_bundle: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "icf_deploy.cli", "bench", str(tiny_bundle), "--engine", "ort", "--seconds", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts what runs in its background with SIGINT ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here yet
    )
    workers: list[Path] = []
    while running.poll() is None and not any(seconds_used(worker) > 0.3 for worker in workers):
        time.sleep(0.05)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        workers = [Path("/proc") / child for child in children]
        workers = [worker for worker in workers if b"benchmarks.worker" in (worker / "cmdline").read_bytes()]
    os.killpg(running.pid, signal.SIGINT)  # as the terminal does: the workers hear it, too
    _, err = running.communicate()
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert not any(worker.exists() for worker in workers)


def test_a_result_and_a_report_of_one_name_are_refused_before_measuring(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    found = icf("bench", tiny_bundle, "--engine", "ort", "--seconds", "1000", "-o", tmp_path / "r", "--report", tmp_path / "r")
    assert found.status == 2 and "both name" in found.error
