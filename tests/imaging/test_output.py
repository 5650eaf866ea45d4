"""Files appear complete or not at all, with the colours that were given."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, JpegImagePlugin

from icf_deploy.errors import UsageError, WorkError
from icf_deploy.imaging import output
from icf_deploy.imaging.output import check_output, write_photo

Bytes = npt.NDArray[np.uint8]
LOSSLESS = (".png", ".webp", ".tif", ".tiff", ".PNG")


@pytest.fixture
def picture(photo: Callable[[str], Bytes]) -> Bytes:
    return photo("chelsea")[::3, ::3].copy()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def read_back(path: Path) -> Bytes:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_a_picture_comes_back_exactly_from_every_lossless_format(tmp_path: Path, picture: Bytes, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_photo(picture, path)
    np.testing.assert_array_equal(read_back(path), picture)
    write_photo(Image.fromarray(picture), path, overwrite=True)
    np.testing.assert_array_equal(read_back(path), picture)
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_transparency_is_written(tmp_path: Path, picture: Bytes, suffix: str) -> None:
    alpha = np.linspace(0, 255, picture.shape[0] * picture.shape[1]).astype(np.uint8).reshape(*picture.shape[:2], 1)
    path = tmp_path / f"out{suffix}"
    write_photo(np.concatenate([picture, alpha], axis=2), path)
    found = read_back(path)
    np.testing.assert_array_equal(found[..., 3:], alpha)
    seen = alpha[..., 0] > 0
    np.testing.assert_array_equal(found[seen, :3], picture[seen])


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG"])
def test_jpeg_keeps_full_colour_resolution_and_high_quality(tmp_path: Path, picture: Bytes, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_photo(picture, path)
    with Image.open(path) as image:
        assert image.format == "JPEG"
        assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4
        error = np.asarray(image).astype(float) - picture
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 38


def test_what_is_transparent_becomes_white_in_a_jpeg(tmp_path: Path) -> None:
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:, 16:] = (200, 30, 30, 255)
    rgba[:, :16, 3] = 0
    path = tmp_path / "out.jpg"
    write_photo(rgba, path)
    found = read_back(path).astype(int)
    assert found[:, :12].min() >= 250
    assert np.abs(found[:, 20:] - (200, 30, 30)).max() <= 6


@pytest.mark.parametrize("name", ["out.bmp", "out", "out.heic", ".png"])
def test_a_suffix_that_names_no_format_is_a_usage_error_that_lists_them(tmp_path: Path, picture: Bytes, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.jpg, \.jpeg, \.webp, \.tif, \.tiff"):
        write_photo(picture, tmp_path / name)
    assert names(tmp_path) == []


def test_an_existing_file_stays_unless_overwrite_is_given(tmp_path: Path, picture: Bytes) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"precious")
    with pytest.raises(WorkError, match=r"out\.png exists: .* --overwrite"):
        write_photo(picture, path)
    assert path.read_bytes() == b"precious"
    write_photo(picture, path, overwrite=True)
    np.testing.assert_array_equal(read_back(path), picture)
    assert names(tmp_path) == ["out.png"]


def test_a_folder_and_a_missing_folder_are_refused(tmp_path: Path, picture: Bytes) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(WorkError, match=r"folder\.png is a folder"):
        write_photo(picture, tmp_path / "folder.png", overwrite=True)
    with pytest.raises(WorkError, match=r"there is no folder .*missing"):
        check_output(tmp_path / "missing" / "out.png")


class _FullDisk:
    """An image that writes a part of itself before the disk is full, or before somebody presses Ctrl-C."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def save(self, stream: Any, *_: object, **__: object) -> None:
        stream.write(b"half a picture")
        raise self._error


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_nothing_behind_and_says_so(
    tmp_path: Path, picture: Bytes, existing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.png"
    if existing:
        path.write_bytes(b"precious")
    full = _FullDisk(OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(Image.Image, "save", lambda _, stream, *rest, **options: full.save(stream))
    with pytest.raises(WorkError, match=r"out\.png cannot be written: No space left on device"):
        write_photo(picture, path, overwrite=True)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"precious"] if existing else [])


def test_an_interruption_leaves_nothing_behind(tmp_path: Path, picture: Bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = _FullDisk(KeyboardInterrupt())
    monkeypatch.setattr(Image.Image, "save", lambda _, stream, *rest, **options: interrupted.save(stream))
    with pytest.raises(KeyboardInterrupt):
        write_photo(picture, tmp_path / "out.png")
    assert names(tmp_path) == []


def test_a_file_that_appears_while_writing_is_not_replaced(
    tmp_path: Path, picture: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.png"
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: path.write_bytes(b"somebody else's"))
    with pytest.raises(WorkError, match="--overwrite"):
        write_photo(picture, path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"somebody else's"]


@pytest.mark.parametrize(("suffix", "side"), [(".jpg", 65_501), (".webp", 16_384)])
def test_a_side_that_the_format_cannot_hold_is_said_before_writing(tmp_path: Path, suffix: str, side: int) -> None:
    with pytest.raises(WorkError, match=rf"at most {side - 1} pixels a side, this photo is {side} x 1"):
        write_photo(np.zeros((1, side, 3), np.uint8), tmp_path / f"out{suffix}")
    write_photo(np.zeros((1, side - 1, 3), np.uint8), tmp_path / f"out{suffix}")
    assert read_back(tmp_path / f"out{suffix}").shape == (1, side - 1, 3)


def test_permissions_are_those_of_any_new_file(tmp_path: Path, picture: Bytes) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_photo(picture, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_every_format_writes_a_single_pixel(tmp_path: Path) -> None:
    for suffix in output.FORMATS:
        write_photo(np.full((1, 1, 3), 128, np.uint8), tmp_path / f"out{suffix}")
        assert read_back(tmp_path / f"out{suffix}").shape == (1, 1, 3)
