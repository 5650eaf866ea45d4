from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from skimage.color import rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from icf_deploy.imaging.color import lab_of_pixels
from icf_deploy.imaging.merge import merge
from icf_deploy.training.definitions import by_definition, reaches_claim

Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def pair(photo: Callable[[str], Pixels]) -> tuple[Pixels, Pixels]:
    """A photo with half its chroma, and the photo."""
    rgb = np.ascontiguousarray(photo("coffee")[:128, :160])
    lightness, ab = lab_of_pixels(rgb)
    return merge(lightness, ab * np.float32(0.5)), rgb


def test_every_definition_has_the_value_that_scikit_image_gives_it(pair: tuple[Pixels, Pixels]) -> None:
    picture, truth = pair
    found = by_definition(picture, truth)
    labs = [rgb2lab(rgb) for rgb in pair]
    bytes_of = [np.clip(np.rint(lab * (2.55, 1, 1) + (0, 128, 128)), 0, 255).astype(np.uint8) for lab in labs]
    luma = [rgb @ np.array([0.299, 0.587, 0.114]) for rgb in pair]
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}

    def similarity(first: Pixels, second: Pixels) -> float:
        axis = 2 if first.ndim == 3 else None
        full = structural_similarity(first, second, channel_axis=axis, full=True, **gaussian)[1]
        return float(full[5:-5, 5:-5].mean())

    assert found["PSNR RGB"] == pytest.approx(peak_signal_noise_ratio(truth, picture), abs=1e-6)
    assert found["PSNR luma"] == pytest.approx(peak_signal_noise_ratio(luma[1], luma[0], data_range=255), abs=1e-6)
    ab = [lab[..., 1:] for lab in labs]
    assert found["PSNR ab, peak 255"] == pytest.approx(peak_signal_noise_ratio(ab[1], ab[0], data_range=255), abs=0.02)
    scaled = peak_signal_noise_ratio(ab[1] / 128, ab[0] / 128, data_range=1)
    assert found["PSNR ab / 128, peak 1"] == pytest.approx(scaled, abs=0.02)
    assert found["PSNR 8-bit Lab"] == pytest.approx(peak_signal_noise_ratio(bytes_of[1], bytes_of[0]), abs=0.02)
    assert found["SSIM RGB"] == pytest.approx(similarity(truth, picture), abs=1e-4)
    assert found["SSIM luma"] == pytest.approx(similarity(luma[1], luma[0]), abs=1e-4)
    assert found["SSIM 8-bit Lab"] == pytest.approx(similarity(bytes_of[1], bytes_of[0]), abs=2e-3)
    assert len(found) == 8


def test_doing_nothing_reaches_the_claimed_ssim_under_every_definition_and_the_claimed_psnr_under_one(
    photo: Callable[[str], Pixels],
) -> None:
    rgb = np.ascontiguousarray(photo("chelsea"))
    lightness, ab = lab_of_pixels(rgb)
    found = by_definition(merge(lightness, ab * np.float32(0)), rgb)
    reached = {name for name, value in found.items() if reaches_claim(name, value)}
    assert reached >= {"SSIM RGB", "SSIM luma", "SSIM 8-bit Lab", "PSNR luma"}
    assert "PSNR RGB" not in reached


def test_the_claim_is_30_db_and_more_than_0_9() -> None:
    assert reaches_claim("PSNR RGB", 30.0) and not reaches_claim("PSNR RGB", 29.99)
    assert reaches_claim("SSIM RGB", 0.901) and not reaches_claim("SSIM RGB", 0.9)
