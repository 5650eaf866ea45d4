from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from icf_deploy.benchmarks.clock import StopRule, WarmUpRule

FAST = ("--engine", "ort", "--threads", "1", "--seconds", "0.1", "--processes", "1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a timing that is short also on a busy machine."""
    monkeypatch.setenv("ICF_DEPLOY_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr("icf_deploy.tuning.run.LOOK", StopRule(0.02, 11))
    for module in ("tuning.run", "benchmarks.rounds"):
        monkeypatch.setattr(f"icf_deploy.{module}.WarmUpRule", lambda: WarmUpRule(seconds=0.02, limit_seconds=0.1))
    return tmp_path / "kept"


def test_tuning_shows_remembers_reports_and_is_used(icf, tiny_bundle: Path, folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    found = icf("tune", tiny_bundle, *FAST, "--report", report)
    assert (found.status, found.err) == (0, "")
    assert "chosen" in found.out and f"Remembered in {folder}" in found.out
    assert "inside de2000_p95<=1" in found.out
    assert "ort with graph fp32" in report.read_text() and "icf-deploy tune" in report.read_text()
    assert "--report" not in report.read_text()  # it repeats the measurement

    listed = icf("cache", "list").out
    assert "tuned" in listed and " ort " in listed and " fp32 " in listed
    (entry,) = [entry for entry in icf("cache", "list", "--json").document["entries"] if entry["kind"] == "tuned"]
    assert entry["choice"]["engine"] == "ort" and entry["choice"]["graph"] == "fp32"
    told = icf("cache", "explain").out
    assert "choice for tiny, bundle " in told and "because: ort with graph fp32: " in told
    assert icf("cache", "clear", "--kind", "tuned").out.startswith(f"{folder}: 1 removed")


def test_a_dry_run_remembers_nothing(icf, tiny_bundle: Path, folder: Path) -> None:
    found = icf("tune", tiny_bundle, *FAST, "--dry-run", "--json")
    assert found.status == 0
    assert found.document["chosen"]["engine"] == "ort" and found.document["kept"] is None
    assert found.document["command"].startswith(f"icf-deploy tune {tiny_bundle} --engine ort --threads 1")
    assert not list(folder.glob("tuned-*"))


def test_nothing_inside_has_status_3_and_one_line_that_says_what_comes_nearest(icf, tiny_bundle: Path, folder: Path) -> None:
    found = icf("tune", tiny_bundle, *FAST, "--budget", "ab_psnr>=200")
    assert found.status == 3
    assert "nothing is inside the budget ab_psnr>=200. Nearest is ort fp32: ab_psnr is 100, 100 below" in found.error
    assert "outside" in found.out and not list(folder.glob("tuned-*"))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--budget", "de2000_p59<=1"), "did you mean de2000_p95?"),
        (("--budget", ""), "not of the form metric<=number"),
        (("--budget", "ab_psnr_drop<=0.02"), "--photos DIR"),
        (("--engine", "ort:tpu"), "ort has no device 'tpu'"),
        (("--graph", "int8"), "has no graph 'int8': choose one of fp32"),
        (("--seconds", "0"), "--seconds"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(icf, tiny_bundle: Path, arguments: tuple[str, str], words: str) -> None:
    found = icf("tune", tiny_bundle, *arguments)
    assert (found.status, found.out) == (2, "")
    assert words in found.error


def test_an_existing_report_is_refused_before_anything_is_measured(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text("mine")
    assert icf("tune", tiny_bundle, "--report", tmp_path / "r.html").status == 1
    assert (tmp_path / "r.html").read_text() == "mine"


def test_a_named_engine_that_is_not_here_is_told_and_the_choice_stands(icf, tiny_bundle: Path) -> None:
    found = icf("tune", tiny_bundle, *FAST, "--engine", "pytorch", "--dry-run")
    assert found.status == 1
    assert "--with-checkpoint" in found.error and "chosen" in found.out
    alone = icf("tune", tiny_bundle, "--engine", "pytorch", "--dry-run")
    assert alone.status == 5 and "--with-checkpoint" in alone.error


def test_ctrl_c_ends_it_with_130_and_leaves_nothing(tiny_bundle: Path, tmp_path: Path, folder: Path) -> None:
    report = tmp_path / "r.html"
    arguments = ["tune", str(tiny_bundle), "--engine", "ort", "--threads", "1", "--seconds", "60", "--report", str(report)]
    process = subprocess.Popen(
        [sys.executable, "-m", "icf_deploy.cli", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not folder.exists():  # it looks whether it may be used before it measures
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    document: Any = json.loads(out) if out else {"interrupted": True, "chosen": None}
    assert document["interrupted"] and document["chosen"] is None
    assert not report.exists() and not list(folder.glob("tuned-*")) and not list(folder.glob("*.unfinished"))
