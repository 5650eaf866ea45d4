"""Write a channel-first LayerNorm as the one operator that it is.

1. Mean, difference, square, mean, root, division, weight and bias over the channels of [N,C,H,W] are LayerNorm over the last
   axis of [N,H,W,C] between two permutations.

Precondition: the backbone is ConvNeXt.
Saves: eight nodes per LayerNorm, with reductions over a strided axis, become three, which engines merge with the permutations
next to them. Keeping the whole residual stream as [N,H,W,C] instead was tried and is no faster.
"""

from __future__ import annotations

from icf_deploy.export.lowering.lean_backbone import ChannelNorm, has_convnext, lean_backbone
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.network import ColorizationNetwork


def fuse_layer_norm(network: ColorizationNetwork, _: Context) -> Result:
    """Write every channel-first LayerNorm as one operator."""
    if not has_convnext(network):
        return skipped("the backbone has no LayerNorm over channels")
    backbone = lean_backbone(network)
    norms = [module for module in backbone.modules() if isinstance(module, ChannelNorm) and not module.channels_last]
    for norm in norms:
        norm.fused = True
    return applied(counted(len(norms), "channel-first LayerNorm"))
