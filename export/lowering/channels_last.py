"""Keep ConvNeXt's residual stream as [N,H,W,C].

1. A LayerNorm over channels, a pointwise layer, a layer scale and a residual sum act on each pixel alone: they commute with
   the permutation of [N,C,H,W] to [N,H,W,C]. So the stream can stay in that order, where a LayerNorm over the last axis is one
   operator, and only the convolutions see [N,C,H,W].

Precondition: the backbone is ConvNeXt.
Saves: the written-out channel-first LayerNorms (eight nodes each, reductions over a strided axis) become one node each.
"""

from __future__ import annotations

from icf_deploy.export.lowering.lean_backbone import ChannelNorm, LeanConvNeXt, blocks, lean_backbone
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.backbones.convnext import ConvNeXt
from icf_deploy.network.network import ColorizationNetwork


def order_channels_last(network: ColorizationNetwork, _: Context) -> Result:
    """Turn the residual stream to [N,H,W,C]."""
    if not isinstance(network.backbone, ConvNeXt | LeanConvNeXt):
        return skipped("the backbone has no LayerNorm over channels")
    backbone = lean_backbone(network)
    assert backbone is not None
    backbone.channels_last = True
    turned = 0
    for block in blocks(backbone):
        block.channels_last = True
    for norm in backbone.modules():
        if isinstance(norm, ChannelNorm) and not norm.channels_last:
            norm.channels_last = True
            turned += 1
    return applied(counted(turned, "channel-first LayerNorm"))
