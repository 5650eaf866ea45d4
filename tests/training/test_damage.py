"""Damage that training does to gray: what each kind does, that colours are untouched, that draws depend on the place alone."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from icf_deploy.training.color import pair_of_batch
from icf_deploy.training.crops import Batch, Jitter
from icf_deploy.training.damage import BLUR_SHARE, FADED_CONTRAST, GRAIN, JPEG_QUALITY, Damage, damage_gray


@pytest.fixture(scope="module")
def gray() -> npt.NDArray[np.float32]:
    """The astronaut, twice, float32 [2,1,128,128]."""
    import skimage.data

    photo = cv2.cvtColor(np.asarray(skimage.data.astronaut(), np.uint8), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(photo, (128, 128), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return np.stack([small, small])[:, None]


def sharpness(gray: npt.NDArray[np.float32]) -> float:
    return float(np.abs(np.diff(gray, axis=-1)).mean())


def test_nothing_is_done_where_nothing_was_drawn(gray: npt.NDArray[np.float32]) -> None:
    damage = Damage.none(2)
    damage.blur[1] = 0.01
    hurt = damage_gray(gray, damage)
    np.testing.assert_array_equal(hurt[0], gray[0])
    assert not np.array_equal(hurt[1], gray[1])


def test_blur_takes_sharpness_and_grain_adds_it(gray: npt.NDArray[np.float32]) -> None:
    damage = Damage.none(2)
    damage.blur[0], damage.grain[1] = 0.01, 16
    hurt = damage_gray(gray, damage)
    assert sharpness(hurt[0]) < 0.7 * sharpness(gray[0])
    assert (hurt[1] - gray[1]).std() * 255 == pytest.approx(16, rel=0.15)  # clipping takes a little of it


def test_fading_leaves_the_range_that_it_says(gray: npt.NDArray[np.float32]) -> None:
    damage = Damage.none(2)
    damage.contrast[:], damage.black[:] = 0.5, 64
    hurt = damage_gray(gray, damage) * 255
    np.testing.assert_array_equal(hurt, np.rint(gray * np.float32(255) * 0.5 + 64))


def test_jpeg_damage_is_that_of_a_file_of_this_quality(gray: npt.NDArray[np.float32]) -> None:
    from io import BytesIO

    from PIL import Image

    damage = Damage.none(2)
    damage.quality[:] = 10
    hurt = damage_gray(gray, damage)[0, 0] * 255
    file = BytesIO()
    Image.fromarray(np.rint(gray[0, 0] * 255).astype(np.uint8)).save(file, "JPEG", quality=10)
    np.testing.assert_allclose(hurt, np.asarray(Image.open(file), np.float32), atol=3)  # decoders may round apart


def test_draws_stay_within_their_ranges_and_use_every_kind() -> None:
    damage = Damage.none(400)
    for index in range(400):
        damage.draw(index, np.random.default_rng(index))
    assert all(damage.damaged(index) for index in range(400))
    for values, off, (low, high) in (
        (damage.blur, 0, BLUR_SHARE),
        (damage.contrast, 1, FADED_CONTRAST),
        (damage.grain, 0, GRAIN),
        (damage.quality, 0, JPEG_QUALITY),
    ):
        used = values[values != off]
        assert 60 < len(used) < 200
        assert low - 1e-6 <= used.min() and used.max() <= high + 1e-6
    assert (damage.black + damage.contrast * 255 <= 255 + 1e-3).all()


def test_the_colours_to_learn_are_those_of_the_undamaged_crop() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    jitter = Jitter(np.ones((2, 3), np.float32), np.ones(2, np.float32), np.ones(2, np.float32))
    damage = Damage.none(2)
    damage.draw(0, np.random.default_rng(1))
    clean = pair_of_batch(Batch(rgb, jitter, Damage.none(2)), torch.device("cpu"))
    hurt = pair_of_batch(Batch(rgb, jitter, damage), torch.device("cpu"))
    assert torch.equal(hurt.ab, clean.ab) and torch.equal(hurt.l, clean.l)
    assert not torch.equal(hurt.gray[0], clean.gray[0])
    assert torch.equal(hurt.gray[1], clean.gray[1])
