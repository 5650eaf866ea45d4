"""The original DDColor's seven steps, written down once more as they are there, in BGR and with PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from icf_deploy.imaging.merge import merge_rows
from icf_deploy.imaging.parity import original_input, original_output

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def network(rgb: Floats) -> Floats:
    """Stands in for it: ab that depends on position and gray, strongly enough to leave the gamut in places."""
    height, width = rgb.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.stack([40 * np.sin(x / 9) + 60 * rgb[..., 0] - 20, 55 * np.cos(y / 7) - 30 * rgb[..., 0]]).astype(np.float32)


def seven_steps(bgr: Bytes, size: tuple[int, int]) -> tuple[Floats, Bytes]:
    """(what the network got, the picture as BGR)."""
    torch = pytest.importorskip("torch")
    img = (bgr / 255.0).astype(np.float32)
    orig_l = cv2.cvtColor(img, cv2.COLOR_BGR2Lab)[:, :, :1]
    img = cv2.resize(img, (size[1], size[0]))
    img_l = cv2.cvtColor(img, cv2.COLOR_BGR2Lab)[:, :, :1]
    img_gray_lab = np.concatenate((img_l, np.zeros_like(img_l), np.zeros_like(img_l)), axis=-1)
    img_gray_rgb = cv2.cvtColor(img_gray_lab, cv2.COLOR_LAB2RGB)
    output_ab = torch.from_numpy(network(img_gray_rgb))[None]
    output_ab_resize = torch.nn.functional.interpolate(output_ab, size=bgr.shape[:2])[0].float().numpy().transpose(1, 2, 0)
    output_lab = np.concatenate((orig_l, output_ab_resize), axis=-1)
    output_bgr = cv2.cvtColor(output_lab, cv2.COLOR_LAB2BGR)
    return img_gray_rgb, (output_bgr * 255.0).round().astype(np.uint8)


def ours(pixels: Bytes, size: tuple[int, int]) -> tuple[Floats, Bytes]:
    lightness, gray = original_input(pixels, size)
    return gray, original_output(lightness, network(np.repeat(gray[..., None], 3, axis=2)))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "china", "rocket"])
@pytest.mark.parametrize("size", [(256, 256), (96, 160)])
def test_a_photo_goes_through_the_seven_steps_of_the_original(
    photo: Callable[[str], Bytes], name: str, size: tuple[int, int]
) -> None:
    pixels = photo(name)
    expected_gray, expected = seven_steps(np.ascontiguousarray(pixels[..., ::-1]), size)
    gray, picture = ours(pixels, size)
    np.testing.assert_allclose(np.repeat(gray[..., None], 3, axis=2), expected_gray, atol=2e-6)
    np.testing.assert_array_equal(picture, expected[..., ::-1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (37, 41), (700, 333)])
def test_a_photo_of_any_size_goes_through_them(photo: Callable[[str], Bytes], shape: tuple[int, int]) -> None:
    pixels = cv2.resize(photo("flower"), (shape[1], shape[0]))
    _, expected = seven_steps(np.ascontiguousarray(pixels[..., ::-1]), (64, 64))
    np.testing.assert_array_equal(ours(pixels, (64, 64))[1], expected[..., ::-1])


def test_a_gray_photo_is_taken_as_three_equal_channels(photo: Callable[[str], Bytes]) -> None:
    plane = np.ascontiguousarray(photo("chelsea")[..., 1])
    gray, picture = ours(plane, (128, 128))
    same_gray, same_picture = ours(np.repeat(plane[..., None], 3, axis=2), (128, 128))
    np.testing.assert_array_equal(gray, same_gray)
    np.testing.assert_array_equal(picture, same_picture)


def test_nearest_enlarging_picks_the_pixels_that_pytorch_picks() -> None:
    torch = pytest.importorskip("torch")
    ab = np.random.default_rng(3).uniform(-20, 20, (2, 256, 192)).astype(np.float32)
    for height, width in [(300, 301), (777, 1111), (256, 192), (100, 50), (999, 1), (1023, 2047), (82, 74), (218, 183)]:
        lightness = np.full((height, width), 60, np.float32)
        enlarged = torch.nn.functional.interpolate(torch.from_numpy(ab)[None], size=(height, width))[0].numpy()
        lab = np.concatenate([lightness[..., None], enlarged.transpose(1, 2, 0)], axis=-1)
        expected = (cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255.0).round().astype(np.uint8)
        np.testing.assert_array_equal(original_output(lightness, ab), expected)


def test_the_original_differs_from_our_own_way(photo: Callable[[str], Bytes]) -> None:
    pixels = photo("coffee")
    gray, picture = ours(pixels, (64, 64))
    from icf_deploy.imaging.color import fy_of_pixels

    ab = network(np.repeat(gray[..., None], 3, axis=2))
    own = merge_rows(lambda top, bottom: fy_of_pixels(pixels[top:bottom]), pixels.shape[:2], ab)
    assert np.abs(own.astype(int) - picture).max() > 20
