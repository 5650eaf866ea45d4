"""ReLU on the skip alone, where the other half is non-negative by construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor
from torch.nn import functional

from icf_deploy.export.lowering.skip_relu import SkipReluBlock
from icf_deploy.network.image_decoder import ShuffleUpsampling
from icf_deploy.network.layers import blurred_pixel_shuffle
from icf_deploy.network.network import ColorizationNetwork


@pytest.mark.parametrize("before", [(), ("spectral-norm", "batch-norm", "skip-norm", "palette", "batch-norm-forward")])
def test_the_concatenations_of_ddcolor(
    ddcolor: ColorizationNetwork, before: tuple[str, ...], applies_exactly: Callable[..., Any]
) -> None:
    lowered = applies_exactly(ddcolor, *before, "skip-relu").network
    assert all(isinstance(block, SkipReluBlock) for block in lowered.image_decoder.layers)


def test_an_upsampling_that_may_be_negative_keeps_its_relu(
    ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]
) -> None:
    class LeakyUpsampling(ShuffleUpsampling):
        def forward(self, x: Tensor) -> Tensor:
            return blurred_pixel_shuffle(functional.leaky_relu(self.conv(x)), 2)

    ddcolor.image_decoder.get_submodule("layers.1.shuf").__class__ = LeakyUpsampling
    leaves_alone(ddcolor, "skip-relu", reason="its half may be negative")


def test_another_family_is_left_alone(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(edge, "skip-relu", reason="no ReLU stands on a concatenation")
