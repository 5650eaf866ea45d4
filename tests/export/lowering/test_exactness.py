"""Every rewrite alone, and all together, leave the network's function as it is: in float64, borders included."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from icf_deploy.errors import UsageError
from icf_deploy.export.lowering import NETWORK_REWRITES, REWRITES, lower
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.network.presets import DDColorConfig, build_ddcolor, build_edge

SMALL = DDColorConfig((1, 1, 2, 1), (16, 32, 64, 96), channels=64, queries=12, blocks=4, color_channels=64, hidden=96, heads=2)
FAMILIES = {"ddcolor": lambda: build_ddcolor(SMALL), "icf-edge": build_edge}
SIZES = ((64, 64), (64, 96))
EXACT = 1e-10  # of the output's standard deviation
NAMES = tuple(rewrite.name for rewrite in NETWORK_REWRITES)


@functools.cache
def _network(family: str) -> ColorizationNetwork:
    """With every statistic, scale and bias away from its initial value, so that a fold that forgets one is seen."""
    torch.manual_seed(5)
    network = FAMILIES[family]().double()
    random = torch.Generator().manual_seed(6)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=random, dtype=torch.float64)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.copy_(0.3 * noise(module.running_mean))
            module.running_var.copy_(1 + 0.5 * noise(module.running_var).abs())
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            centre = 1.0 if name.endswith("weight") else 0.0
            parameter.data.copy_(centre + 0.3 * noise(parameter))
        if name.endswith("gamma"):
            parameter.data.copy_(0.5 + 0.2 * noise(parameter))
    return network.eval()


def _gray(size: tuple[int, int]) -> Tensor:
    return torch.rand(2, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


@functools.cache
def _expected(family: str, size: tuple[int, int]) -> Tensor:
    with torch.no_grad():
        ab: Tensor = _network(family)(_gray(size))
    return ab


def _distance(family: str, size: tuple[int, int], lowered: ColorizationNetwork) -> float:
    expected = _expected(family, size)
    with torch.no_grad():
        return float((lowered(_gray(size)) - expected).abs().max() / expected.std())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_rewrite_alone_is_exact_or_says_why_it_does_not_apply(family: str, name: str) -> None:
    others = [rewrite for rewrite in REWRITES if rewrite != name]
    for size in SIZES:
        lowered = lower(_network(family), size, keep=others)
        outcome = next(found for found in lowered.outcomes if found.name == name)
        assert outcome.reason
        assert _distance(family, size, lowered.network) < EXACT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_but_one_are_exact(family: str, name: str) -> None:
    """Leaving any one out must not break the preconditions of the others."""
    size = SIZES[1]
    assert _distance(family, size, lower(_network(family), size, keep=[name]).network) < EXACT


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_together_are_exact_and_so_are_the_three_steps(family: str, size: tuple[int, int]) -> None:
    lowered = lower(_network(family), size).network
    assert _distance(family, size, lowered) < EXACT
    gray, expected = _gray(size), _expected(family, size)
    with torch.no_grad():
        features, levels = lowered.features(gray)
        stepwise = lowered.paint(lowered.palette(levels), features, gray)
    assert float((stepwise - expected).abs().max() / expected.std()) < EXACT


def test_every_rewrite_applies_to_one_family_at_least() -> None:
    applied = {
        outcome.name
        for family in FAMILIES
        for outcome in lower(_network(family), SIZES[0], pieces=4).outcomes
        if outcome.applied
    }
    assert applied == set(NAMES)


def test_the_network_that_is_lowered_is_left_alone() -> None:
    before = {key: value.clone() for key, value in _network("ddcolor").state_dict().items()}
    lower(_network("ddcolor"), SIZES[0])
    after = _network("ddcolor").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="palette"):
        lower(_network("ddcolor"), SIZES[0], keep=["palete"])
