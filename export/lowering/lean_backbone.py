"""The ConvNeXt backbone in a form whose parts rewrites can replace one by one. As built it computes what ConvNeXt computes."""

from __future__ import annotations

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
    """LayerNorm over the channels of [N,C,H,W] or, with `channels_last`, of [N,H,W,C].

    weight, bias: [C], or None for the bare normalization. fused: written as one operator; else as ConvNeXt writes it.
    """

    def __init__(self, weight: Tensor | None, bias: Tensor | None, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.fused = False
        self.channels_last = False
        self.set_affine(weight, bias)

    def set_affine(self, weight: Tensor | None, bias: Tensor | None) -> None:
        """Replace weight and bias."""
        self.register_parameter("weight", None if weight is None else nn.Parameter(weight.detach()))
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach()))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out."""
        if self.channels_last:
            return F.layer_norm(x, (self.channels,), self.weight, self.bias, LAYER_NORM_EPS)
        if self.fused:
            y = F.layer_norm(x.permute(0, 2, 3, 1), (self.channels,), self.weight, self.bias, LAYER_NORM_EPS)
            return y.permute(0, 3, 1, 2)
        centred = x - x.mean(1, keepdim=True)
        y = centred / (centred.pow(2).mean(1, keepdim=True) + LAYER_NORM_EPS).sqrt()
        if self.weight is not None:
            y = self.weight[:, None, None] * y
        return y if self.bias is None else y + self.bias[:, None, None]


class LeanConvNeXtBlock(nn.Module):
    """A ConvNeXt block on [N,C,H,W] or, with `channels_last`, on [N,H,W,C]. gamma: [C], None once it is folded."""

    def __init__(self, block: ConvNeXtBlock) -> None:
        super().__init__()
        self.dwconv = block.dwconv
        self.norm = ChannelNorm(block.norm.weight, block.norm.bias, block.norm.normalized_shape[0])
        self.norm.channels_last = True
        self.pwconv1 = block.pwconv1
        self.pwconv2 = block.pwconv2
        self.register_parameter("gamma", block.gamma)
        self.channels_last = False

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out."""
        y = x.permute(0, 3, 1, 2) if self.channels_last else x
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(y).permute(0, 2, 3, 1)))))
        if self.gamma is not None:
            y = self.gamma * y
        return x + (y if self.channels_last else y.permute(0, 3, 1, 2))


class LeanConvNeXt(nn.Module):
    """gray [N,1,H,W] -> four normalized skips [N,C,h,w], finest first.

    channels_last: the residual stream is [N,H,W,C], so that every LayerNorm and pointwise layer takes it as it is.
    """

    def __init__(self, backbone: ConvNeXt) -> None:
        super().__init__()
        self.normalize: nn.Module = ImageNetNormalize(backbone.mean, backbone.std)
        self.channels_last = False
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
        x = self.stem_norm(self._from_conv(self.stem(self.normalize(gray))))
        for i, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            if i:
                x = self._from_conv(self.downs[i - 1](self._to_conv(self.down_norms[i - 1](x))))
            x = stage(x)
            skips.append(self._to_conv(norm(x)))
        return tuple(skips)

    def _from_conv(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1) if self.channels_last else x

    def _to_conv(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2) if self.channels_last else x


def lean_backbone(network: ColorizationNetwork) -> LeanConvNeXt | None:
    """The network's ConvNeXt in this form, converted where it is not yet; None for another backbone."""
    if type(network.backbone) is ConvNeXt:
        network.backbone = LeanConvNeXt(network.backbone)
    return network.backbone if isinstance(network.backbone, LeanConvNeXt) else None


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
    return ChannelNorm(norm.weight, norm.bias, len(norm.weight))
