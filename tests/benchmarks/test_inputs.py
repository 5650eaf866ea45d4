from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from icf_deploy.benchmarks.inputs import inputs_of, photos_in, read_gray, reference_gray, resized
from icf_deploy.errors import PhotoError, UsageError


def test_inputs_are_the_real_photos_one_by_one(gray: np.ndarray) -> None:
    batches = inputs_of("engine", gray)((64, 64))
    assert [batch.shape for batch in batches] == [(1, 1, 64, 64)] * 2
    np.testing.assert_array_equal(np.concatenate(batches), gray)


def test_the_last_batch_is_filled_up_from_the_first_photos(gray: np.ndarray) -> None:
    three = np.concatenate([gray, 1 - gray[:1]])
    batches = inputs_of("engine", three, batch=2)((64, 64))
    assert [batch.shape[0] for batch in batches] == [2, 2]
    np.testing.assert_array_equal(batches[1], np.concatenate([three[2:], three[:1]]))


@pytest.mark.parametrize("size", [(32, 32), (32, 96), (128, 128), (512, 256)])
def test_resizing_keeps_the_range_and_roughly_the_mean(gray: np.ndarray, size: tuple[int, int]) -> None:
    found = resized(gray, size)
    assert found.shape == (2, 1, *size) and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1
    assert found.mean() == pytest.approx(gray.mean(), abs=0.01)


def test_the_photo_of_the_image_scope_has_one_megapixel(gray: np.ndarray) -> None:
    photos = inputs_of("image", gray)((64, 64))
    assert [(photo.shape, photo.dtype) for photo in photos] == [((1024, 1024), np.uint8)] * 2
    small = cv2.resize(photos[0], (64, 64), interpolation=cv2.INTER_AREA) / 255
    assert np.abs(small - gray[0, 0]).mean() < 0.02


def test_the_file_scope_gets_the_same_photo_as_jpeg(gray: np.ndarray) -> None:
    encoded = inputs_of("file", gray)((64, 64))[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
    assert np.abs(decoded.astype(float) - inputs_of("image", gray)((64, 64))[1]).mean() < 2


def test_own_photos_are_taken_as_they_are(gray: np.ndarray, photo) -> None:
    chelsea = photo("chelsea")
    np.testing.assert_array_equal(inputs_of("image", gray, photos=[chelsea])((64, 64))[0], chelsea)
    decoded = cv2.imdecode(inputs_of("file", gray, photos=[chelsea])((64, 64))[0], cv2.IMREAD_COLOR_RGB)
    assert np.abs(decoded.astype(float) - chelsea).mean() < 5


def test_the_engine_gets_own_photos_as_the_colorizer_would_make_them(gray: np.ndarray, photo) -> None:
    from icf_deploy.colorizer import Colorizer

    seen: list[np.ndarray] = []

    class Watcher:
        size, output_size, formats = (64, 96), (32, 48), {"fp32": 1}

        def run(self, batch: np.ndarray) -> np.ndarray:
            seen.append(batch.copy())
            return np.zeros((len(batch), 2, 32, 48), np.float32)

    photos = [photo("chelsea"), cv2.cvtColor(photo("coffee"), cv2.COLOR_RGB2GRAY)]
    colorizer = Colorizer(Watcher(), size=(64, 96), stride=2)  # type: ignore[arg-type]
    for picture in photos:
        colorizer.colorize_array(picture)
    batches = inputs_of("engine", gray, batch=2, photos=photos)((64, 96))
    assert [batch.shape for batch in batches] == [(2, 1, 64, 96)]
    np.testing.assert_allclose(batches[0], np.concatenate(seen), atol=1e-6)


def test_a_file_is_fed_to_the_file_scope_byte_by_byte(gray: np.ndarray, photos_dir: Path) -> None:
    path = photos_dir / "rocket.png"
    for source in (path, path.read_bytes()):
        assert inputs_of("file", gray, photos=[source])((64, 64))[0].tobytes() == path.read_bytes()


def test_a_folder_gives_its_photos_by_name_and_leaves_the_rest(
    tmp_path: Path, photos_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b.png", "a.jpg", "c.png", ".hidden.png"):
        (tmp_path / name).write_bytes((photos_dir / "rocket.png").read_bytes())
    (tmp_path / "readme.txt").write_text("no photo")
    (tmp_path / "sub").mkdir()
    assert [path.name for path in photos_in(tmp_path)] == ["a.jpg", "b.png", "c.png"]
    monkeypatch.setattr("icf_deploy.benchmarks.inputs.MOST_PHOTOS", 2)
    assert [path.name for path in photos_in(tmp_path)] == ["a.jpg", "b.png"]


def test_a_folder_without_photos_and_none_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="holds no photo"):
        photos_in(tmp_path)
    with pytest.raises(PhotoError, match="is no folder"):
        photos_in(tmp_path / "none")


def test_the_reference_set_of_a_bundle_is_found(tiny_bundle: Path, gray: np.ndarray) -> None:
    np.testing.assert_array_equal(reference_gray(tiny_bundle), gray)


@pytest.mark.parametrize("shape", [(64, 64), (2, 64, 64), (2, 1, 64, 64)])
def test_gray_photos_are_read_from_npy_and_npz(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", other=np.zeros(3), gray=array)
    for name in ("a.npy", "a.npz"):
        np.testing.assert_array_equal(read_gray(tmp_path / name), array.reshape(-1, 1, 64, 64) / np.float32(255))


def test_gray_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "rgb.npy", np.zeros((1, 3, 8, 8), np.float32))
    np.save(tmp_path / "range.npy", np.full((1, 1, 8, 8), 200, np.float32))
    np.save(tmp_path / "nan.npy", np.full((1, 1, 8, 8), np.nan, np.float32))
    for name in ("missing.npy", "text.npy", "pickled.npy", "rgb.npy", "range.npy", "nan.npy"):
        with pytest.raises(UsageError, match=name):
            read_gray(tmp_path / name)
