"""Cut the expansion before the last shuffle into pieces and project each at once.

1. The outputs of a linear layer are independent, and so are the f^2 sub-pixels that the projection makes of them: with the
   sub-pixels in k groups, expand and project one group after the other and concatenate the results.

Precondition: `project-first` has been applied, and k divides f^2.
Saves: the expansion's output [T, f^2 C] exists one k-th at a time, and a piece may stay in the processor's cache.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icf_deploy.export.lowering.affine import linear
from icf_deploy.export.lowering.project_first import ProjectedFusion, project_onto
from icf_deploy.export.lowering.rewrite import Context, Result, applied, skipped
from icf_deploy.network.network import ColorizationNetwork

# Float32 bytes of one piece that are aimed at: what two cores of this decade keep in their second-level caches. Measured in
# docs/lowering.md: below it nothing is gained, above it time and memory are lost.
PIECE_BYTES = 4 << 20
FLOAT32_BYTES = 4
EXPANDED_STRIDE = 4  # the expansion runs at H/4 x W/4 in both families


class PiecewiseFusion(ProjectedFusion):
    """ProjectedFusion that expands and projects a group of sub-pixels at a time. expand: one Sequential per group."""

    def project(self, palette: Tensor, tokens: Tensor) -> Tensor:
        """palette [N,2,C], tokens [N,T,C0] -> [N,T,f*f,2]."""
        return torch.cat([project_onto(palette, piece(tokens)) for piece in self.expand], dim=2)


def split_expansion(network: ColorizationNetwork, context: Context) -> Result:
    """Cut the expansion into `context.pieces`, or into as many as bring a piece down to PIECE_BYTES."""
    fusion = network.fusion
    if type(fusion) is not ProjectedFusion:
        return skipped("the projection comes after the shuffle, so every piece would have to be kept")
    layer, *activation = list(fusion.expand)
    assert isinstance(layer, nn.Linear)
    subpixels = fusion.factor**2
    pieces = context.pieces or _pieces(context.size, layer.out_features, subpixels)
    if pieces == 1:
        return skipped("one piece was asked for" if context.pieces else "the expansion is small enough in one piece")
    if subpixels % pieces:
        return skipped(f"{pieces} pieces do not divide {subpixels} sub-pixels")
    weights = layer.weight.detach().chunk(pieces)
    biases = [None] * pieces if layer.bias is None else layer.bias.detach().chunk(pieces)
    expand = nn.Sequential(
        *(nn.Sequential(linear(weight, bias), *activation) for weight, bias in zip(weights, biases, strict=True))
    )
    network.fusion = PiecewiseFusion(
        expand, fusion.mix, fusion.on_gray, factor=fusion.factor, blur=fusion.blur, base=fusion.base
    )
    return applied(f"{pieces} pieces of {layer.out_features // pieces} channels")


def _pieces(size: tuple[int, int], channels: int, subpixels: int) -> int:
    """The fewest pieces of at most PIECE_BYTES, else one per sub-pixel."""
    tokens = size[0] * size[1] // EXPANDED_STRIDE**2
    whole = FLOAT32_BYTES * tokens * channels
    fitting = (n for n in range(1, subpixels) if subpixels % n == 0 and whole <= n * PIECE_BYTES)
    return next(fitting, subpixels)
