"""The ConvNeXt backbone in a form whose parts rewrites can replace one by one. As built it computes what ConvNeXt computes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icf_deploy.network.backbones.convnext import LAYER_NORM_EPS, ChannelFirstLayerNorm, ConvNeXt, ConvNeXtBlock
from icf_deploy.network.network import ColorizationNetwork


class ImageNetNormalize(nn.Module):
    """gray [N,1,H,W] -> (gray - mean) / std [N,3,H,W], R = G = B before normalization."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach())
        self.register_buffer("std", std.detach())

    def forward(self, gray: Tensor) -> Tensor:
        """[N,1,H,W] -> [N,3,H,W]."""
        return (gray.expand(-1, 3, -1, -1) - self.mean) / self.std


class ChannelNorm(nn.Module):
    """LayerNorm over the channels: of [N,H,W,C] inside a block, of [N,C,H,W] everywhere else.

    weight, bias: [C], or None for the bare normalization. channels_last: which of the two. fused: [N,C,H,W] written as one
    operator between two permutations; else as ConvNeXt writes it.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor, *, channels_last: bool) -> None:
        super().__init__()
        self.channels = len(weight)
        self.channels_last = channels_last
        self.fused = False
        self.set_affine(weight, bias)

    def set_affine(self, weight: Tensor | None, bias: Tensor | None) -> None:
        """Replace weight and bias."""
        self.register_parameter("weight", None if weight is None else nn.Parameter(weight.detach()))
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach()))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out."""
        if self.channels_last:
            return self._last(x)
        if self.fused:
            return self._last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        centred = x - x.mean(1, keepdim=True)
        y = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + LAYER_NORM_EPS)
        if self.weight is not None:
            y = self.weight[:, None, None] * y
        return y if self.bias is None else y + self.bias[:, None, None]

    def _last(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.channels,), self.weight, self.bias, LAYER_NORM_EPS)


class LeanConvNeXtBlock(nn.Module):
    """A ConvNeXt block. gamma: [C], None once it is folded."""

    gamma: nn.Parameter | None

    def __init__(self, block: ConvNeXtBlock) -> None:
        super().__init__()
        self.dwconv = block.dwconv
        self.norm = ChannelNorm(block.norm.weight, block.norm.bias, channels_last=True)
        self.pwconv1 = block.pwconv1
        self.pwconv2 = block.pwconv2
        self.gamma = block.gamma

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C,H,W]."""
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1)))))
        if self.gamma is not None:
            y = self.gamma * y
        added: Tensor = x + y.permute(0, 3, 1, 2)
        return added


class LeanConvNeXt(nn.Module):
    """gray [N,1,H,W] -> four normalized skips [N,C,h,w], finest first."""

    def __init__(self, backbone: ConvNeXt) -> None:
        super().__init__()
        self.normalize: nn.Module = ImageNetNormalize(backbone.mean, backbone.std)
        first = backbone.downsample_layers[0]
        assert isinstance(first, nn.Sequential)
        self.stem = first[0]
        self.stem_norm = _channel_norm(first[1])
        self.down_norms = nn.ModuleList()
        self.downs = nn.ModuleList()
        for down in list(backbone.downsample_layers)[1:]:
            assert isinstance(down, nn.Sequential)
            self.down_norms.append(_channel_norm(down[0]))
            self.downs.append(down[1])
        self.stages = nn.ModuleList()
        for stage in backbone.stages:
            assert isinstance(stage, nn.Sequential)
            self.stages.append(nn.Sequential(*(_lean_block(block) for block in stage)))
        self.norms = nn.ModuleList(_channel_norm(backbone.get_submodule(f"norm{i}")) for i in range(len(backbone.dims)))
        # As in ConvNeXt: in the official files, never run.
        self.norm: nn.Module | None = backbone.norm

    def forward(self, gray: Tensor) -> tuple[Tensor, ...]:
        """gray [N,1,H,W] -> skips, finest first."""
        skips = []
        x = self.stem_norm(self.stem(self.normalize(gray)))
        for i, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            if i:
                x = self.downs[i - 1](self.down_norms[i - 1](x))
            x = stage(x)
            skips.append(norm(x))
        return tuple(skips)


def has_convnext(network: ColorizationNetwork) -> bool:
    """Whether the backbone is DDColor's ConvNeXt, as published or in this form already."""
    backbone = network.backbone
    if type(backbone) is not ConvNeXt:
        return isinstance(backbone, LeanConvNeXt)
    blocks = [block for stage in backbone.stages if isinstance(stage, nn.Sequential) for block in stage]
    norms = [backbone.get_submodule(f"norm{i}") for i in range(len(backbone.dims))]
    return all(type(block) is ConvNeXtBlock for block in blocks) and all(type(norm) is ChannelFirstLayerNorm for norm in norms)


def lean_backbone(network: ColorizationNetwork) -> LeanConvNeXt:
    """The network's ConvNeXt in this form, converted where it is not yet. Only where `has_convnext` holds."""
    if isinstance(network.backbone, ConvNeXt):
        network.backbone = LeanConvNeXt(network.backbone)
    assert isinstance(network.backbone, LeanConvNeXt)
    return network.backbone


def blocks(backbone: LeanConvNeXt) -> list[LeanConvNeXtBlock]:
    """All blocks, in order."""
    return [block for block in backbone.modules() if isinstance(block, LeanConvNeXtBlock)]


def channel_norm(norm: nn.Module) -> ChannelNorm:
    """Narrow the type of a module that is a ChannelNorm by construction."""
    assert isinstance(norm, ChannelNorm)
    return norm


def _lean_block(block: nn.Module) -> LeanConvNeXtBlock:
    assert isinstance(block, ConvNeXtBlock)
    return LeanConvNeXtBlock(block)


def _channel_norm(norm: nn.Module) -> ChannelNorm:
    assert isinstance(norm, ChannelFirstLayerNorm)
    return ChannelNorm(norm.weight, norm.bias, channels_last=False)
