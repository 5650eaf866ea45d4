from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from icf_deploy.imaging.color import light_of_srgb
from icf_deploy.training.corruptions import CARD_AREA, CARD_CODE, CONTRAST, KINDS, NOISE_SIGMA, OCCLUSION, SEVERITIES, corrupt

Gray = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def gray(photo: Callable[[str], Gray]) -> Gray:
    return np.ascontiguousarray(photo("chelsea")[:256, :256, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_every_time_and_grows_with_its_severity(kind: str, gray: Gray) -> None:
    hurt = [corrupt(gray, kind, severity, "cat").gray for severity in range(len(SEVERITIES))]
    for severity, picture in enumerate(hurt):
        assert picture.dtype == np.uint8 and picture.shape == gray.shape
        assert np.array_equal(corrupt(gray, kind, severity, "cat").gray, picture)
    errors = [float(np.abs(picture.astype(int) - gray).mean()) for picture in hurt]
    assert errors[0] > 0.3
    assert all(less < more for less, more in pairwise(errors))


@pytest.mark.parametrize("kind", ["noisy", "faded print", "scratched print", OCCLUSION])
def test_what_is_drawn_differs_from_photo_to_photo(kind: str, gray: Gray) -> None:
    assert not np.array_equal(corrupt(gray, kind, 1, "cat").gray, corrupt(gray, kind, 1, "dog").gray)


def test_a_stop_less_is_half_the_light() -> None:
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(16, 0)
    before, after = (light_of_srgb(codes[0] / 255.0) for codes in (ramp, corrupt(ramp, "underexposed", 0, "x").gray))
    assert after[100:] / before[100:] == pytest.approx(0.5, rel=0.02)


def test_overexposure_burns_out_what_is_bright() -> None:
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(16, 0)
    assert (corrupt(ramp, "overexposed", 2, "x").gray[0, 180:] == 255).all()


def test_low_contrast_noise_and_fading_have_their_stated_size(gray: Gray) -> None:
    flat = corrupt(gray, "low contrast", 1, "x").gray
    assert flat.std() / gray.std() == pytest.approx(CONTRAST[1], rel=0.02)
    middle = np.full((256, 256), 128, np.uint8)
    assert corrupt(middle, "noisy", 0, "x").gray.std() == pytest.approx(NOISE_SIGMA[0], rel=0.05)
    ends = np.zeros((256, 256), np.uint8)
    ends[:, 128:] = 255
    faded = corrupt(ends, "faded print", 1, "x").gray
    assert faded[:, :128].mean() > 45 and faded[:, 128:].mean() < 225


def test_blur_is_a_share_of_the_photo() -> None:
    """A step is as wide, in shares of the side, at 128 as at 512."""
    widths = []
    for side in (128, 512):
        step = np.zeros((side, side), np.uint8)
        step[:, side // 2 :] = 255
        row = corrupt(step, "blurred", 2, "x").gray[side // 2].astype(float)
        widths.append(((row > 30) & (row < 225)).sum() / side)
    assert widths[0] == pytest.approx(widths[1], abs=0.01)


def test_scratches_are_thin_and_mostly_bright(gray: Gray) -> None:
    middle = np.full((256, 256), 128, np.uint8)
    scratched = corrupt(middle, "scratched print", 2, "x").gray
    touched = scratched != 128
    assert 0.01 < touched.mean() < 0.4
    assert (scratched[touched] > 128).mean() > 0.6


def test_the_card_covers_its_share_and_says_where(gray: Gray) -> None:
    for severity, area in enumerate(CARD_AREA):
        found = corrupt(gray, OCCLUSION, severity, "cat")
        assert found.covered.mean() == pytest.approx(area, abs=0.01)
        assert (found.gray[found.covered] == CARD_CODE).all()
        assert np.array_equal(found.gray[~found.covered], gray[~found.covered])
    assert not corrupt(gray, "JPEG", 2, "cat").covered.any()
