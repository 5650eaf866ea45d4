from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from icf_deploy.benchmarks.candidate import Candidate
from icf_deploy.benchmarks.cold_start import measure_cold_start
from icf_deploy.benchmarks.inputs import inputs_of
from icf_deploy.errors import EngineUnavailableError

FAKES = str(Path(__file__).with_name("fake_engines.py"))


def test_every_phase_of_a_real_engine_is_told_apart(tiny_onnx: Path, gray: np.ndarray) -> None:
    candidate = Candidate("tiny", file=tiny_onnx, threads=1)
    found = measure_cold_start(candidate, "engine", inputs_of("engine", gray), processes=2)
    for phases in (found.cache_off, found.cache_on):
        assert phases.processes == 2 and phases.import_s is not None
        parts = (phases.process_s, phases.import_s, phases.load_s, phases.first_call_s)
        assert all(0 < part.low <= part.median <= part.high for part in parts)
        assert sum(part.low for part in parts) <= phases.total_s.high  # seen from outside, so nothing is missing
        assert phases.import_s.low > 0.01  # a library of many megabytes is not imported in no time
    assert found.to_json()["cache_off"]["total_s"]["median"] > 0


def test_the_cache_is_off_in_one_half_and_filled_in_the_other(gray: np.ndarray, tmp_path: Path) -> None:
    log = tmp_path / "log"
    candidate = Candidate("cached", opener=f"{FAKES}:cached", options={"log": str(log)})
    before = os.environ.get("ICF_DEPLOY_CACHE")
    found = measure_cold_start(candidate, "engine", inputs_of("engine", gray), processes=3)
    assert log.read_text().split() == ["built", *["off", "kept"] * 3]
    assert found.cache_off.load_s.median == pytest.approx(3.0, abs=0.5)  # what the fake says that building takes
    assert found.cache_on.load_s.median == pytest.approx(0.1, abs=0.5)
    assert found.cache_off.import_s is None
    assert os.environ.get("ICF_DEPLOY_CACHE") == before


def test_an_engine_that_cannot_start_says_why(gray: np.ndarray) -> None:
    with pytest.raises(EngineUnavailableError, match="no such accelerator"):
        measure_cold_start(Candidate("refused", opener=f"{FAKES}:refused"), "engine", inputs_of("engine", gray), processes=1)
