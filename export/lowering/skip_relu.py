"""Apply ReLU to the skip only, where the other half of the concatenation is already non-negative.

1. relu([u, v]) = [relu(u), relu(v)], and relu(u) = u where u is a mean (the blur) of ReLU outputs.

Precondition: the upsampled half is DDColor's ShuffleUpsampling, which ends in ReLU, shuffle and a mean.
Saves: one pass over the larger half of three concatenations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.image_decoder import DDColorDecoderBlock, DDColorImageDecoder, ShuffleUpsampling
from icf_deploy.network.network import ColorizationNetwork


class SkipReluBlock(nn.Module):
    """DDColorDecoderBlock with its ReLU on the skip alone."""

    def __init__(self, block: DDColorDecoderBlock) -> None:
        super().__init__()
        self.shuf = block.shuf
        self.bn = block.bn
        self.conv = block.conv

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x [N,C,H,W], skip [N,S,2H,2W] -> [N,C',2H,2W]."""
        joined: Tensor = self.conv(torch.cat([self.shuf(x), F.relu(self.bn(skip))], dim=1))
        return joined


def narrow_relu(network: ColorizationNetwork, _: Context) -> Result:
    """Move the ReLU behind the concatenation onto the skip."""
    decoder = network.image_decoder
    if type(decoder) is not DDColorImageDecoder:
        return skipped("no ReLU stands on a concatenation")
    fitting = [
        (k, block)
        for k, block in enumerate(decoder.layers)
        if type(block) is DDColorDecoderBlock and type(block.shuf) is ShuffleUpsampling
    ]
    if len(fitting) < len(decoder.layers):
        return skipped("an upsampling does not end in a mean of ReLU outputs, so its half may be negative")
    for k, block in fitting:
        decoder.layers[k] = SkipReluBlock(block)
    return applied(counted(len(fitting), "concatenation"))
