from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import skimage.color
from PIL import Image

from icf_deploy.errors import PhotoError
from icf_deploy.quality.photos import own_colours, read_colour_photos

Photos = Callable[[str], npt.NDArray[np.uint8]]
SIZE, GRID = (64, 64), (32, 32)


@pytest.fixture
def folder(tmp_path: Path, photo: Photos) -> Path:
    """Two colour photos, one below; a gray one; one saved in colour; a damaged file; and what is no photo at all."""
    (tmp_path / "more").mkdir()
    Image.fromarray(photo("coffee")).save(tmp_path / "coffee.jpg")
    Image.fromarray(photo("astronaut")).save(tmp_path / "more" / "astronaut.png")
    gray = cv2.cvtColor(photo("chelsea"), cv2.COLOR_RGB2GRAY)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(np.repeat(gray[:, :, None], 3, axis=2)).save(tmp_path / "gray-rgb.jpg", quality=60)
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 half a photo")
    (tmp_path / "notes.txt").write_text("not a photo")
    (tmp_path / ".hidden.png").write_bytes(b"")
    return tmp_path


def test_a_folder_is_read_with_what_is_wrong_with_it_by_name(folder: Path) -> None:
    told: list[str] = []
    found = read_colour_photos(folder, SIZE, GRID, tell=lambda done, total, what: told.append(what))
    assert found.names == ("coffee.jpg", "gray-rgb.jpg", "gray.png", "more/astronaut.png")
    assert found.gray.shape == (4, 1, 64, 64) and found.gray.dtype == np.float32
    assert found.colourless == ("gray-rgb.jpg", "gray.png")
    ((name, reason),) = found.skipped
    assert name == "damaged.jpg" and "damaged.jpg" in reason
    assert len(told) == 5


def test_gray_is_what_colorize_gives_the_network(folder: Path, tiny_session: Callable[..., object], photo: Photos) -> None:
    from icf_deploy.colorizer import Colorizer

    seen = tiny_session()
    Colorizer(seen, size=SIZE, stride=2, threads=1).colorize_array(photo("astronaut"))  # type: ignore[arg-type]
    found = read_colour_photos(folder / "more", SIZE, GRID)
    np.testing.assert_array_equal(found.gray[0], seen.gray[0])  # type: ignore[attr-defined]


def test_own_colours_are_those_of_scikit_image_averaged_over_each_cell(photo: Photos) -> None:
    picture = photo("coffee")[:384, :512]
    found = own_colours(picture, (24, 32))
    assert found is not None
    full = skimage.color.rgb2lab(picture)[..., 1:]
    expected = full.reshape(24, 16, 32, 16, 2).mean(axis=(1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("count", [1, 3])
def test_more_photos_than_memory_holds_are_spread_over_their_names(tmp_path: Path, photo: Photos, count: int) -> None:
    for number in range(6):
        Image.fromarray(photo("coffee")[:32, :32]).save(tmp_path / f"{number}.png")
    each = 4 * (64 * 64 + 4 * 32 * 32)
    found = read_colour_photos(tmp_path, SIZE, GRID, limit=count * each)
    assert len(found.names) == count and found.left_out == 6 - count
    assert found.names[0] == "0.png" and (count == 1 or found.names[-1] == "5.png")


def test_folders_without_a_photo_say_so(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="no folder"):
        read_colour_photos(tmp_path / "gone", SIZE, GRID)
    with pytest.raises(PhotoError, match=r"holds no photo \(looked for .*\.jpg"):
        read_colour_photos(tmp_path, SIZE, GRID)
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(PhotoError, match=r"none of its 2 photos can be read: .*a\.jpg.*b\.png"):
        read_colour_photos(tmp_path, SIZE, GRID)


@pytest.fixture
def tiny_session() -> Callable[..., object]:
    class Session:
        size, output_size, formats = SIZE, GRID, {"fp32": 1}

        def run(self, gray: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            self.gray = gray
            return np.zeros((len(gray), 2, *GRID), np.float32)

        def close(self) -> None:
            pass

    return Session
