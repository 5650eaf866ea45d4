"""Collapse the fusion to the palette.

1. One map per query and a 1x1 convolution over the maps: sum_q Wr[o,q] sum_c E[q,c] F[c,p] = sum_c (Wr E)[o,c] F[c,p]. The
   product Wr E is [2,C] per photo, the palette; the Q x H x W maps are never made.

Precondition: nothing stands between the dot product and the fusion convolution, and that convolution is a plain one.
Saves: the largest product of the network (Q C H W multiplications become 2 C H W), a tensor of Q x H x W, a concatenation.
"""

from __future__ import annotations

from icf_deploy.export.lowering.lean_fusion import MapsFusion, PaletteFusion
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.fusion import DDColorFusion, EdgeFusion
from icf_deploy.network.network import ColorizationNetwork


def collapse_to_palette(network: ColorizationNetwork, _: Context) -> Result:
    """Multiply embeddings and fusion weights first."""
    fusion = network.fusion
    if type(fusion) is EdgeFusion or type(fusion) is PaletteFusion:
        return skipped("the fusion already multiplies with a palette")
    if type(fusion) is DDColorFusion:
        return skipped("the fusion convolution still has a spectral norm")
    if type(fusion) is not MapsFusion:
        return skipped(f"{type(fusion).__name__} is not known to be linear between embeddings and ab")
    collapsed = PaletteFusion(fusion.expand, fusion.mix, fusion.on_gray, factor=fusion.factor, blur=fusion.blur)
    network.fusion = collapsed
    return applied(counted(fusion.mix.shape[1], "query map"))
