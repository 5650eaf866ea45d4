from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import skimage.color
import skimage.metrics

from icf_deploy.errors import UsageError
from icf_deploy.imaging.color import lab_of_pixels
from icf_deploy.quality.metrics import ciede2000, colourfulness, nearest_rank, psnr, ssim

Photos = Callable[[str], npt.NDArray[np.uint8]]

# Sharma, Wu & Dalal (2005), table 1: all 34 pairs of Lab colours and their CIEDE2000.
SHARMA = """
50.0000   2.6772 -79.7751  50.0000   0.0000 -82.7485  2.0425
50.0000   3.1571 -77.2803  50.0000   0.0000 -82.7485  2.8615
50.0000   2.8361 -74.0200  50.0000   0.0000 -82.7485  3.4412
50.0000  -1.3802 -84.2814  50.0000   0.0000 -82.7485  1.0000
50.0000  -1.1848 -84.8006  50.0000   0.0000 -82.7485  1.0000
50.0000  -0.9009 -85.5211  50.0000   0.0000 -82.7485  1.0000
50.0000   0.0000   0.0000  50.0000  -1.0000   2.0000  2.3669
50.0000  -1.0000   2.0000  50.0000   0.0000   0.0000  2.3669
50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0009  7.1792
50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0010  7.1792
50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0011  7.2195
50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0012  7.2195
50.0000  -0.0010   2.4900  50.0000   0.0009  -2.4900  4.8045
50.0000  -0.0010   2.4900  50.0000   0.0010  -2.4900  4.8045
50.0000  -0.0010   2.4900  50.0000   0.0011  -2.4900  4.7461
50.0000   2.5000   0.0000  50.0000   0.0000  -2.5000  4.3065
50.0000   2.5000   0.0000  73.0000  25.0000 -18.0000  27.1492
50.0000   2.5000   0.0000  61.0000  -5.0000  29.0000  22.8977
50.0000   2.5000   0.0000  56.0000 -27.0000  -3.0000  31.9030
50.0000   2.5000   0.0000  58.0000  24.0000  15.0000  19.4535
50.0000   2.5000   0.0000  50.0000   3.1736   0.5854  1.0000
50.0000   2.5000   0.0000  50.0000   3.2972   0.0000  1.0000
50.0000   2.5000   0.0000  50.0000   1.8634   0.5757  1.0000
50.0000   2.5000   0.0000  50.0000   3.2592   0.3350  1.0000
60.2574 -34.0099  36.2677  60.4626 -34.1751  39.4387  1.2644
63.0109 -31.0961  -5.8663  62.8187 -29.7946  -4.0864  1.2630
61.2901   3.7196  -5.3901  61.4292   2.2480  -4.9620  1.8731
35.0831 -44.1164   3.7933  35.0232 -40.0716   1.5901  1.8645
22.7233  20.0904 -46.6940  23.0331  14.9730 -42.5619  2.0373
36.4612  47.8580  18.3852  36.2715  50.5065  21.2231  1.4146
90.8027  -2.0831   1.4410  91.1528  -1.6435   0.0447  1.4441
90.9257  -0.5406  -0.9208  88.6381  -0.8985  -0.7239  1.5381
 6.7747  -0.2908  -2.4247   5.8714  -0.0985  -2.2286  0.6377
 2.0776   0.0795  -1.1350   0.9033  -0.0636  -0.5514  0.9082
"""
PAIRS = np.array([[float(value) for value in line.split()] for line in SHARMA.strip().splitlines()])


