from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage.metrics import structural_similarity

from icf_deploy.errors import UsageError
from icf_deploy.training.color import light_of_codes, pair_of_light, rgb_of_lab
from icf_deploy.training.config import LEARNT_LOSSES, TrainConfig
from icf_deploy.training.feature_loss import feature_distance
from icf_deploy.training.losses import LOSSES, Truth, ab_colourfulness, huber, loss_of_name, paper, perceptual, ssim, vivid

Pixels = npt.NDArray[np.uint8]
CONFIG = TrainConfig(photos=(), output=Path("x.safetensors"), steps=1)


@pytest.fixture
def truth(photo: Callable[[str], Pixels]) -> Truth:
    rgb = np.stack([photo(name)[:64, :64] for name in ("astronaut", "coffee")])
    pair = pair_of_light(light_of_codes(torch.from_numpy(rgb)))
    return Truth(torch.nn.functional.avg_pool2d(pair.l, 2), torch.nn.functional.avg_pool2d(pair.ab, 2))


def test_ssim_is_that_of_scikit_image(photo: Callable[[str], Pixels]) -> None:
    true = photo("astronaut")[:96, :96].astype(np.float32) / 255
    noisy = np.clip(true + np.random.default_rng(0).normal(0, 0.1, true.shape), 0, 1).astype(np.float32)
    expected = [
        structural_similarity(
            true[..., channel], noisy[..., channel], data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, win_size=11, full=True,
        )[1][5:-5, 5:-5].mean()
        for channel in range(3)
    ]  # fmt: skip
    ours = ssim(*(torch.from_numpy(x).permute(2, 0, 1)[None] for x in (true, noisy)))
    assert float(ours) == pytest.approx(float(np.mean(expected)), abs=1e-4)


def test_huber_has_the_values_of_its_definition() -> None:
    """beta 8: 0.5 e^2 / 8 below 8, e - 4 above."""
    truth = Truth(torch.zeros(1, 1, 1, 1), torch.zeros(1, 2, 1, 1))
    assert float(huber(torch.full((1, 2, 1, 1), 4.0), truth, CONFIG)) == pytest.approx(1.0)
    assert float(huber(torch.full((1, 2, 1, 1), 20.0), truth, CONFIG)) == pytest.approx(16.0)


def test_vivid_has_the_values_of_its_definition() -> None:
    """True ab (30, 0): weight 1 + 30/15 = 3, target 34.5; predicting 30 is 4.5 off in one of two channels; divided by 35/20."""
    true = torch.tensor([30.0, 0.0]).view(1, 2, 1, 1)
    error = 3 * 0.5 * 4.5**2 / 8 / 2 * 20 / (30 + 5)
    missing = (1 + 0.37) * 34.5 - (1 + 0.37) * 30  # of a flat colour there is no spread
    missing -= 34.5 - 30
    value = vivid(true.clone(), Truth(torch.full((1, 1, 1, 1), 50.0), true), CONFIG)
    assert float(value) == pytest.approx(error + 0.02 * missing, rel=1e-3)
    unbalanced = replace(CONFIG, crop_balance=0.0)
    value = vivid(true.clone(), Truth(torch.full((1, 1, 1, 1), 50.0), true), unbalanced)
    assert float(value) == pytest.approx(error * 35 / 20 + 0.02 * missing, rel=1e-3)


def test_a_balanced_crop_counts_by_its_error_relative_to_its_chroma() -> None:
    """The same relative error: of the colourful crop it weighs eleven times as much unbalanced, and 3.4 times balanced."""

    def loss(chroma: float, balance: float) -> float:
        true = torch.tensor([chroma, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
        config = replace(CONFIG, crop_balance=balance, chroma_boost=1.0, colourfulness_weight=0.0, huber_beta=1e-3)
        return float(vivid(true * 0.5, Truth(torch.zeros(1, 1, 4, 4), true), config))

    assert loss(30, 0.0) / loss(6, 0.0) == pytest.approx(5 * (1 + 30 / 15) / (1 + 6 / 15), rel=1e-3)
    assert loss(30, 1.0) / loss(6, 1.0) == pytest.approx(5 * (1 + 30 / 15) / (1 + 6 / 15) * (6 + 5) / (30 + 5), rel=1e-3)


def test_a_pixel_never_weighs_more_than_5() -> None:
    true = torch.tensor([120.0, 0.0]).view(1, 2, 1, 1)
    value = vivid(true * 1.15 + torch.tensor([2.0, 0.0]).view(1, 2, 1, 1), Truth(torch.zeros(1, 1, 1, 1), true), CONFIG)
    assert float(value) == pytest.approx(5 * 0.5 * 2**2 / 8 / 2 * 20 / (120 + 5), rel=1e-4)


def test_vivid_asks_for_the_boosted_truth_and_huber_for_the_truth(truth: Truth) -> None:
    boosted = truth.ab * CONFIG.chroma_boost
    assert float(vivid(boosted, truth, CONFIG)) == pytest.approx(0, abs=1e-5)
    assert float(vivid(boosted, truth, CONFIG)) < float(vivid(truth.ab, truth, CONFIG))
    assert float(huber(truth.ab, truth, CONFIG)) == 0


def test_paper_is_0_at_the_truth_and_grows_with_the_error(truth: Truth) -> None:
    values = [float(paper(truth.ab * factor, truth, CONFIG)) for factor in (1.0, 0.8, 0.4, 0.0)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values == sorted(values)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - LEARNT_LOSSES.keys()))
def test_following_the_gradient_of_a_loss_brings_gray_near_the_truth(name: str, truth: Truth) -> None:
    ab = torch.zeros_like(truth.ab).requires_grad_()
    optimizer = torch.optim.Adam([ab], lr=1.0)
    for _ in range(120):
        optimizer.zero_grad()
        LOSSES[name](ab, truth, CONFIG).backward()
        optimizer.step()
    target = truth.ab * (CONFIG.chroma_boost if name == "vivid" else 1.0)
    before, after = float(target.abs().mean()), float((ab.detach() - target).abs().mean())
    assert after < 0.2 * before


def test_colourfulness_in_lab_is_spread_plus_a_share_of_the_mean() -> None:
    ab = torch.zeros(1, 2, 1, 2)
    ab[0, 0] = torch.tensor([10.0, 30.0])  # spread 10, mean 20
    assert float(ab_colourfulness(ab)) == pytest.approx(10 + 0.37 * 20, rel=1e-3)


def test_an_unknown_loss_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match="vivid, huber, paper"):
        loss_of_name("l1")


def test_features_find_wrong_hues_worse_than_pale_ones(truth: Truth) -> None:
    turned = torch.stack((-truth.ab[:, 1], truth.ab[:, 0]), 1)
    colours = [rgb_of_lab(truth.l, ab).clamp(0, 1) for ab in (truth.ab, truth.ab * 0.5, turned)]
    same, paler, wrong = (float(feature_distance(other, colours[0])) for other in colours)
    assert same == 0
    assert 0 < paler < wrong


def test_perceptual_is_vivid_plus_the_distance_of_features(truth: Truth) -> None:
    ab = truth.ab * 0.5
    config = replace(CONFIG, perceptual_weight=3.0)
    pictures = [rgb_of_lab(truth.l, colours).clamp(0, 1) for colours in (ab, truth.ab)]
    expected = float(vivid(ab, truth, config)) + 3 * float(feature_distance(*pictures))
    assert float(perceptual(ab, truth, config)) == pytest.approx(expected, rel=1e-5)
