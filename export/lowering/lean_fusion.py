"""The fusion of both families in one form whose parts rewrites can replace one by one.

    features -> expand (1x1 convolution, activation) -> PixelShuffle -> blur (DDColor) -> F [N,C,h,w]
    ab = (mix @ E + base) . F + gray term

`mix` [2,Q] is the part of the 1x1 fusion convolution that stands on the query maps; `base` [2,C] is the part of `icf-edge`'s
palette that does not depend on the photo, absent in DDColor.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icf_deploy.export.lowering.affine import pointwise
from icf_deploy.export.lowering.lean_backbone import ImageNetNormalize
from icf_deploy.network.fusion import RGB_CHANNELS, DDColorFusion, EdgeFusion
from icf_deploy.network.layers import SpectralNormConv2d, blurred_pixel_shuffle
from icf_deploy.network.network import ColorizationNetwork


class PooledGray(nn.Module):
    """gray [N,1,H,W] -> weight * mean over stride x stride + bias, [N,2,H/stride,W/stride]; EdgeFusion's gray term."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach())
        self.bias = nn.Parameter(bias.detach())
        self.stride = stride

    def forward(self, gray: Tensor) -> Tensor:
        """[N,1,H,W] -> [N,2,H/stride,W/stride]."""
        if self.stride > 1:
            gray = F.avg_pool2d(gray, self.stride)
        return gray * self.weight[:, None, None] + self.bias[:, None, None]


class PaletteFusion(nn.Module):
    """ab = (mix @ E + base) . F + gray term: the palette first, so that a map per query never exists.

    expand: 1x1 convolution and activation. on_gray: gray [N,1,H,W] -> [N,2,h,w].
    """

    def __init__(
        self, expand: nn.Sequential, mix: Tensor, on_gray: nn.Module, *, factor: int, blur: bool, base: Tensor | None = None
    ) -> None:
        super().__init__()
        self.expand = expand
        self.mix = nn.Parameter(mix.detach())
        self.base = None if base is None else nn.Parameter(base.detach())
        self.on_gray = on_gray
        self.factor = factor
        self.blur = blur

    def shuffle(self, x: Tensor) -> Tensor:
        """PixelShuffle by `factor`, then the blur where the family has one: [N,C*f*f,h,w] -> [N,C,h*f,w*f]."""
        return blurred_pixel_shuffle(x, self.factor) if self.blur else F.pixel_shuffle(x, self.factor)

    def palette(self, embeddings: Tensor) -> Tensor:
        """E [N,Q,C] -> palette [N,2,C]. The weight stands on the right, see EdgeFusion.palette."""
        palette = F.linear(embeddings.transpose(1, 2), self.mix).transpose(1, 2)
        return palette if self.base is None else palette + self.base

    def paint(self, palette: Tensor, features: Tensor, gray: Tensor) -> Tensor:
        """palette [N,2,C], features [N,C0,H/4,W/4], gray [N,1,H,W] -> ab [N,2,h,w]."""
        fine = self.shuffle(self.expand(features))
        painted = (palette @ fine.flatten(2)).unflatten(2, fine.shape[-2:])
        return cast("Tensor", painted + self.on_gray(gray))

    def forward(self, embeddings: Tensor, features: Tensor, gray: Tensor) -> Tensor:
        """E [N,Q,C], features [N,C0,H/4,W/4], gray [N,1,H,W] -> ab [N,2,h,w]."""
        return self.paint(self.palette(embeddings), features, gray)


class MapsFusion(PaletteFusion):
    """The same, written as DDColor writes it: one map per query, concatenated with the gray channels, then the convolution.

    on_gray: a Sequential of what makes the gray channels and the 1x1 convolution on them, whose bias is the fusion's.
    """

    def forward(self, embeddings: Tensor, features: Tensor, gray: Tensor) -> Tensor:
        """E [N,Q,C], features [N,C0,H/4,W/4], gray [N,1,H,W] -> ab [N,2,h,w]."""
        channels, conv = gray_term(self)
        maps = torch.einsum("bqc,bchw->bqhw", embeddings, self.shuffle(self.expand(features)))
        weight = torch.cat([self.mix[:, :, None, None], conv.weight], dim=1)
        return F.conv2d(torch.cat([maps, channels(gray)], dim=1), weight, conv.bias)


def gray_term(fusion: PaletteFusion) -> tuple[nn.Module, nn.Conv2d]:
    """What makes the gray channels, and the convolution on them, of a fusion that came from DDColor."""
    assert isinstance(fusion.on_gray, nn.Sequential)
    conv = fusion.on_gray[1]
    assert isinstance(conv, nn.Conv2d)
    return fusion.on_gray[0], conv


def fold_ddcolor_fusion(fusion: DDColorFusion) -> MapsFusion:
    """DDColor's fusion with its two spectral norms divided out, still with a map per query."""
    last = fusion.last_shuf.conv[0]
    assert isinstance(last, SpectralNormConv2d)
    refine = fusion.refine
    weight = refine.effective_weight().detach()
    bias = None if refine.bias is None else refine.bias.detach()
    on_gray = nn.Sequential(ImageNetNormalize(fusion.mean, fusion.std), pointwise(weight[:, -RGB_CHANNELS:, 0, 0], bias))
    bias = None if last.bias is None else last.bias.detach()
    expand = nn.Sequential(pointwise(last.effective_weight().detach()[:, :, 0, 0], bias), nn.ReLU())
    mix = weight[:, :-RGB_CHANNELS, 0, 0]
    return MapsFusion(expand, mix, on_gray, factor=fusion.last_shuf.factor, blur=True)


def edge_fusion(fusion: EdgeFusion) -> PaletteFusion:
    """`icf-edge`'s fusion, which is already written with a palette, in this form."""
    on_gray = PooledGray(fusion.gray_weight, fusion.bias, fusion.stride)
    return PaletteFusion(fusion.expand, fusion.mix, on_gray, factor=fusion.factor, blur=False, base=fusion.base)


def lean_fusion(network: ColorizationNetwork) -> PaletteFusion | None:
    """The network's fusion in this form where it is so already or is `icf-edge`'s; None for any other."""
    fusion = network.fusion
    if type(fusion) is EdgeFusion:
        return edge_fusion(fusion)
    return fusion if isinstance(fusion, PaletteFusion) else None
