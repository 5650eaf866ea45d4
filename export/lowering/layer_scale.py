"""Fold ConvNeXt's layer scale into the layer before it.

1. gamma * (W x + b) = (diag(gamma) W) x + gamma b: pwconv2 carries it.

Precondition: the block is ConvNeXt's, where nothing stands between pwconv2 and gamma.
Saves: a multiplication per element of each block's residual branch.
"""

from __future__ import annotations

from icf_deploy.export.lowering.affine import fold_output
from icf_deploy.export.lowering.lean_backbone import blocks, has_convnext, lean_backbone
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.network import ColorizationNetwork


def fold_layer_scale(network: ColorizationNetwork, _: Context) -> Result:
    """Fold gamma of every block into pwconv2."""
    if not has_convnext(network):
        return skipped("the backbone has no layer scale")
    backbone = lean_backbone(network)
    scaled = [block for block in blocks(backbone) if block.gamma is not None]
    if not scaled:
        return skipped("no block has a layer scale")
    for block in scaled:
        assert block.gamma is not None
        fold_output(block.pwconv2, block.gamma.detach())
        block.gamma = None
    return applied(counted(len(scaled), "block"))
