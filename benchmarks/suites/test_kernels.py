"""How long our own steps around an engine take, on real photos of one megapixel.

    pytest benchmarks/suites/test_kernels.py --benchmark-only

What a step gives is checked too, roughly: the time of a wrong result is of no use. One thread, unless a name says otherwise.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from PIL import Image

from icf_deploy.bundle.opening import open_bundle
from icf_deploy.imaging.codec import read_photo
from icf_deploy.imaging.color import fy_of_pixels, gray_of_fy, lab_of_pixels
from icf_deploy.imaging.merge import merge_rows
from icf_deploy.imaging.output import FORMATS
from icf_deploy.imaging.resample import Upsampler, shrink_to_grid

PHOTO = "astronaut"
SIDE = 1024  # pixels of the photo
GRID = 256  # what a network sees
FIELD = 128  # what icf-edge gives: stride 2
VIVID = 2.5  # factor on ab that brings about a fifth of this photo's pixels out of sRGB

Bench = Callable[..., Any]
Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def photo() -> npt.NDArray[np.uint8]:
    """uint8 RGB [1024,1024,3]."""
    return np.asarray(cv2.resize(getattr(skimage.data, PHOTO)(), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.fixture(scope="module")
def field(photo: npt.NDArray[np.uint8]) -> Floats:
    """The photo's own ab at the size that a network gives, float32 [2,128,128]."""
    _, ab = lab_of_pixels(photo)
    return np.stack([cv2.resize(plane, (FIELD, FIELD), interpolation=cv2.INTER_AREA) for plane in ab]).astype(np.float32)


@pytest.fixture(scope="module")
def fy(photo: npt.NDArray[np.uint8]) -> Floats:
    return fy_of_pixels(photo)


def test_colour_photo_to_lightness(benchmark: Bench, photo: npt.NDArray[np.uint8]) -> None:
    found = benchmark(fy_of_pixels, photo)
    assert found.shape == (SIDE, SIDE)


def test_gray_photo_to_lightness(benchmark: Bench, photo: npt.NDArray[np.uint8]) -> None:
    found = benchmark(fy_of_pixels, np.ascontiguousarray(photo[..., 1]))
    assert found.shape == (SIDE, SIDE)


def test_colour_photo_to_lab(benchmark: Bench, photo: npt.NDArray[np.uint8]) -> None:
    lightness, ab = benchmark(lab_of_pixels, photo)
    assert lightness.max() > 90 and ab.shape == (2, SIDE, SIDE)


def test_lightness_down_to_the_network(benchmark: Bench, fy: Floats) -> None:
    found = benchmark(lambda: gray_of_fy(shrink_to_grid(lambda top, bottom: fy[top:bottom], (SIDE, SIDE), (GRID, GRID))))
    assert found.shape == (GRID, GRID)


def test_ab_up_to_the_photo(benchmark: Bench, field: Floats) -> None:
    out = np.empty((2, SIDE, SIDE), np.float32)
    found = benchmark(lambda: Upsampler(field, (SIDE, SIDE)).rows(0, SIDE, out=out))
    assert abs(float(found.mean()) - float(field.mean())) < 0.1


@pytest.mark.parametrize("threads", [1, 2])
def test_merge(benchmark: Bench, fy: Floats, field: Floats, threads: int) -> None:
    found = benchmark(merge_rows, lambda top, bottom: fy[top:bottom], (SIDE, SIDE), field, threads)
    assert found.shape == (SIDE, SIDE, 3)


def test_merge_with_much_gamut_mapping(benchmark: Bench, fy: Floats, field: Floats) -> None:
    found = benchmark(merge_rows, lambda top, bottom: fy[top:bottom], (SIDE, SIDE), field * np.float32(VIVID), 1)
    assert (found == 255).any(axis=2).mean() + (found == 0).any(axis=2).mean() > 0.1


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_read_photo(benchmark: Bench, photo: npt.NDArray[np.uint8], suffix: str) -> None:
    data = encoded(photo, suffix)
    assert benchmark(read_photo, data).size == (SIDE, SIDE)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_write_photo(benchmark: Bench, photo: npt.NDArray[np.uint8], suffix: str) -> None:
    assert len(benchmark(encoded, photo, suffix)) > 10_000


def test_open_bundle(benchmark: Bench) -> None:
    assert benchmark(open_bundle).digest


def test_open_bundle_and_check_its_graph(benchmark: Bench) -> None:
    assert benchmark(lambda: open_bundle().graph()).size == (GRID, GRID)


def test_verify_bundle(benchmark: Bench) -> None:
    assert benchmark(lambda: open_bundle().verify())


def encoded(photo: npt.NDArray[np.uint8], suffix: str) -> bytes:
    """The photo as a file, as `write_photo` writes it."""
    stream, chosen = io.BytesIO(), FORMATS[suffix]
    Image.fromarray(photo).save(stream, chosen.name, **chosen.options)
    return stream.getvalue()
