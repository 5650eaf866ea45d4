"""EfficientNet-Lite0 with a one-channel stem: ReLU6, no squeeze-and-excitation (Tan & Le 2019; the Lite variants, 2020).

The pretrained network normalizes RGB as (x*255 - 127)/128 and pads with zeros after that. Gray photos have R = G = B, so
the stem's three input planes are summed into one, exactly. Padding with zero after normalization is padding with
PAD_GRAY = 127/255 before it; every later layer pads with zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

NORMALIZE_SCALE = 255.0 / 128.0
NORMALIZE_SHIFT = -127.0 / 128.0
PAD_GRAY = 127.0 / 255.0
BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.01
STEM_CHANNELS = 32


@dataclass(frozen=True)
class Stage:
    """`repeats` inverted residual blocks; the first has the stride."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int


LITE0_STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
# The last block before each halving, and the last of all: skips at H/2, H/4, H/8, H/16, H/32.
SKIP_BLOCKS = (0, 2, 4, 10, 15)
SKIP_CHANNELS = (16, 24, 40, 112, 320)


class SameConv2d(nn.Conv2d):
    """Bias-free convolution with TensorFlow's SAME padding for inputs whose sides are multiples of the stride."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        total = kernel - stride
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=total // 2 if total % 2 == 0 else 0,
            groups=groups,
            bias=False,
        )
        # An odd total goes to the bottom and right, which symmetric padding cannot say.
        self.explicit_padding = (total // 2, total - total // 2) * 2 if total % 2 else None

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C',H/stride,W/stride]."""
        if self.explicit_padding is not None:
            x = F.pad(x, self.explicit_padding)
        return super().forward(x)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)


class InvertedResidual(nn.Module):
    """Pointwise expansion, depthwise convolution, linear projection; residual where shapes allow (Sandler et al. 2018)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [SameConv2d(in_channels, hidden, 1), _batch_norm(hidden), nn.ReLU6()]
        layers += [SameConv2d(hidden, hidden, kernel, stride, groups=hidden), _batch_norm(hidden), nn.ReLU6()]
        layers += [SameConv2d(hidden, out_channels, 1), _batch_norm(out_channels)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C',H/stride,W/stride]."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """gray [N,1,H,W] -> five skips at H/2 .. H/32 with SKIP_CHANNELS channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(SameConv2d(1, STEM_CHANNELS, 3, 2), _batch_norm(STEM_CHANNELS), nn.ReLU6())
        blocks: list[nn.Module] = []
        channels = STEM_CHANNELS
        for stage in LITE0_STAGES:
            for i in range(stage.repeats):
                stride = stage.stride if i == 0 else 1
                blocks.append(InvertedResidual(channels, stage.channels, stage.kernel, stride, stage.expansion))
                channels = stage.channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, gray: Tensor) -> tuple[Tensor, ...]:
        """gray [N,1,H,W] in 0..1 -> skips, finest first."""
        return self.first(gray, len(SKIP_BLOCKS))

    def first(self, gray: Tensor, count: int) -> tuple[Tensor, ...]:
        """As `forward`, but only the `count` finest skips, and no more than they take."""
        x = self.stem(gray * NORMALIZE_SCALE + NORMALIZE_SHIFT)
        skips = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in SKIP_BLOCKS:
                skips.append(x)
            if len(skips) == count:
                break
        return tuple(skips)


def lite0_state_from_imagenet(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Map an ImageNet EfficientNet-Lite0 state dict (keys `_conv_stem`, `_bn0`, `_blocks.N...`) to `EfficientNetLite0`.

    The stem's input planes are summed, since gray is fed as R = G = B. The classifier and the head convolution are left out.
    Loading the result with strict keys proves that nothing is missing or left over.
    """
    state: dict[str, Tensor] = {"stem.0.weight": weights["_conv_stem.weight"].sum(1, keepdim=True)}
    norms = [("_bn0", "stem.1")]
    channels_of_block = sum(stage.repeats for stage in LITE0_STAGES)
    for i in range(channels_of_block):
        source, target = f"_blocks.{i}.", f"blocks.{i}.layers."
        parts = ["_expand_conv", "_depthwise_conv", "_project_conv"]
        if source + "_expand_conv.weight" not in weights:
            parts = parts[1:]
        for j, part in enumerate(parts):
            state[f"{target}{3 * j}.weight"] = weights[f"{source}{part}.weight"]
            norm = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}[part]
            norms.append((source + norm, f"{target}{3 * j + 1}"))
    for source, target in norms:
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            if f"{source}.{leaf}" in weights or leaf != "num_batches_tracked":
                state[f"{target}.{leaf}"] = weights[f"{source}.{leaf}"]
    return state
