"""Merge the LayerNorm of a skip with the BatchNorm that follows it in DDColor's image decoder.

1. LayerNorm ends in y = g n + b per channel, BatchNorm is s y + t: together (s g) n + (s b + t), one affine map, which the
   LayerNorm carries.

Precondition: the LayerNorm's output goes nowhere but into that BatchNorm (true of the three finer skips), the LayerNorm has
its weight and bias, and the BatchNorm uses stored statistics.
Saves: three BatchNorms.
"""

from __future__ import annotations

from torch import nn

from icf_deploy.export.lowering.affine import batch_norm_affine, is_frozen
from icf_deploy.export.lowering.lean_backbone import ChannelNorm, channel_norm, has_convnext, lean_backbone
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.image_decoder import DDColorDecoderBlock, DDColorImageDecoder
from icf_deploy.network.network import ColorizationNetwork


def merge_skip_norm(network: ColorizationNetwork, _: Context) -> Result:
    """Fold the three skip BatchNorms into the LayerNorms before them."""
    decoder = network.image_decoder
    if type(decoder) is not DDColorImageDecoder or not has_convnext(network):
        return skipped("no skip has a LayerNorm followed by a BatchNorm")
    found = [
        block for block in decoder.layers if isinstance(block, DDColorDecoderBlock) and isinstance(block.bn, nn.BatchNorm2d)
    ]
    if not found or len(found) != len(decoder.layers):
        return skipped("a skip has no BatchNorm")
    if not all(is_frozen(block.bn) for block in found):
        return skipped("a skip's BatchNorm computes its statistics from the batch")
    backbone = lean_backbone(network)
    for block, module in zip(found, reversed(list(backbone.norms)[: len(found)]), strict=True):
        norm: ChannelNorm = channel_norm(module)
        assert norm.weight is not None and norm.bias is not None
        scale, shift = batch_norm_affine(block.bn)
        norm.set_affine(scale * norm.weight, scale * norm.bias + shift)
        block.bn = nn.Identity()  # type: ignore[assignment]  # the same place, nothing to compute
    return applied(counted(len(found), "skip"))
