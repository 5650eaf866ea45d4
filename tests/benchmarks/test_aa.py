"""The suite that asks whether `compare` tells the truth: its counting and its memory, without measuring anything."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

_PATH = Path(__file__).parents[2] / "benchmarks/suites/aa.py"


@pytest.fixture
def aa(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("aa", _PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class NoWorker:
        def __init__(self, *_: object) -> None:
            pass

        def __enter__(self) -> None:
            return None

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(module, "WorkerProcess", NoWorker)
    return module


def comparison(same: str, slower: str) -> dict[str, Any]:
    found = {"ratio": 1.0, "low": 0.9, "high": 1.1, "smallest_effect": 0.1}
    return {"seed": 0, "median_ns": 1e7, "seconds": 9.0, "warnings": [],
            "ort again": {**found, "verdict": same}, "ort +5 %": {**found, "verdict": slower}}  # fmt: skip


def run(aa: Any, monkeypatch: pytest.MonkeyPatch, path: Path, runs: Iterator[dict[str, Any]], *options: str) -> Result:
    monkeypatch.setattr(aa, "one_comparison", lambda *_: next(runs))
    return CliRunner().invoke(aa.main, [str(path), *options], standalone_mode=False, catch_exceptions=False)


@pytest.mark.parametrize(("unwanted", "status"), [((3, 4), 0), ((4, 0), 1), ((0, 5), 1)])
def test_seventeen_and_sixteen_of_twenty_are_enough(
    aa: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unwanted: tuple[int, int], status: int
) -> None:
    wrong, missed = unwanted
    runs = (
        comparison("slower" if i < wrong else "no difference shown", "no difference shown" if i < missed else "slower")
        for i in range(20)
    )
    found = run(aa, monkeypatch, tmp_path / "aa.json", runs)
    assert found.return_value == status
    assert f"no difference shown {20 - wrong} of 20" in found.output and f"slower {20 - missed} of 20" in found.output


def test_a_run_goes_on_where_the_last_one_stopped(aa: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = (comparison("no difference shown", "slower") for _ in range(4))

    def breaks_off() -> Iterator[dict[str, Any]]:
        yield next(good)
        yield next(good)
        raise KeyboardInterrupt

    path = tmp_path / "aa.json"
    with pytest.raises(click.Abort):  # what click makes of an interrupt
        run(aa, monkeypatch, path, breaks_off(), "--comparisons", "4")
    assert len(json.loads(path.read_text())["runs"]) == 2
    assert run(aa, monkeypatch, path, good, "--comparisons", "4").return_value == 0
    assert len(json.loads(path.read_text())["runs"]) == 4


def test_a_limit_ends_a_run_before_its_time_and_says_what_is_missing(
    aa: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = (comparison("no difference shown", "slower") for _ in range(20))
    found = run(aa, monkeypatch, tmp_path / "aa.json", runs, "--limit", "1")
    assert found.return_value == 2 and "20 comparisons are missing" in found.output


def test_the_slower_engine_sleeps_for_its_share_of_every_call(aa: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    class Session:
        size, output_size, formats = (32, 32), (16, 16), {"fp32": 1}

        def run(self, gray: np.ndarray) -> np.ndarray:
            start = time.perf_counter()
            while time.perf_counter() - start < 0.02:
                pass
            return gray

    session = aa.Sleepy(Session(), 0.05)
    monkeypatch.setattr(aa.time, "sleep", slept.append)
    gray = np.zeros((1, 1, 32, 32), np.float32)
    assert session.run(gray) is gray
    assert 0.001 <= slept[0] < 0.02
