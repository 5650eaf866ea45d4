"""Networks in which every weight matters, in float64, and photos for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from icf_deploy.export.lowering import NETWORK_REWRITES, Lowered, Outcome, lower
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.network.presets import DDColorConfig, build_ddcolor, build_edge

SMALL_DDCOLOR = DDColorConfig(
    depths=(1, 1, 2, 1), dims=(16, 32, 64, 96), channels=64, queries=12, blocks=4, color_channels=32, hidden=64, heads=4
)
SIZES = ((64, 64), (64, 96))
EXACT = 1e-10  # of the output's standard deviation, in float64
PHOTOS = ("astronaut", "coffee")  # a batch of two that differ

Difference = Callable[[ColorizationNetwork, ColorizationNetwork, tuple[int, int]], float]
Check = Callable[..., Lowered]


@torch.no_grad()
def randomize(network: ColorizationNetwork, seed: int = 1) -> ColorizationNetwork:
    """Statistics, affine maps, layer scales and biases that no fold can get wrong unnoticed; spectral norms stay."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor, centre: float, spread: float) -> Tensor:
        return centre + spread * torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.copy_(noise(module.running_mean, 0.0, 0.3))
            module.running_var.copy_(noise(module.running_var, 1.0, 0.2).abs() + 0.1)
        for name, parameter in module.named_parameters(recurse=False):
            if name == "gamma" or (name == "weight" and parameter.dim() == 1):
                parameter.copy_(noise(parameter, 1.0, 0.3))
            elif parameter.dim() == 1:
                parameter.copy_(noise(parameter, 0.0, 0.3))
    return network


@pytest.fixture
def networks() -> dict[str, ColorizationNetwork]:
    """A small network of each family, float64, evaluation mode, by the family's name. A test may change them."""
    torch.manual_seed(0)
    found = {"ddcolor": build_ddcolor(SMALL_DDCOLOR), "edge": build_edge()}
    return {name: randomize(network.double()).eval().requires_grad_(False) for name, network in found.items()}


@pytest.fixture
def ddcolor(networks: dict[str, ColorizationNetwork]) -> ColorizationNetwork:
    return networks["ddcolor"]


@pytest.fixture
def edge(networks: dict[str, ColorizationNetwork]) -> ColorizationNetwork:
    return networks["edge"]


@pytest.fixture(scope="session")
def gray(photo: Callable[[str], Any]) -> Callable[[tuple[int, int]], Tensor]:
    """gray(size) -> float64 [2,1,H,W] in 0..1: two different photos, from white frame to dark corner."""
    pictures = [cv2.cvtColor(photo(name), cv2.COLOR_RGB2GRAY) for name in PHOTOS]

    def of(size: tuple[int, int]) -> Tensor:
        height, width = size
        resized = [cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) for picture in pictures]
        return torch.from_numpy(np.stack(resized)[:, None].astype(np.float64) / 255)

    return of


@pytest.fixture
def difference(gray: Callable[[tuple[int, int]], Tensor]) -> Difference:
    """difference(a, b, size) -> the largest difference of their outputs, borders and all, over b's standard deviation."""

    def of(one: ColorizationNetwork, other: ColorizationNetwork, size: tuple[int, int]) -> float:
        with torch.no_grad():
            expected = other(gray(size))
            found = one(gray(size))
        assert found.shape == expected.shape
        assert not torch.equal(expected[0], expected[1])
        return float((found - expected).abs().max() / expected.std())

    return of


def everything_but(names: Collection[str]) -> list[str]:
    """The names of the other rewrites of networks."""
    known = [rewrite.name for rewrite in NETWORK_REWRITES]
    assert set(names) <= set(known), names
    return [name for name in known if name not in names]


def outcome_of(lowered: Lowered, name: str) -> Outcome:
    return next(outcome for outcome in lowered.outcomes if outcome.name == name)


@pytest.fixture
def applies_exactly(difference: Difference) -> Check:
    """applies_exactly(network, *before, name) lowers with these rewrites alone, for a square and another size.

    The last one must have been applied, and the network must be the same function as without any. Returns the second.
    """

    def check(network: ColorizationNetwork, *names: str, **arguments: Any) -> Lowered:
        for size in SIZES:
            lowered = lower(network, size, keep=everything_but(names), **arguments)
            outcome = outcome_of(lowered, names[-1])
            assert outcome.applied, outcome.reason
            assert difference(lowered.network, network, size) <= EXACT, (names, size)
        return lowered

    return check


@pytest.fixture
def leaves_alone(difference: Difference) -> Check:
    """leaves_alone(network, *before, name, reason=...): the last rewrite does not apply, says why, and changes nothing.

    Bit for bit the same as without it, so nothing was half done. Returns the network after it.
    """

    def check(network: ColorizationNetwork, *names: str, reason: str, **arguments: Any) -> Lowered:
        size = SIZES[-1]
        without = lower(network, size, keep=everything_but(names[:-1]), **arguments)
        lowered = lower(network, size, keep=everything_but(names), **arguments)
        outcome = outcome_of(lowered, names[-1])
        assert not outcome.applied
        assert re.search(reason, outcome.reason), outcome.reason
        assert difference(lowered.network, without.network, size) == 0
        return lowered

    return check