@pytest.fixture(scope="module")
def labs(photo: Photos) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The colours of two photos, pixel against pixel: every hue against every other, float64 [300,400,3]."""
    found = []
    for name in ("astronaut", "china"):
        lightness, ab = lab_of_pixels(photo(name)[:300, :400])
        found.append(np.concatenate([lightness[None], ab]).transpose(1, 2, 0).astype(np.float64))
    return found[0], found[1]


def test_ciede2000_gives_all_34_values_of_the_table_of_sharma_wu_and_dalal() -> None:
    assert len(PAIRS) == 34
    np.testing.assert_allclose(ciede2000(PAIRS[:, :3], PAIRS[:, 3:6]), PAIRS[:, 6], rtol=0, atol=5.1e-5)


def test_ciede2000_is_symmetric_and_zero_only_for_equal_colours() -> None:
    first, second = PAIRS[:, :3], PAIRS[:, 3:6]
    np.testing.assert_array_equal(ciede2000(first, second), ciede2000(second, first))
    np.testing.assert_array_equal(ciede2000(first, first), 0)


def test_ciede2000_agrees_with_scikit_image_on_photos(
    labs: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
) -> None:
    np.testing.assert_allclose(ciede2000(*labs), skimage.color.deltaE_ciede2000(*labs), rtol=0, atol=1e-10)


def test_ciede2000_in_float32_stays_within_a_thousandth_on_photos(
    labs: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
) -> None:
    first, second = (lab.astype(np.float32) for lab in labs)
    single = ciede2000(first, second)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, ciede2000(*labs), rtol=0, atol=1e-3)


def test_ciede2000_of_grays_depends_on_lightness_alone() -> None:
    # For two grays the formula is |dL| / S_L; around L = 50, S_L is 1 to within 0.015 * 1 / sqrt(21).
    assert ciede2000(np.array([49.0, 0, 0]), np.array([51.0, 0, 0])) == pytest.approx(2)


def test_psnr_of_a_constant_error_is_what_its_definition_says() -> None:
    reference = np.zeros((4, 4, 3), np.uint8)
    assert psnr(reference + 10, reference, peak=255) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(reference + 200, reference + 210, peak=255) == psnr(reference + 210, reference + 200, peak=255)
    assert psnr(reference, reference, peak=255) == math.inf


def test_psnr_agrees_with_scikit_image(photo: Photos) -> None:
    first, second = photo("astronaut")[:300, :400], photo("china")[:300, :400]
    expected = skimage.metrics.peak_signal_noise_ratio(first, second, data_range=255)
    assert psnr(second, first, peak=255) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("channels", [slice(None), 0], ids=["RGB", "one plane"])
def test_ssim_agrees_with_scikit_image(photo: Photos, channels: slice | int) -> None:
    first, second = photo("coffee")[..., channels], photo("coffee")[..., channels].copy()
    second[::2] = second[::2] // 2 + 40
    expected = skimage.metrics.structural_similarity(
        first,
        second,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2 if first.ndim == 3 else None,
    )
    assert expected < 0.8
    assert ssim(first, second, data_range=255) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_equal_pictures_is_one_and_of_too_small_ones_a_usage_error(photo: Photos) -> None:
    picture = photo("rocket")
    assert ssim(picture, picture, data_range=255) == pytest.approx(1)
    assert ssim(picture[:11, :11], picture[:11, :11], data_range=255) == pytest.approx(1)
    with pytest.raises(UsageError, match="at least 11x11"):
        ssim(picture[:10], picture[:10], data_range=255)


def test_colourfulness_of_a_picture_half_red_half_green_is_what_its_definition_says() -> None:
    picture = np.zeros((10, 10, 3), np.uint8)
    picture[:5, :, 0] = 255
    picture[5:, :, 1] = 255
    # red - green is 255 or -255 (deviation 255, mean 0), yellow - blue is 127.5 throughout.
    assert colourfulness(picture) == pytest.approx(255 + 0.3 * 127.5)
    # Without signs, red - green is 255 throughout too.
    assert colourfulness(picture, ddcolor_compat=True) == pytest.approx(0.3 * math.hypot(255, 127.5))


def test_colourfulness_is_zero_for_gray_and_signed_as_in_the_paper(photo: Photos) -> None:
    gray = np.repeat(photo("rocket")[..., :1], 3, axis=2)
    assert colourfulness(gray) == 0
    # The two values that DDColor's evaluation and the paper's definition give for this photo.
    assert colourfulness(photo("rocket")) == pytest.approx(38.6, abs=0.05)
    assert colourfulness(photo("rocket"), ddcolor_compat=True) == pytest.approx(29.0, abs=0.05)


@pytest.mark.parametrize("share, expected", [(0.95, 95), (0.951, 96), (0.5, 50), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(share: float, expected: int) -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, 101.0)).reshape(10, 10)
    assert nearest_rank(values, share) == expected
