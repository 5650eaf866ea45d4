from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage.color import rgb2lab

from icf_deploy.training.color_classes import annealed_mean, class_centres, class_shares, class_weights, memberships
from icf_deploy.training.photos import Photo

Pixels = npt.NDArray[np.uint8]


def test_the_classes_are_the_bins_that_srgb_colours_fall_into() -> None:
    """Held against scikit-image and the whole cube, in steps of 5 codes: what these miss are slivers at the gamut's edge."""
    codes = np.arange(0, 256, 5) / 255
    lab = rgb2lab(np.stack(np.meshgrid(codes, codes, codes), -1).reshape(1, -1, 3))
    hit = {tuple(found) for found in np.unique(np.round(lab[0, :, 1:] / 10), axis=0) * 10}
    classes = {tuple(centre) for centre in class_centres().tolist()}
    assert hit <= classes
    assert len(hit) == 260 and len(classes) == 261
    assert (0.0, 0.0) in classes and (-90.0, -100.0) not in classes


def test_a_colour_is_shared_among_the_five_nearest_classes_by_a_gaussian() -> None:
    """At a class's centre the four beside it are 10 units away: exp(-10^2 / (2 * 5^2)) = exp(-2) each."""
    centres = class_centres()
    index, share = memberships(torch.tensor([[[20.0, 30.0], [24.0, 31.0]]]), centres)
    assert index.shape == share.shape == (1, 2, 5)
    torch.testing.assert_close(share.sum(-1), torch.ones(1, 2))
    assert centres[index[0, :, 0]].tolist() == [[20.0, 30.0], [20.0, 30.0]]
    beside = float(np.exp(-2))
    torch.testing.assert_close(share[0, 0], torch.tensor([1.0, *[beside] * 4]) / (1 + 4 * beside))
    assert bool((share.diff(dim=-1) <= 0).all())
    mean = (share[0, 0, :, None] * centres[index[0, 0]]).sum(0)
    torch.testing.assert_close(mean, torch.tensor([20.0, 30.0]))


def a_photo(rgb: Pixels) -> Photo:
    return Photo("p", "p", rgb, np.zeros((16, 16), np.float32))


def test_shares_of_the_classes_are_those_of_the_photos_cells() -> None:
    """Left half gray, right half of a colour: half of the shares at each. The next photo counts as much, whatever its size."""
    halves = np.full((64, 128, 3), 128, np.uint8)
    halves[:, 64:] = 255, 0, 0
    shares = class_shares([a_photo(halves), a_photo(np.full((200, 100, 3), 77, np.uint8))])
    centres = class_centres()
    gray, near_gray = centres.norm(dim=1) == 0, centres.norm(dim=1) <= 10
    assert float(shares.sum()) == pytest.approx(1)
    assert float(shares[near_gray].sum()) == pytest.approx(0.75, abs=1e-6)
    assert float(shares[gray]) == pytest.approx(0.75 / (1 + 4 * np.exp(-2)), rel=1e-3)
    red = torch.tensor([80.1, 67.2])  # CIELAB of pure red
    assert float(shares[(centres - red).norm(dim=1) < 20].sum()) == pytest.approx(0.25, abs=1e-6)


def test_rare_classes_weigh_more_and_the_expected_weight_is_1(photo: Callable[[str], Pixels]) -> None:
    shares = class_shares([a_photo(photo(name)) for name in ("astronaut", "coffee", "flower")])
    weights = class_weights(shares)
    assert float((weights * shares).sum()) == pytest.approx(1, rel=1e-5)
    order = shares.argsort(descending=True)
    assert bool((weights[order].diff() >= 0).all())
    most, absent = float(shares.max()), 1 / len(shares)
    assert float(weights.max() / weights.min()) == pytest.approx((most + absent) / absent, rel=1e-4)  # lambda 1/2


def test_the_annealed_mean_leans_to_the_likelier_class() -> None:
    """0.8 and 0.2 to the power of 1 / 0.38 are 0.975 and 0.025 of their sum."""
    centres = torch.tensor([[0.0, 0.0], [10.0, -20.0]])
    found = annealed_mean(torch.tensor([[0.2, 0.8]]).log(), centres)
    share = 0.8 ** (1 / 0.38) / (0.8 ** (1 / 0.38) + 0.2 ** (1 / 0.38))
    torch.testing.assert_close(found, torch.tensor([[10.0 * share, -20.0 * share]]))
