"""Against scikit-image in float64, the chromaticities of the standards, and algebra."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from skimage.color import rgb2lab

from icf_deploy.imaging.color import (
    RELATIVE_XYZ_TO_RGB,
    RGB_TO_RELATIVE_XYZ,
    fy_of_pixels,
    gray_of_l,
    l_of_pixels,
    lab_of_pixels,
    light_of_srgb,
    srgb_of_light,
)

Bytes = npt.NDArray[np.uint8]
# scikit-image rounds the primaries to six digits and has another white: 0.95047, 1, 1.08883.
L_TOLERANCE = 0.006
AB_TOLERANCE = 0.02


@pytest.fixture(scope="module")
def every_fifth_colour() -> Bytes:
    """All RGB colours on a grid of 52^3, as an image; 0 and 255 are in it."""
    codes = np.arange(0, 256, 5, dtype=np.uint8)
    return np.stack(np.meshgrid(codes, codes, codes, indexing="ij"), axis=-1).reshape(codes.size, -1, 3)


def test_l_and_ab_agree_with_scikit_image_over_the_whole_rgb_cube(every_fifth_colour: Bytes) -> None:
    expected = rgb2lab(every_fifth_colour)
    lightness, ab = lab_of_pixels(every_fifth_colour)
    assert np.abs(lightness - expected[..., 0]).max() < L_TOLERANCE
    assert np.abs(np.moveaxis(ab, 0, 2) - expected[..., 1:]).max() < AB_TOLERANCE
    np.testing.assert_allclose(l_of_pixels(every_fifth_colour), lightness, atol=2e-5)


def test_l_and_ab_are_those_of_cie_15_and_the_chromaticities_of_srgb_in_float64(every_fifth_colour: Bytes) -> None:
    codes = every_fifth_colour / 255
    light = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    primaries = np.array([[0.64, 0.30, 0.15], [0.33, 0.60, 0.06], [0.03, 0.10, 0.79]])
    white = np.array([0.3127, 0.3290, 0.3583]) / 0.3290
    xyz = light @ (primaries * np.linalg.solve(primaries, white)).T / white
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    lightness, ab = lab_of_pixels(every_fifth_colour)
    np.testing.assert_allclose(lightness, 116 * f[..., 1] - 16, atol=1e-4)
    np.testing.assert_allclose(ab[0], 500 * (f[..., 0] - f[..., 1]), atol=4e-4)
    np.testing.assert_allclose(ab[1], 200 * (f[..., 1] - f[..., 2]), atol=4e-4)


def test_opencvs_own_conversion_would_not_pass_that_test(every_fifth_colour: Bytes) -> None:
    interpolated = cv2.cvtColor(every_fifth_colour.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    error = np.abs(interpolated - rgb2lab(every_fifth_colour)).reshape(-1, 3).max(axis=0)
    assert error[0] > L_TOLERANCE
    assert error[1:].max() > AB_TOLERANCE


def test_channels_are_red_green_blue_in_this_order() -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    lightness, ab = lab_of_pixels(pixels)
    np.testing.assert_allclose(lightness[0], [53.24, 87.74, 32.30], atol=0.01)  # Lindbloom, sRGB primaries in CIELAB D65
    np.testing.assert_allclose(ab[:, 0].T, [[80.09, 67.20], [-86.18, 83.18], [79.19, -107.86]], atol=0.02)


def test_gray_pixels_have_no_chroma_and_the_l_of_the_gray_plane() -> None:
    plane = np.arange(256, dtype=np.uint8).reshape(16, 16)
    lightness, ab = lab_of_pixels(np.repeat(plane[..., None], 3, axis=2))
    assert np.abs(ab).max() < 1e-4
    np.testing.assert_allclose(l_of_pixels(plane), lightness, atol=2e-5)
    assert l_of_pixels(plane)[0, 0] == 0
    assert l_of_pixels(plane)[-1, -1] == pytest.approx(100, abs=1e-5)


def test_l_is_linear_in_light_below_the_toe_of_cie_15() -> None:
    code = np.array([[1]], np.uint8)
    assert l_of_pixels(code)[0, 0] == pytest.approx(24389 / 27 / 255 / 12.92, rel=1e-5)


def test_gray_of_l_is_the_code_of_the_gray_pixel_with_that_l() -> None:
    codes = np.arange(256, dtype=np.uint8)[None]
    np.testing.assert_allclose(gray_of_l(l_of_pixels(codes)), codes / 255, atol=1e-6)


def test_gray_of_l_stays_in_range_and_rises() -> None:
    gray = gray_of_l(np.linspace(0, 100, 5001, dtype=np.float32))
    assert gray[0] == 0
    assert gray[-1] == 1
    assert (np.diff(gray) >= 0).all()


def test_gray_of_l_agrees_with_a_photo_that_scikit_image_made_gray(photo: Callable[[str], Bytes]) -> None:
    from skimage.color import lab2rgb

    lab = rgb2lab(photo("chelsea")[::4, ::4])
    lab[..., 1:] = 0
    gray = gray_of_l(lab[..., 0].astype(np.float32))
    assert np.abs(lab2rgb(lab) - gray[..., None]).max() < 1e-4


def test_the_transfer_function_is_that_of_iec_61966_2_1() -> None:
    encoded = np.array([0.0, 0.04045, 0.5, 1.0])
    np.testing.assert_allclose(light_of_srgb(encoded), [0, 0.0031308, 0.21404114, 1], atol=1e-7)
    np.testing.assert_allclose(srgb_of_light(light_of_srgb(np.linspace(0, 1, 1001))), np.linspace(0, 1, 1001), atol=1e-7)


def test_the_primaries_have_the_chromaticities_of_the_standard() -> None:
    white = np.array([0.3127, 0.3290, 1 - 0.3127 - 0.3290]) / 0.3290
    xyz = RGB_TO_RELATIVE_XYZ * white[:, None]
    chromaticity = xyz[:2] / xyz.sum(axis=0)
    np.testing.assert_allclose(chromaticity, [[0.64, 0.30, 0.15], [0.33, 0.60, 0.06]], atol=1e-12)
    np.testing.assert_allclose(RGB_TO_RELATIVE_XYZ.sum(axis=1), 1, atol=1e-15)
    np.testing.assert_allclose(RGB_TO_RELATIVE_XYZ @ RELATIVE_XYZ_TO_RGB, np.eye(3), atol=1e-14)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (1, 7, 3), (7, 1, 3), (3, 4), (2, 3)])
def test_fy_has_the_shape_of_the_photo(shape: tuple[int, ...]) -> None:
    assert fy_of_pixels(np.full(shape, 128, np.uint8)).shape == shape[:2]
