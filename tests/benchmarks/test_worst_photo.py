from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icf_deploy.benchmarks import benchmark
from icf_deploy.benchmarks.html_report import write_report
from icf_deploy.benchmarks.worst_photo import SIDE, WorstPhoto, amplification, drawn, pictures_of, worst_photo
from icf_deploy.errors import ArtefactError


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def result(tiny_bundle: Path) -> dict[str, Any]:
    return benchmark(tiny_bundle, ["ort"], seconds=0.1, threads=1, processes=1).to_json()


def test_the_worst_photo_of_an_engine_is_drawn_by_that_engine(result: dict[str, Any]) -> None:
    row = result["rows"][0]
    found = worst_photo(row, result)
    assert found is not None and found.photo == row["drift"]["worst"]["photo"]
    reference, engine, difference = map(pixels, (found.reference, found.engine, found.difference))
    assert reference.shape == engine.shape == difference.shape == (64, 64, 3)
    assert np.abs(reference - engine).max() <= 2  # the same colours, up to rounding
    assert reference.std() > 20  # and a picture, not a flat colour
    assert np.ptp(difference.reshape(-1, 3), axis=0).max() <= 1


def test_a_run_becomes_a_report_with_its_pictures(result: dict[str, Any], tmp_path: Path) -> None:
    write_report(result, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert text.count('src="data:image/jpeg;base64,') == 2 and text.count('src="data:image/png;base64,') == 1
    assert "difference × 100" in text and "no picture" not in text


@pytest.mark.parametrize("change", ["digest", "opener", "path", "worst", "drift"])
def test_a_row_that_cannot_be_drawn_says_why(change: str, result: dict[str, Any], tmp_path: Path) -> None:
    import copy

    changed = copy.deepcopy(result)
    row = changed["rows"][0]
    if change == "digest":
        changed["bundles"][0]["digest"] = "0" * 64
    elif change == "opener":
        row["candidate"]["opener"] = f"{tmp_path}/evil.py:open"
        (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    elif change == "path":
        row["candidate"]["bundle"] = str(tmp_path / "gone.icf")
    elif change == "worst":
        row["drift"]["worst"] = None
    else:
        row["drift"] = None
    reason = pictures_of(row, changed)
    words = {
        "digest": "no longer the bundle that was measured",
        "opener": "only engines of the registry",
        "path": "gone.icf",
        "worst": "does not say which photo",
        "drift": "drift was not measured",
    }
    assert isinstance(reason, str) and words[change] in reason
    assert not (tmp_path / "ran").exists()


def test_an_opener_of_its_own_is_refused_with_the_status_of_an_artefact(result: dict[str, Any]) -> None:
    row = {**result["rows"][0], "candidate": {**result["rows"][0]["candidate"], "opener": "os:system"}}
    with pytest.raises(ArtefactError):
        worst_photo(row, result)


@pytest.mark.parametrize(("distance", "factor"), [(0.0, 100), (0.3, 100), (0.9, 20), (4.0, 10), (39.0, 1), (90.0, 1)])
def test_the_difference_is_amplified_as_far_as_it_fits(distance: float, factor: int) -> None:
    assert amplification(np.full((2, 8, 8), distance / np.sqrt(2), np.float32)) == factor


def test_the_difference_shows_its_direction_and_gray_where_there_is_none() -> None:
    gray, ab = np.full((64, 64), 0.5, np.float32), np.zeros((2, 32, 32), np.float32)
    moved = ab.copy()
    moved[0, :, 16:] = 1.8  # towards red
    found = drawn("x", gray, ab, moved)
    assert isinstance(found, WorstPhoto) and found.factor == 20
    difference = pixels(found.difference)
    assert np.ptp(difference[32, 8]) <= 1
    assert difference[32, 56, 0] > difference[32, 56, 1] + 60


def test_values_that_are_no_colour_are_drawn_gray_and_large_photos_are_shown_small() -> None:
    gray, ab = np.full((512, 384), 0.5, np.float32), np.zeros((2, 128, 96), np.float32)
    broken = ab.copy()
    broken[:, 0, 0] = np.nan
    broken[:, 1, 1] = np.inf
    found = drawn("x", gray, ab, broken)
    assert pixels(found.engine).shape == (SIDE, SIDE * 3 // 4, 3)
