"""Fold a LayerNorm's weight and bias into the linear layer behind it.

1. LayerNorm is y = g n + b with n the normalized tensor. Into a linear layer: W (g n + b) + c = (W diag g) n + (W b + c).

Precondition: every consumer of y is linear in it and pads nothing, so
   - a ConvNeXt block's norm into pwconv1; the norm before a downsampling into its unpadded 2x2 convolution;
   - the coarsest skip's norm into the 1x1 convolution of the first decoder block; decoder_norm into the first layer of the
     query head.
   Not the stem's norm (residual, and a zero-padded 7x7 follows), not the colour decoder's post-norms (residual).
Saves: a multiplication and an addition per element where the engine has no fused LayerNorm, and the tensors.
"""

from __future__ import annotations

from torch import nn

from icf_deploy.export.lowering.affine import Linear, fold_input, takes_affine_input
from icf_deploy.export.lowering.lean_backbone import (
    ChannelNorm,
    LeanConvNeXt,
    blocks,
    channel_norm,
    has_convnext,
    lean_backbone,
)
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.color_decoder import ColorDecoder, QueryHead
from icf_deploy.network.image_decoder import DDColorDecoderBlock, DDColorImageDecoder
from icf_deploy.network.network import ColorizationNetwork


def fold_layer_norm_affine(network: ColorizationNetwork, _: Context) -> Result:
    """Fold every LayerNorm whose only consumer is linear and unpadded."""
    folded = left = 0
    if has_convnext(network):
        backbone = lean_backbone(network)
        for norm, layer in _sites(backbone, network.image_decoder):
            if not takes_affine_input(layer):
                left += 1
            elif norm.weight is not None and norm.bias is not None:
                assert isinstance(layer, Linear)
                fold_input(layer, norm.weight.detach(), norm.bias.detach())
                norm.set_affine(None, None)
                folded += 1
    folded += _fold_decoder_norm(network.color_decoder)
    if not folded:
        return skipped("no LayerNorm stands before nothing but an unpadded linear layer")
    return applied(counted(folded, "LayerNorm") + (f"; {left} stand before a layer that pads or is not plain" if left else ""))


def _sites(backbone: LeanConvNeXt, image_decoder: nn.Module) -> list[tuple[ChannelNorm, nn.Module]]:
    sites: list[tuple[ChannelNorm, nn.Module]] = [(block.norm, block.pwconv1) for block in blocks(backbone)]
    sites += [(channel_norm(norm), conv) for norm, conv in zip(backbone.down_norms, backbone.downs, strict=True)]
    if type(image_decoder) is DDColorImageDecoder:
        first = image_decoder.layers[0]
        assert isinstance(first, DDColorDecoderBlock)
        sites.append((channel_norm(backbone.norms[-1]), first.shuf.conv[0]))
    return sites


def _fold_decoder_norm(decoder: nn.Module) -> int:
    norm, head = getattr(decoder, "decoder_norm", None), getattr(decoder, "color_embed", None)
    if type(decoder) is not ColorDecoder or not isinstance(norm, nn.LayerNorm) or not isinstance(head, QueryHead):
        return 0
    first = head.layers[0]
    assert isinstance(first, nn.Linear)
    fold_input(first, norm.weight.detach(), norm.bias.detach())
    decoder.decoder_norm = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)
    return 1
