"""Fold a BatchNorm that stands behind an activation forward into everything that reads it.

1. BatchNorm is y = s x + t. In DDColor's image decoder it comes after the ReLU, so it can't go back into the convolution. Into
   a consumer: W (s x + t) + b = (W diag s) x + (W t + b).

Precondition: every consumer is linear and pads nothing (a padded zero is not a shifted one: into a padded 3x3 this would be
wrong along the whole border), and the tensor is no output of a graph (it is one when the steps are split). The consumers are
the next block's 1x1 convolution, the level's input projection, and behind the last block the expansion of the fusion.
Saves: three BatchNorms on the largest maps of the decoder.
"""

from __future__ import annotations

from torch import nn

from icf_deploy.export.lowering.affine import Linear, batch_norm_affine, fold_input, is_frozen, takes_affine_input
from icf_deploy.export.lowering.lean_fusion import PaletteFusion
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.color_decoder import ColorDecoder
from icf_deploy.network.image_decoder import DDColorDecoderBlock, DDColorImageDecoder
from icf_deploy.network.network import ColorizationNetwork


def fold_batch_norm_forward(network: ColorizationNetwork, context: Context) -> Result:
    """Fold the BatchNorm that ends each decoder block into its consumers."""
    decoder, color_decoder = network.image_decoder, network.color_decoder
    if type(decoder) is not DDColorImageDecoder:
        return skipped("no BatchNorm stands behind an activation")
    if context.split:
        return skipped("split: the tensors behind these BatchNorms are outputs of a graph")
    if type(color_decoder) is not ColorDecoder:
        return skipped("the colour decoder's input projections are not where this rewrite knows them")
    folds: list[tuple[nn.Sequential, list[Linear]]] = []
    for k, block in enumerate(decoder.layers):
        assert isinstance(block, DDColorDecoderBlock)
        if not (isinstance(block.conv[-1], nn.BatchNorm2d) and is_frozen(block.conv[-1])):
            return skipped(f"block {k} does not end in a BatchNorm with stored statistics")
        consumers = [color_decoder.input_proj[k], _next_conv(network, decoder, k)]
        linear = [layer for layer in consumers if isinstance(layer, Linear) and takes_affine_input(layer)]
        if len(linear) < len(consumers):
            return skipped(f"what reads block {k} is not only plain convolutions without padding")
        folds.append((block.conv, linear))
    for chain, consumers_of in folds:
        norm = chain[-1]
        assert isinstance(norm, nn.BatchNorm2d)
        for layer in consumers_of:
            fold_input(layer, *batch_norm_affine(norm))
        chain[-1] = nn.Identity()
    return applied(counted(len(folds), "BatchNorm"))


def _next_conv(network: ColorizationNetwork, decoder: DDColorImageDecoder, k: int) -> nn.Module | None:
    """The convolution that upsamples the output of block k."""
    if k + 1 < len(decoder.layers):
        block = decoder.layers[k + 1]
        assert isinstance(block, DDColorDecoderBlock)
        return block.shuf.conv[0]
    return network.fusion.expand[0] if isinstance(network.fusion, PaletteFusion) else None
