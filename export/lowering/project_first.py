"""Project onto ab before the pixel shuffle and the blur instead of after.

1. F = blur(shuffle(relu(z))) with z [C f^2, h, w]. Shuffle moves pixels of each channel, the blur averages pixels of each
   channel, its replicate padding copies them: each acts on every channel alike, and the palette P [2,C] mixes channels only.
   So P F = blur(shuffle(P relu(z))), P applied to each sub-pixel: two channels are shuffled and blurred instead of C.
2. The 1x1 expansion is written as a product of tokens [N,T,C0]. Its output [N,T,f^2 C], read as [N,T f^2,C], is what the
   palette multiplies: no tensor of that size is permuted.

Precondition: the activation comes before the shuffle, nothing non-linear stands between palette and ab, and the palette is
multiplied in (rewrite `palette`, or `icf-edge`).
Saves: C - 2 of C channels at full resolution, in every node behind the expansion.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from icf_deploy.export.lowering.affine import linear
from icf_deploy.export.lowering.lean_fusion import PaletteFusion, lean_fusion
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.export.lowering.tokens import to_tokens
from icf_deploy.network.fusion import EdgeFusion
from icf_deploy.network.network import ColorizationNetwork


class ProjectedFusion(PaletteFusion):
    """PaletteFusion that projects onto two channels per sub-pixel before it shuffles.

    expand: a linear layer and activation on tokens; outputs in the order (sub-pixel, channel).
    """

    def project(self, palette: Tensor, tokens: Tensor) -> Tensor:
        """palette [N,2,C], tokens [N,T,C0] -> [N,T,f*f,2]."""
        return project_onto(palette, self.expand(tokens))

    def paint(self, palette: Tensor, features: Tensor, gray: Tensor) -> Tensor:
        """palette [N,2,C], features [N,C0,H/4,W/4], gray [N,1,H,W] -> ab [N,2,h,w]."""
        size = features.shape[-2:]
        projected = self.project(palette, to_tokens(features))
        coarse = projected.permute(0, 3, 2, 1).unflatten(3, size).flatten(1, 2)  # [N,2*f*f,H/4,W/4], as PixelShuffle wants
        return cast("Tensor", self.shuffle(coarse) + self.on_gray(gray))


def project_onto(palette: Tensor, expanded: Tensor) -> Tensor:
    """palette [N,2,C], expanded [N,T,g*C] in the order (sub-pixel, channel) -> [N,T,g,2]."""
    channels = palette.shape[2]
    subpixels = expanded.shape[2] // channels
    flat = expanded.unflatten(2, (subpixels, channels)).flatten(1, 2)
    projected: Tensor = (flat @ palette.transpose(1, 2)).unflatten(1, (-1, subpixels))
    return projected


def project_before_shuffle(network: ColorizationNetwork, _: Context) -> Result:
    """Exchange projection and shuffle."""
    fusion = lean_fusion(network)
    if fusion is None or (type(fusion) is not PaletteFusion and type(network.fusion) is not EdgeFusion):
        return skipped("the palette is not multiplied in, so there is nothing to exchange the shuffle with")
    if fusion.factor == 1:
        return skipped("the fusion does not shuffle")
    conv = fusion.expand[0]
    between = [layer for layer in list(fusion.expand)[1:] if not isinstance(layer, nn.Identity)]
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1) or not all(map(_is_elementwise, between)):
        return skipped("the expansion is not a 1x1 convolution and an activation")
    subpixels = fusion.factor**2
    weight = _subpixels_first(conv.weight.detach()[:, :, 0, 0], subpixels)
    bias = None if conv.bias is None else _subpixels_first(conv.bias.detach(), subpixels)
    expand = nn.Sequential(linear(weight, bias), *between)
    network.fusion = ProjectedFusion(
        expand, fusion.mix, fusion.on_gray, factor=fusion.factor, blur=fusion.blur, base=fusion.base
    )
    return applied(f"{counted(conv.out_channels // subpixels, 'channel')} at full resolution become 2")


def _is_elementwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.ReLU | nn.ReLU6)


def _subpixels_first(x: Tensor, subpixels: int) -> Tensor:
    """Rows in PixelShuffle's order (channel, sub-pixel) -> (sub-pixel, channel)."""
    reordered: Tensor = x.unflatten(0, (-1, subpixels)).transpose(0, 1).flatten(0, 1).contiguous()
    return reordered
