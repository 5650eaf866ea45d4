"""ConvNeXt as DDColor uses it (Liu et al., "A ConvNet for the 2020s", CVPR 2022).

Parameter names are those of the official DDColor files below `encoder.arch.`.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ChannelFirstLayerNorm(nn.Module):
    """LayerNorm over the channels of [N,C,H,W], written out as in the original so that a plain export equals the original's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C,H,W]."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        normalized: Tensor = (x - mean) / torch.sqrt(variance + LAYER_NORM_EPS)
        scaled: Tensor = self.weight[:, None, None] * normalized + self.bias[:, None, None]
        return scaled


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, LayerNorm, two pointwise layers with GELU, layer scale, residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), LAYER_NORM_EPS))

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C,H,W]."""
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(y))))
        out: Tensor = x + (self.gamma * y).permute(0, 3, 1, 2)
        return out


class ConvNeXt(nn.Module):
    """gray [N,1,H,W] -> four normalized skips at H/4, H/8, H/16, H/32 with `dims` channels."""

    mean: Tensor
    std: Tensor

    def __init__(self, depths: tuple[int, ...], dims: tuple[int, ...]) -> None:
        super().__init__()
        self.depths = depths
        self.dims = dims
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1))
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), ChannelFirstLayerNorm(dims[0]))
        down = [nn.Sequential(ChannelFirstLayerNorm(a), nn.Conv2d(a, b, 2, stride=2)) for a, b in itertools.pairwise(dims)]
        self.downsample_layers = nn.ModuleList([stem, *down])
        self.stages = nn.ModuleList(
            [nn.Sequential(*(ConvNeXtBlock(c) for _ in range(n))) for n, c in zip(depths, dims, strict=True)]
        )
        for i, c in enumerate(dims):
            self.add_module(f"norm{i}", ChannelFirstLayerNorm(c))
        # In the official files, computed by the original and thrown away: kept for strict loading, never run.
        self.norm = nn.LayerNorm(dims[-1], eps=LAYER_NORM_EPS)

    def normalize(self, gray: Tensor) -> Tensor:
        """gray [N,1,H,W] in 0..1 -> ImageNet-normalized RGB [N,3,H,W] with R = G = B before normalization."""
        return (gray.expand(-1, 3, -1, -1) - self.mean) / self.std

    def forward(self, gray: Tensor) -> tuple[Tensor, ...]:
        """gray [N,1,H,W] -> skips, finest first."""
        x = self.normalize(gray)
        skips = []
        for i, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(down(x))
            skips.append(self.get_submodule(f"norm{i}")(x))
        return tuple(skips)
