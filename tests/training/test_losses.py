from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage.metrics import structural_similarity

from icf_deploy.errors import UsageError
from icf_deploy.training.color import light_of_codes, pair_of_light
from icf_deploy.training.config import TrainConfig
from icf_deploy.training.losses import LOSSES, Truth, ab_colourfulness, huber, loss_of_name, paper, ssim, vivid

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
    """True ab (30, 0): weight 1 + 30/15 = 3, target 34.5; predicting 30 is 4.5 off in one of two channels."""
    true = torch.tensor([30.0, 0.0]).view(1, 2, 1, 1)
    error = 3 * 0.5 * 4.5**2 / 8 / 2
    missing = (1 + 0.37) * 34.5 - (1 + 0.37) * 30  # of a flat colour there is no spread
    missing -= 34.5 - 30
    value = vivid(true.clone(), Truth(torch.full((1, 1, 1, 1), 50.0), true), CONFIG)
    assert float(value) == pytest.approx(error + 0.02 * missing, rel=1e-3)


def test_a_pixel_never_weighs_more_than_5() -> None:
    true = torch.tensor([120.0, 0.0]).view(1, 2, 1, 1)
    value = vivid(true * 1.15 + torch.tensor([2.0, 0.0]).view(1, 2, 1, 1), Truth(torch.zeros(1, 1, 1, 1), true), CONFIG)
    assert float(value) == pytest.approx(5 * 0.5 * 2**2 / 8 / 2, rel=1e-4)


def test_vivid_asks_for_the_boosted_truth_and_huber_for_the_truth(truth: Truth) -> None:
    boosted = truth.ab * CONFIG.chroma_boost
    assert float(vivid(boosted, truth, CONFIG)) == pytest.approx(0, abs=1e-5)
    assert float(vivid(boosted, truth, CONFIG)) < float(vivid(truth.ab, truth, CONFIG))
    assert float(huber(truth.ab, truth, CONFIG)) == 0


def test_paper_is_0_at_the_truth_and_grows_with_the_error(truth: Truth) -> None:
    values = [float(paper(truth.ab * factor, truth, CONFIG)) for factor in (1.0, 0.8, 0.4, 0.0)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values == sorted(values)


@pytest.mark.parametrize("name", sorted(LOSSES))
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
