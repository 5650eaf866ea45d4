"""Image decoders: skips in, (features, levels) out. Features stop before the last upsampling, which the fusion owns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icf_deploy.network.layers import SpectralNormConv2d, blurred_pixel_shuffle

Features = tuple[Tensor, tuple[Tensor, ...]]


class ShuffleUpsampling(nn.Module):
    """1x1 convolution to 4 times the channels, BatchNorm, ReLU, blurred PixelShuffle(2). Keys below DDColor's `shuf.`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            SpectralNormConv2d(in_channels, 4 * out_channels, 1, bias=False), nn.BatchNorm2d(4 * out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C',2H,2W]."""
        return blurred_pixel_shuffle(F.relu(self.conv(x)), 2)


class DDColorDecoderBlock(nn.Module):
    """Upsample, concatenate the normalized skip, 3x3 convolution, ReLU, then BatchNorm. Keys below `decoder.layers.K.`."""

    def __init__(self, in_channels: int, skip_channels: int, up_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shuf = ShuffleUpsampling(in_channels, up_channels)
        self.bn = nn.BatchNorm2d(skip_channels)
        self.conv = nn.Sequential(
            SpectralNormConv2d(up_channels + skip_channels, out_channels, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x [N,C,H,W], skip [N,S,2H,2W] -> [N,C',2H,2W]."""
        joined: Tensor = self.conv(F.relu(torch.cat([self.shuf(x), self.bn(skip)], dim=1)))
        return joined


class DDColorImageDecoder(nn.Module):
    """Three blocks from H/32 to H/4. The features are the last block's output, which is also the finest attention level."""

    def __init__(self, dims: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                DDColorDecoderBlock(dims[3], dims[2], channels, channels),
                DDColorDecoderBlock(channels, dims[1], channels, channels),
                DDColorDecoderBlock(channels, dims[0], channels // 2, channels // 2),
            ]
        )

    def forward(self, skips: tuple[Tensor, ...]) -> Features:
        """Four skips, finest first -> features [N,C,H/4,W/4] and levels at H/16, H/8, H/4."""
        levels = []
        x = skips[3]
        for layer, skip in zip(self.layers, reversed(skips[:3]), strict=True):
            x = layer(x, skip)
            levels.append(x)
        return x, tuple(levels)


def conv_norm(in_channels: int, out_channels: int, kernel: int, *, activation: bool = True) -> nn.Sequential:
    """Convolution, BatchNorm and, unless linear, ReLU6: the only pattern that `icf-edge` is made of."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if activation:
        layers.append(nn.ReLU6())
    return nn.Sequential(*layers)


class EdgeDecoderBlock(nn.Module):
    """Add a projection of the upsampled coarse map and one of the skip, then a 3x3 convolution.

    A sum of two 1x1 projections is a 1x1 convolution of the concatenation, without the concatenation (whose inputs would
    have to share one int8 scale).
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = conv_norm(in_channels, out_channels, 1, activation=False)
        self.lateral = conv_norm(skip_channels, out_channels, 1, activation=False)
        self.smooth = conv_norm(out_channels, out_channels, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x [N,C,H,W], skip [N,S,2H,2W] -> [N,C',2H,2W]."""
        up = F.interpolate(self.project(x), scale_factor=2.0, mode="nearest")
        joined: Tensor = self.smooth(F.relu6(up + self.lateral(skip)))
        return joined


class EdgeImageDecoder(nn.Module):
    """Four maps from H/32 to H/4 with `widths` channels; features at H/4, attention levels at H/32, H/16 and H/8."""

    def __init__(self, skip_channels: tuple[int, ...], widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.bottleneck = conv_norm(skip_channels[-1], widths[0], 1)
        self.blocks = nn.ModuleList(
            EdgeDecoderBlock(a, skip, b)
            for a, skip, b in zip(widths[:-1], reversed(skip_channels[1:-1]), widths[1:], strict=True)
        )

    def forward(self, skips: tuple[Tensor, ...]) -> Features:
        """Five skips, finest first -> features [N,C,H/4,W/4] and levels at H/32, H/16, H/8."""
        x = self.bottleneck(skips[-1])
        maps = [x]
        for block, skip in zip(self.blocks, reversed(skips[1:-1]), strict=True):
            x = block(x, skip)
            maps.append(x)
        return x, tuple(maps[:-1])
