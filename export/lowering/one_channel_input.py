"""Feed the one gray channel as it is, with the input normalization inside the first weights.

1. DDColor's stem. With R = G = B = g the normalized planes are (g - mean_c) / std_c, and a convolution without padding is
   affine in them: W' = sum_c W_c / std_c, b' = b - sum W_c mean_c / std_c. One plane in, no normalization.
2. DDColor's fusion. Its 1x1 convolution on the normalized RGB is a_o g + c_o by the same formula.
3. `icf-edge`'s stem. conv(s g + t) = conv'(g - m) with W' = s W and m = -t / s. The zeros that pad s g + t are the zeros that
   pad g - m, so the borders stay exact. The shift can't go into the bias: a padded zero is not a shifted one.
4. `icf-edge`'s gray term. The mean over stride x stride, times a_o, plus c_o, is one strided convolution.

Precondition for 1: a stem without padding. (2: a 1x1 convolution; 3: the normalization is a scale and a shift.)
Saves: two of three input planes, five elementwise nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icf_deploy.export.lowering.affine import fold_output, takes_affine_input
from icf_deploy.export.lowering.lean_backbone import ImageNetNormalize, LeanConvNeXt, has_convnext, lean_backbone
from icf_deploy.export.lowering.lean_fusion import PaletteFusion, PooledGray, gray_term, lean_fusion
from icf_deploy.export.lowering.rewrite import Context, Result, applied, skipped
from icf_deploy.network.backbones.efficientnet_lite import NORMALIZE_SCALE, NORMALIZE_SHIFT, SKIP_BLOCKS, EfficientNetLite0
from icf_deploy.network.network import ColorizationNetwork


class CentredEfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 on gray - centre, where `centre` is the gray that normalization maps to zero.

    gray [N,1,H,W] -> five skips at H/2 .. H/32.
    """

    centre: Tensor

    def __init__(self, backbone: EfficientNetLite0) -> None:
        super().__init__()
        self.stem = backbone.stem
        self.blocks = backbone.blocks
        conv = backbone.stem[0]
        assert isinstance(conv, nn.Conv2d)
        fold_output(conv, torch.full((conv.out_channels,), NORMALIZE_SCALE, dtype=conv.weight.dtype))
        self.register_buffer("centre", torch.tensor(-NORMALIZE_SHIFT / NORMALIZE_SCALE, dtype=conv.weight.dtype))

    def forward(self, gray: Tensor) -> tuple[Tensor, ...]:
        """gray [N,1,H,W] in 0..1 -> skips, finest first."""
        x = self.stem(gray - self.centre)
        skips = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in SKIP_BLOCKS:
                skips.append(x)
        return tuple(skips)


def feed_one_channel(network: ColorizationNetwork, _: Context) -> Result:
    """Apply 1 to 4 where they hold."""
    done, left = [], []
    backbone = network.backbone
    if type(backbone) is EfficientNetLite0:
        network.backbone = CentredEfficientNetLite0(backbone)
        done.append("scale folded into the stem")
    elif has_convnext(network) and _has_rgb_stem(backbone):
        if takes_affine_input(_stem(backbone)):
            _fold_stem(lean_backbone(network))
            done.append("stem")
        else:
            left.append("the stem pads, and what it pads is not normalized")
    fusion = lean_fusion(network)
    if fusion is not None and _fold_gray_term(fusion):
        network.fusion = fusion
        done.append("gray term")
    if done:
        return applied(", ".join(done + left))
    return skipped(", ".join(left) or "the input is one channel already, or its convolution is not a plain one")


def _has_rgb_stem(backbone: nn.Module) -> bool:
    return not isinstance(backbone, LeanConvNeXt) or isinstance(backbone.normalize, ImageNetNormalize)


def _stem(backbone: nn.Module) -> nn.Module:
    return backbone.stem if isinstance(backbone, LeanConvNeXt) else backbone.get_submodule("downsample_layers.0.0")


def _fold_stem(backbone: LeanConvNeXt) -> None:
    normalize, stem = backbone.normalize, backbone.stem
    assert isinstance(normalize, ImageNetNormalize) and isinstance(stem, nn.Conv2d)
    backbone.stem = _one_channel(stem, normalize)
    backbone.normalize = nn.Identity()


def _one_channel(conv: nn.Conv2d, normalize: ImageNetNormalize) -> nn.Conv2d:
    """Formula 1."""
    weight = conv.weight.detach() / normalize.std
    shift = -(weight * normalize.mean).sum((1, 2, 3))
    one = nn.Conv2d(1, conv.out_channels, conv.kernel_size, stride=conv.stride, device="meta")  # type: ignore[arg-type]  # two numbers
    one.weight = nn.Parameter(weight.sum(1, keepdim=True))
    one.bias = nn.Parameter(shift if conv.bias is None else conv.bias.detach() + shift)
    return one


def _fold_gray_term(fusion: PaletteFusion) -> bool:
    """Formulas 2 and 4; whether there was something to fold."""
    if isinstance(fusion.on_gray, PooledGray):
        pooled = fusion.on_gray
        area = pooled.stride**2
        weight = pooled.weight.detach()[:, None, None, None].expand(-1, 1, pooled.stride, pooled.stride) / area
        conv = nn.Conv2d(1, len(weight), pooled.stride, stride=pooled.stride, device="meta")
        conv.weight, conv.bias = nn.Parameter(weight.contiguous()), nn.Parameter(pooled.bias.detach())
        fusion.on_gray = nn.Sequential(nn.Identity(), conv)
        return True
    normalize, conv = gray_term(fusion)
    if not isinstance(normalize, ImageNetNormalize):
        return False
    fusion.on_gray = nn.Sequential(nn.Identity(), _one_channel(conv, normalize))
    return True
