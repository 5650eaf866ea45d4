from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from icf_deploy.training.crops import Augmentation, Batch, CropSource, scaled
from icf_deploy.training.photos import CHROMA_MAP_SIDE, Photo

Pixels = npt.NDArray[np.uint8]
STILL = Augmentation(aspect=1.0, flip=0, rotation=0, colourful=0, jitter=0)


def cached(rgb: Pixels, name: str = "photo") -> Photo:
    return Photo(name, name, rgb, np.zeros((CHROMA_MAP_SIDE, CHROMA_MAP_SIDE), np.float32))


def crops_of(photos: list[Photo], augmentation: Augmentation, *, batch: int = 4, crop: int = 64, seed: int = 0) -> CropSource:
    return CropSource(photos, batch=batch, crop=crop, seed=seed, augmentation=augmentation)


def equal(first: Batch, second: Batch) -> bool:
    return np.array_equal(first.rgb, second.rgb) and np.array_equal(first.jitter.gains, second.jitter.gains)


def test_a_batch_depends_on_seed_and_step_and_on_nothing_that_was_asked_before(photo: Callable[[str], Pixels]) -> None:
    photos = [cached(photo(name)) for name in ("coffee", "china", "flower")]
    straight = crops_of(photos, Augmentation())
    batches = [straight.batch(step) for step in range(5)]
    assert equal(crops_of(photos, Augmentation()).batch(4), batches[4])
    assert equal(straight.batch(2), batches[2])
    assert not equal(batches[0], batches[1])
    assert not equal(crops_of(photos, Augmentation(), seed=1).batch(0), batches[0])


def test_prefetched_batches_are_the_same_from_any_first_step(photo: Callable[[str], Pixels]) -> None:
    source = crops_of([cached(photo("coffee")), cached(photo("rocket"))], Augmentation())
    for step, batch in zip(range(3, 7), source.batches(3, 7), strict=True):
        assert equal(batch, source.batch(step))


def test_an_error_while_preparing_a_batch_reaches_the_one_who_asked(photo: Callable[[str], Pixels]) -> None:
    broken = replace(cached(photo("coffee")), rgb=np.zeros((0, 0, 3), np.uint8))
    with pytest.raises((cv2.error, ZeroDivisionError, ValueError)):
        next(crops_of([broken], Augmentation()).batches(0, 3))


def test_every_photo_is_seen_once_in_an_epoch() -> None:
    photos = [cached(np.full((64, 64, 3), value, np.uint8)) for value in range(12)]
    source = crops_of(photos, STILL, batch=4, crop=32)
    for epoch in range(2):
        seen = [int(crop[0, 0, 0]) for step in range(3) for crop in source.batch(3 * epoch + step).rgb]
        assert sorted(seen) == list(range(12))


def test_a_still_crop_of_the_largest_area_is_the_whole_square_photo_scaled(photo: Callable[[str], Pixels]) -> None:
    astronaut = photo("astronaut")
    source = crops_of([cached(astronaut)], replace(STILL, area=(1.0, 1.0)), batch=2, crop=128)
    assert np.array_equal(source.batch(0).rgb[0], scaled(astronaut, 128, 128))


def test_half_of_the_crops_are_mirrored(photo: Callable[[str], Pixels]) -> None:
    astronaut = photo("astronaut")
    source = crops_of([cached(astronaut)], replace(STILL, area=(1.0, 1.0), flip=0.5), batch=64, crop=32)
    upright = scaled(astronaut, 32, 32)
    mirrored = [np.array_equal(crop, upright[:, ::-1]) for crop in source.batch(0).rgb]
    straight = [np.array_equal(crop, upright) for crop in source.batch(0).rgb]
    assert all(a != b for a, b in zip(mirrored, straight, strict=True))
    assert 16 <= sum(mirrored) <= 48


def test_a_turned_crop_is_found_in_the_whole_photo_turned_by_some_angle(photo: Callable[[str], Pixels]) -> None:
    """A crop cut and turned in two steps against one warp of the whole photo, which is smooth, so that half pixels match."""
    smooth = cv2.GaussianBlur(photo("astronaut"), (0, 0), 12)
    turning = replace(STILL, area=(0.25, 0.25), rotation=1.0, degrees=10.0)
    crop = crops_of([cached(smooth)], turning, batch=2, crop=64, seed=4).batch(0).rgb[0]

    def distance(angle: float) -> float:
        turn = cv2.getRotationMatrix2D((255.5, 255.5), angle, 0.25)
        turn[:, 2] -= 192  # the photo is 128 pixels wide now; its middle goes from 255.5 to 63.5
        whole = cv2.warpAffine(smooth, turn, (128, 128), borderMode=cv2.BORDER_REFLECT_101)
        return float(np.sqrt(cv2.matchTemplate(whole, crop, cv2.TM_SQDIFF).min() / crop.size))

    angles = np.linspace(-10, 10, 81)
    distances = [distance(angle) for angle in angles]
    assert min(distances) < 3  # RMS in codes
    assert abs(angles[np.argmin(distances)]) > 2
    assert distance(0) > 3 * min(distances)


def test_the_more_colourful_of_two_candidates_is_preferred() -> None:
    rgb = np.full((256, 256, 3), 128, np.uint8)
    rgb[:, 128:] = (255, 0, 0)
    chroma = np.zeros((CHROMA_MAP_SIDE, CHROMA_MAP_SIDE), np.float32)
    chroma[:, CHROMA_MAP_SIDE // 2 :] = 100
    photo = Photo("half", "half", rgb, chroma)
    small = replace(STILL, area=(0.0, 0.1))

    def redness(colourful: float) -> float:
        source = crops_of([photo], replace(small, colourful=colourful), batch=64, crop=32)
        return float(np.mean(source.batch(0).rgb[..., 0] - source.batch(0).rgb[..., 1].astype(float)))

    assert redness(1.0) > 1.2 * redness(0.0)


def test_jitter_of_probability_0_leaves_the_photo_alone(photo: Callable[[str], Pixels]) -> None:
    jitter = crops_of([cached(photo("coffee"))], STILL, batch=8).batch(0).jitter
    assert np.all(jitter.gains == 1)
    assert np.all(jitter.exponent == 1)
    assert np.all(jitter.saturation == 1)


def test_a_crop_of_a_photo_smaller_than_itself_is_enlarged(photo: Callable[[str], Pixels]) -> None:
    small = np.ascontiguousarray(photo("coffee")[:40, :50])
    assert crops_of([cached(small)], Augmentation(), crop=64).batch(0).rgb.shape == (4, 64, 64, 3)


def test_damage_hits_as_many_crops_as_asked_and_leaves_which_crops_they_are(photo: Callable[[str], Pixels]) -> None:
    photos = [cached(photo("coffee"))]
    clean, hurt = (crops_of(photos, Augmentation(damage=share), batch=100, crop=32).batch(0) for share in (0.0, 0.3))
    assert equal(clean, hurt)
    assert not clean.damage.any()
    assert 15 <= sum(hurt.damage.damaged(index) for index in range(100)) <= 45  # 30 by a binomial draw, over three deviations
    again = crops_of(photos, Augmentation(damage=0.3), batch=100, crop=32).batch(0)
    assert np.array_equal(again.damage.seed, hurt.damage.seed)
