"""Photos to calibrate on, and calibrations that are kept: clear refusals, and nothing stale."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from icf_deploy.errors import UsageError, WorkError
from icf_deploy.export.precision import scale_cache
from icf_deploy.export.precision.calibration import Calibration
from icf_deploy.export.precision.photos import CalibrationPhotos, packaged_photos, photos_of
from icf_deploy.export.reference import PHOTO_FOLDER
from icf_deploy.runtimes.cache import default_cache

SIZE = (32, 32)


def _fill(folder: Path, count: int) -> None:
    for i, path in enumerate(sorted(PHOTO_FOLDER.glob("*.jpg"))[:count]):
        (folder / f"photo{i}.jpg").write_bytes(path.read_bytes())


def test_a_folder_gives_what_colorize_feeds_the_network(tmp_path: Path) -> None:
    _fill(tmp_path, 4)
    Image.fromarray(np.full((64, 48, 3), (255, 255, 255), np.uint8)).save(tmp_path / "white.png")
    photos = photos_of(tmp_path, SIZE)
    assert photos.gray.shape == (10, 1, *SIZE) and photos.gray.dtype == np.float32
    assert photos.names[4] == "white.png" and photos.names[9] == "white.png, out of focus"
    assert np.allclose(photos.gray[4], 1, atol=1e-5)
    assert photos.gray[5].std() < photos.gray[0].std()


def test_an_empty_folder_a_missing_one_and_too_few_photos_are_named(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="no photos to calibrate on"):
        photos_of(tmp_path, SIZE)
    with pytest.raises(WorkError, match="there is no such folder"):
        photos_of(tmp_path / "missing", SIZE)
    _fill(tmp_path, 1)
    with pytest.raises(WorkError, match="needs at least 4 photos, found 1"):
        photos_of(tmp_path, SIZE)


def test_files_that_are_no_photos_are_skipped_counted_and_named(tmp_path: Path) -> None:
    _fill(tmp_path, 4)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    photos = photos_of(tmp_path, SIZE)
    assert [name for name, _ in photos.skipped] == ["broken.jpg"] and len(photos.names) == 8
    (tmp_path / "photo0.jpg").unlink()
    with pytest.raises(WorkError, match=r"found 3; 1 could not be read: broken\.jpg"):
        photos_of(tmp_path, SIZE)


def test_a_calibration_is_kept_and_read_back_as_it_was(
    model: onnx.ModelProto, photos: CalibrationPhotos, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def calibrate(*_: object, **options: str) -> Calibration:
        calls.append(options["method"])
        return replace(calibration, method=options["method"])

    monkeypatch.setattr(scale_cache, "calibrate", calibrate)
    for method in ("mse", "mse", "minmax", "mse"):
        found = scale_cache.calibrated(model, photos, method=method, folder=tmp_path)
        assert found.method == method
    assert calls == ["mse", "minmax"]
    assert found.saturation == calibration.saturation and found.noise == calibration.noise
    for key, weight in calibration.weights.items():
        assert np.array_equal(found.weights[key].codes, weight.codes) and found.weights[key].codes.dtype == np.int8
        assert np.array_equal(found.weights[key].bias, weight.bias) and found.weights[key].axis == weight.axis
    fewer = replace(photos, gray=photos.gray[:4], names=photos.names[:4])
    scale_cache.calibrated(model, fewer, method="mse", folder=tmp_path)
    assert calls == ["mse", "minmax", "mse"]  # other photos, another calibration


def test_a_damaged_calibration_is_made_again(
    model: onnx.ModelProto, photos: CalibrationPhotos, calibration: Calibration, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    caplog: pytest.LogCaptureFixture = request.getfixturevalue("caplog")
    monkeypatch.setattr(scale_cache, "calibrate", lambda *_args, **_options: calibration)
    scale_cache.calibrated(model, photos, folder=tmp_path)
    (file,) = tmp_path.glob("*.entry")
    file.write_bytes(file.read_bytes()[:-100])
    with caplog.at_level(logging.INFO):
        assert scale_cache.calibrated(model, photos, folder=tmp_path).saturation == calibration.saturation
    assert "damaged" in caplog.text
    assert len(file.read_bytes()) > 100


def test_calibrations_are_listed_and_cleared_as_engines_are_and_count_to_the_same_limit(
    model: onnx.ModelProto, photos: CalibrationPhotos, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(scale_cache, "calibrate", lambda *_args, **options: replace(calibration, method=options["method"]))
    scale_cache.calibrated(model, photos, method="mse")
    scale_cache.calibrated(model, photos, method="minmax")
    kept = default_cache().entries()
    assert [(entry.header.key.kind, entry.header.key.fields["method"]) for entry in kept] == [
        ("calibration", "minmax"),
        ("calibration", "mse"),
    ]
    monkeypatch.setenv("ICF_DEPLOY_CACHE_LIMIT", "0")  # room for what was written last
    scale_cache.calibrated(model, photos, method="entropy")
    assert [entry.header.key.fields["method"] for entry in default_cache().entries()] == ["entropy"]
    assert default_cache().clear(frozenset({"engine"}))[0] == 0
    assert default_cache().clear(frozenset({"calibration"}))[0] == 1
    monkeypatch.setenv("ICF_DEPLOY_CACHE", "off")
    assert scale_cache.calibrated(model, photos, method="mse").method == "mse"


def test_an_unknown_method_is_refused_before_any_photo_is_looked_at(model: onnx.ModelProto, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no calibration method 'kl'"):
        scale_cache.calibrated(model, packaged_photos(SIZE), method="kl", folder=tmp_path)
