"""Fusion: dot product of colour embeddings and image features, then a 1x1 convolution; it owns the last upsampling.

Nothing non-linear stands between embeddings and ab, so embeddings E [Q,C] and the convolution Wr [2,Q] are one matrix, the
palette Wr @ E [2,C]: the whole colour decision about a photo.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icf_deploy.network.backbones.convnext import IMAGENET_MEAN, IMAGENET_STD
from icf_deploy.network.image_decoder import conv_norm
from icf_deploy.network.layers import SpectralNormConv2d, blurred_pixel_shuffle

RGB_CHANNELS = 3


class LastUpsampling(nn.Module):
    """1x1 convolution to 16 times the channels, ReLU, blurred PixelShuffle(4). Keys below DDColor's `decoder.last_shuf.`."""

    factor = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(SpectralNormConv2d(channels, channels * self.factor**2, 1, bias=True))

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H/4,W/4] -> [N,C,H,W]."""
        return blurred_pixel_shuffle(F.relu(self.conv(x)), self.factor)


class DDColorFusion(nn.Module):
    """One map per query, concatenated with the normalized RGB input, through a 1x1 convolution.

    `forward` computes it as the original does; `palette` and `paint` in the order that never makes the maps. Both are the
    same function.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, queries: int, out_channels: int = 2) -> None:
        super().__init__()
        self.last_shuf = LastUpsampling(channels)
        self.refine_net = nn.Sequential(nn.Sequential(SpectralNormConv2d(queries + RGB_CHANNELS, out_channels, 1, bias=True)))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1))

    @property
    def refine(self) -> SpectralNormConv2d:
        """The 1x1 convolution [2, Q + 3]."""
        conv = self.refine_net.get_submodule("0.0")
        assert isinstance(conv, SpectralNormConv2d)
        return conv

    def _normalized(self, gray: Tensor) -> Tensor:
        return (gray.expand(-1, RGB_CHANNELS, -1, -1) - self.mean) / self.std

    def forward(self, embeddings: Tensor, features: Tensor, gray: Tensor) -> Tensor:
        """embeddings [N,Q,C], features [N,C,H/4,W/4], gray [N,1,H,W] -> ab [N,2,H,W]."""
        maps = torch.einsum("bqc,bchw->bqhw", embeddings, self.last_shuf(features))
        ab: Tensor = self.refine_net(torch.cat([maps, self._normalized(gray)], dim=1))
        return ab

    def palette(self, embeddings: Tensor) -> Tensor:
        """embeddings [N,Q,C] -> palette [N,2,C]."""
        weight = self.refine.effective_weight()[:, : embeddings.shape[1], 0, 0]
        return weight @ embeddings

    def paint(self, palette: Tensor, features: Tensor, gray: Tensor) -> Tensor:
        """palette [N,2,C], features [N,C,H/4,W/4], gray [N,1,H,W] -> ab [N,2,H,W]."""
        refine = self.refine
        on_gray = F.conv2d(self._normalized(gray), refine.effective_weight()[:, -RGB_CHANNELS:], refine.bias)
        return torch.einsum("boc,bchw->bohw", palette, self.last_shuf(features)) + on_gray


class EdgeFusion(nn.Module):
    """The same for `icf-edge`: sub-pixel upsampling by 4/stride, palette, and a linear term in gray.

    features [N,C0,H/4,W/4] become C channels at H/stride by a 1x1 convolution, BatchNorm, ReLU6 and PixelShuffle.
    """

    def __init__(self, in_channels: int, channels: int, queries: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.factor = 4 // stride
        self.expand = conv_norm(in_channels, channels * self.factor**2, 1)
        self.mix = nn.Parameter(torch.randn(2, queries) / queries**0.5)
        self.center_mix()
        # A palette that does not depend on the photo: what all photos have in common need not come from the queries.
        self.base = nn.Parameter(torch.randn(2, channels) / channels**0.5)
        self.gray_weight = nn.Parameter(torch.zeros(2))
        self.bias = nn.Parameter(torch.zeros(2))

    def palette(self, embeddings: Tensor) -> Tensor:
        """embeddings [N,Q,C] -> palette [N,2,C].

        The weight stands on the right: OpenVINO 2026.4 refuses an int8 product whose constant is its left operand.
        """
        return F.linear(embeddings.transpose(1, 2), self.mix).transpose(1, 2) + self.base

    def paint(self, palette: Tensor, features: Tensor, gray: Tensor) -> Tensor:
        """palette [N,2,C], features [N,C0,H/4,W/4], gray [N,1,H,W] -> ab [N,2,H/stride,W/stride]."""
        fine = F.pixel_shuffle(self.expand(features), self.factor)
        if self.stride > 1:
            gray = F.avg_pool2d(gray, self.stride)
        on_gray = gray * self.gray_weight[:, None, None] + self.bias[:, None, None]
        batch, _, height, width = fine.shape
        return (palette @ fine.flatten(2)).reshape(batch, 2, height, width) + on_gray

    def forward(self, embeddings: Tensor, features: Tensor, gray: Tensor) -> Tensor:
        """embeddings [N,Q,C], features [N,C0,H/4,W/4], gray [N,1,H,W] -> ab [N,2,H/stride,W/stride]."""
        return self.paint(self.palette(embeddings), features, gray)

    @torch.no_grad()
    def center_mix(self) -> None:
        """Make both rows of `mix` sum to zero, so that what the embeddings of all queries share cancels.

        Training otherwise grows just that, until the queries are alike and the palette has rank one: every photo then gets
        the colours of one line through gray, blue to orange.
        """
        self.mix.sub_(self.mix.mean(dim=1, keepdim=True))

    @torch.no_grad()
    def scale_chroma(self, gain: float) -> None:
        """Multiply every ab that comes out by `gain`, exactly: the fusion is linear in these four."""
        for parameter in (self.mix, self.base, self.gray_weight, self.bias):
            parameter.mul_(gain)
