"""gamma goes into pwconv2, unless a block is not ConvNeXt's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from icf_deploy.export.lowering.lean_backbone import LeanConvNeXt, blocks
from icf_deploy.network.backbones.convnext import ConvNeXtBlock
from icf_deploy.network.network import ColorizationNetwork


def test_every_block_loses_its_gamma(ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    backbone = applies_exactly(ddcolor, "layer-scale").network.backbone
    assert isinstance(backbone, LeanConvNeXt)
    assert [block.gamma for block in blocks(backbone)] == [None] * 5


def test_a_block_with_something_between_is_left_alone(ddcolor: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    class SquashedBlock(ConvNeXtBlock):
        def forward(self, x: Tensor) -> Tensor:
            y = self.pwconv2(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1))))
            return x + (self.gamma * torch.tanh(y)).permute(0, 3, 1, 2)

    ddcolor.backbone.get_submodule("stages.2.1").__class__ = SquashedBlock
    leaves_alone(ddcolor, "layer-scale", reason="no layer scale")


def test_another_backbone_is_left_alone(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(edge, "layer-scale", reason="no layer scale")
