"""The merged photo keeps L, and is what the formulas say; measured after rounding to 8 bits, with scikit-image."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from skimage.color import lab2rgb, rgb2lab

from icf_deploy.imaging import merge as merging
from icf_deploy.imaging import strips as stripping
from icf_deploy.imaging.color import fy_of_pixels, l_of_pixels, lab_of_pixels
from icf_deploy.imaging.merge import merge, merge_rows

Bytes = npt.NDArray[np.uint8]
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "china", "flower")


def test_l_stays_within_half_a_unit_over_a_dense_grid_of_lab_colours() -> None:
    lightness, a, b = np.meshgrid(np.arange(0, 100.5, 1), np.arange(-120, 121, 8), np.arange(-120, 121, 8), indexing="ij")
    lightness = lightness.reshape(101, -1).astype(np.float32)
    ab = np.stack([a.reshape(101, -1), b.reshape(101, -1)]).astype(np.float32)
    found = rgb2lab(merge(lightness, ab))
    assert np.abs(found[..., 0] - lightness).max() <= 0.5
    assert np.abs(found[..., 1:]).max() > 90  # and there is colour


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_comes_back_from_its_own_l_and_ab(photo: Callable[[str], Bytes], name: str) -> None:
    pixels = photo(name)
    np.testing.assert_array_equal(merge(*lab_of_pixels(pixels)), pixels)


def test_every_colour_on_a_grid_comes_back_with_the_primaries_among_them() -> None:
    codes = np.arange(0, 256, 5, dtype=np.uint8)
    pixels = np.stack(np.meshgrid(codes, codes, codes, indexing="ij"), axis=-1).reshape(codes.size, -1, 3)
    np.testing.assert_array_equal(merge(*lab_of_pixels(pixels)), pixels)


def test_colours_inside_the_gamut_are_those_of_scikit_image(photo: Callable[[str], Bytes]) -> None:
    lab = rgb2lab(photo("coffee"))
    lab[..., 1:] *= 0.7  # stays inside
    lightness, ab = lab[..., 0].astype(np.float32), np.moveaxis(lab[..., 1:], 2, 0).astype(np.float32)
    assert np.abs(merge(lightness, ab) - np.rint(lab2rgb(lab) * 255)).max() <= 1


def test_gray_stays_gray() -> None:
    codes = np.arange(256, dtype=np.uint8)[None]
    picture = merge(l_of_pixels(codes), np.zeros((2, 1, 256), np.float32))
    np.testing.assert_array_equal(picture, np.repeat(codes[..., None], 3, axis=2))


def test_dark_gray_is_rounded_without_a_bias() -> None:
    lightness = np.linspace(0.3, 7, 40_001, dtype=np.float32)[None]
    exact = lightness.astype(np.float64) * 27 / 24389 * 12.92 * 255  # both toes are straight lines
    exact = np.where(exact <= 10, exact, np.nan)
    error = merge(lightness, np.zeros((2, 1, lightness.size), np.float32))[..., 1] - exact
    assert np.nanmax(np.abs(error)) < 0.53
    assert abs(np.nanmean(error)) < 0.005


@pytest.mark.parametrize(("ab", "strongest"), [((60, 40), 0), ((-60, 50), 1), ((20, -70), 2)])
def test_positive_a_is_red_negative_a_green_and_negative_b_blue(ab: tuple[float, float], strongest: int) -> None:
    field = np.full((2, 1, 1), 0, np.float32)
    field[:, 0, 0] = ab
    pixel = merge(np.full((1, 1), 55, np.float32), field)[0, 0]
    assert int(np.argmax(pixel)) == strongest


def test_a_small_field_is_enlarged_as_pytorch_enlarges_it(photo: Callable[[str], Bytes]) -> None:
    torch = pytest.importorskip("torch")
    pixels = photo("china")
    lightness, ab = lab_of_pixels(pixels)
    small = np.stack([cv2.resize(plane, (64, 48), interpolation=cv2.INTER_AREA) for plane in ab])
    large = torch.nn.functional.interpolate(torch.from_numpy(small)[None], size=lightness.shape, mode="bicubic")[0].numpy()
    found = merge_rows(lambda top, bottom: fy_of_pixels(pixels[top:bottom]), lightness.shape, small)
    difference = np.abs(found.astype(int) - merge(lightness, large))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.fixture
def vivid(photo: Callable[[str], Bytes]) -> tuple[Bytes, npt.NDArray[np.float32]]:
    """A photo and ab that is outside the gamut in a third of it."""
    pixels = photo("astronaut")
    ab = lab_of_pixels(pixels)[1]
    return pixels, np.stack([cv2.resize(plane, (128, 128), interpolation=cv2.INTER_AREA) for plane in ab]) * np.float32(2.5)


@pytest.mark.parametrize("strip_pixels", [1, 5000, 10**9])
def test_strips_of_any_height_give_the_whole_photo(
    vivid: tuple[Bytes, npt.NDArray[np.float32]], strip_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, ab = vivid
    expected = merge_rows(lambda top, bottom: fy_of_pixels(pixels[top:bottom]), pixels.shape[:2], ab)
    monkeypatch.setattr(stripping, "STRIP_PIXELS", strip_pixels)
    found = merge_rows(lambda top, bottom: fy_of_pixels(pixels[top:bottom]), pixels.shape[:2], ab)
    difference = np.abs(found.astype(int) - expected)  # matrix products round differently for other shapes
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_give_what_one_thread_gives(
    vivid: tuple[Bytes, npt.NDArray[np.float32]], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, ab = vivid
    expected = merge_rows(lambda top, bottom: fy_of_pixels(pixels[top:bottom]), pixels.shape[:2], ab)
    monkeypatch.setattr(stripping, "BAND_PIXELS", 1000)
    found = merge_rows(lambda top, bottom: fy_of_pixels(pixels[top:bottom]), pixels.shape[:2], ab, threads)
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


def test_opencv_4_which_looks_up_8_bits_only_gives_the_same(
    vivid: tuple[Bytes, npt.NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, ab = vivid
    expected = merge_rows(lambda top, bottom: fy_of_pixels(pixels[top:bottom]), pixels.shape[:2], ab)
    monkeypatch.setattr(merging, "_looks_up_16_bits", lambda: False)
    found = merge_rows(lambda top, bottom: fy_of_pixels(pixels[top:bottom]), pixels.shape[:2], ab)
    np.testing.assert_array_equal(found, expected)


def test_absurd_ab_gives_colours_of_the_right_l_and_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    lightness = np.linspace(5, 95, 64, dtype=np.float32)[None]
    picture = merge(lightness, np.stack([np.full((1, 64), 1e30), np.full((1, 64), -1e30)]).astype(np.float32))
    assert np.abs(rgb2lab(picture)[..., 0] - lightness).max() <= 0.5
    assert not recwarn.list


def test_an_error_in_a_band_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripping, "BAND_PIXELS", 1)

    def rows(top: int, bottom: int) -> npt.NDArray[np.float32]:
        raise ZeroDivisionError(f"{top}..{bottom}")

    with pytest.raises(ZeroDivisionError):
        merge_rows(rows, (10, 10), np.zeros((2, 4, 4), np.float32), threads=2)
