"""Against PyTorch, OpenCV, and plain arithmetic."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from icf_deploy.imaging import strips as stripping
from icf_deploy.imaging.resample import Upsampler, shrink_to_grid

Floats = npt.NDArray[np.float32]


def plane(height: int, width: int) -> Floats:
    return np.random.default_rng(height * 1000 + width).random((height, width), np.float32)


def shrunk(source: Floats, size: tuple[int, int]) -> Floats:
    return shrink_to_grid(lambda top, bottom: source[top:bottom], (source.shape[0], source.shape[1]), size)


def resized(field: Floats, size: tuple[int, int]) -> Floats:
    return Upsampler(field, size).rows(0, size[0], np.empty((field.shape[0], *size), np.float32))


def area_average(source: Floats, size: int) -> Floats:
    """Exact average along the first axis: every old pixel is cut into `size` equal parts, of which a new one takes a run."""
    pieces = np.repeat(source.astype(np.float64), size, axis=0)
    return pieces.reshape(size, source.shape[0], -1).mean(axis=1).astype(np.float32)


@pytest.mark.parametrize("size", [(32, 32), (5, 7), (64, 41), (1, 1)])
def test_shrinking_averages_the_area_of_each_new_pixel(size: tuple[int, int]) -> None:
    source = plane(101, 83)
    expected = area_average(area_average(source, size[0]).T, size[1]).T
    np.testing.assert_allclose(shrunk(source, size), expected, atol=1e-5)


def test_enlarging_l_is_linear_between_pixel_centres() -> None:
    source = np.array([[0.0, 1.0]], np.float32)
    np.testing.assert_allclose(shrunk(source, (1, 8))[0], [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1], atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 400), (400, 8)])
def test_one_axis_may_shrink_while_the_other_grows(shape: tuple[int, int]) -> None:
    source = plane(*shape)
    expected = area_average(source, 64) if shape[0] > 64 else cv2.resize(source, (400, 64))
    expected = area_average(expected.T, 64).T if shape[1] > 64 else cv2.resize(expected, (64, 64))
    np.testing.assert_allclose(shrunk(source, (64, 64)), expected, atol=1e-5)


@pytest.mark.parametrize("strip_pixels", [1, 777, 10**9])
def test_strips_of_any_height_give_the_same_grid(strip_pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plane(200, 130)
    expected = shrunk(source, (32, 64))
    monkeypatch.setattr(stripping, "STRIP_PIXELS", strip_pixels)
    np.testing.assert_array_equal(shrunk(source, (32, 64)), expected)


def test_threads_give_the_same_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    source = plane(200, 130)
    expected = shrunk(source, (32, 64))
    monkeypatch.setattr(stripping, "BAND_PIXELS", 1000)
    found = shrink_to_grid(lambda top, bottom: source[top:bottom], (200, 130), (32, 64), threads=3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (33, 500), (32, 48), (1000, 33)])
def test_enlarging_ab_is_pytorchs_bicubic(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    field = np.stack([plane(32, 33), plane(33, 32).T])
    expected = torch.nn.functional.interpolate(torch.from_numpy(field)[None], size=size, mode="bicubic", align_corners=False)
    np.testing.assert_allclose(resized(field, size), expected[0].numpy(), atol=2e-5)


def test_enlarging_ab_is_opencvs_bicubic() -> None:
    field = np.stack([plane(32, 33), plane(33, 32).T])
    expected = np.stack([cv2.resize(channel, (131, 97), interpolation=cv2.INTER_CUBIC) for channel in field])
    np.testing.assert_allclose(resized(field, (97, 131)), expected, atol=2e-5)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (31, 20), (16, 300)])
def test_ab_of_a_photo_smaller_than_the_field_is_its_area_average(size: tuple[int, int]) -> None:
    field = plane(32, 48)[None]
    expected = area_average(field[0], size[0])
    expected = area_average(expected.T, size[1]).T if size[1] < 48 else resized(expected[None], size)[0]
    np.testing.assert_allclose(resized(field, size)[0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 500), (16, 16), (301, 9)])
def test_a_flat_field_stays_flat(size: tuple[int, int]) -> None:
    np.testing.assert_allclose(resized(np.full((2, 16, 16), 37.5, np.float32), size), 37.5, rtol=1e-6)


def test_a_mirrored_field_gives_the_mirrored_result() -> None:
    field = plane(20, 30)[None]
    straight, mirrored = resized(field, (75, 91)), resized(np.ascontiguousarray(field[:, ::-1, ::-1]), (75, 91))
    np.testing.assert_allclose(mirrored[:, ::-1, ::-1], straight, atol=1e-5)


def test_any_rows_are_those_of_the_whole() -> None:
    field = np.stack([plane(16, 16), plane(16, 16) + 1])
    upsampler = Upsampler(field, (201, 77))
    whole = resized(field, (201, 77))
    for top, bottom in [(0, 1), (0, 13), (50, 51), (99, 180), (200, 201)]:
        rows = upsampler.rows(top, bottom, np.empty((2, bottom - top, 77), np.float32))
        np.testing.assert_allclose(rows, whole[:, top:bottom], atol=1e-5)


@pytest.mark.parametrize(("top", "bottom", "width"), [(0, 100, 7), (3, 50, 100_000), (0, 1, 1)])
def test_strips_cover_every_row_once(top: int, bottom: int, width: int) -> None:
    rows = [row for first, last in stripping.strips(top, bottom, width) for row in range(first, last)]
    assert rows == list(range(top, bottom))


@pytest.mark.parametrize("threads", [1, 2, 5, 64])
@pytest.mark.parametrize("size", [(1, 10), (7, 1000), (1000, 900)])
def test_bands_cover_every_row_once(size: tuple[int, int], threads: int) -> None:
    bands: list[tuple[int, int]] = []
    stripping.in_bands(lambda top, bottom: bands.append((top, bottom)), size, threads)
    assert len(bands) <= threads
    assert sorted(row for top, bottom in bands for row in range(top, bottom)) == list(range(size[0]))
