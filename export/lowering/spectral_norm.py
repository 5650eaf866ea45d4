"""Divide the spectral norm out.

1. In evaluation a spectral-norm convolution uses W / sigma with sigma = u^T W v of the stored u and v: all three are
   constants, so W' = W / sigma is one too, and a plain convolution with W' is the same function.

Precondition: evaluation mode (in training u and v move with every call).
Saves: a matrix-vector product, a dot product and a division of the weights per convolution, and u and v in the file.
"""

from __future__ import annotations

from torch import nn

from icf_deploy.export.lowering.lean_fusion import fold_ddcolor_fusion
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.fusion import DDColorFusion
from icf_deploy.network.layers import SpectralNormConv2d
from icf_deploy.network.network import ColorizationNetwork

FUSION_PREFIX = "fusion."


def fold_spectral_norm(network: ColorizationNetwork, _: Context) -> Result:
    """Replace every spectral-norm convolution by a plain one."""
    found = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, SpectralNormConv2d)]
    if not found:
        return skipped("no convolution has a spectral norm")
    if any(layer.training for _, layer in found):
        return skipped("in training mode the spectral norm changes with every call")
    if type(network.fusion) is DDColorFusion:
        network.fusion = fold_ddcolor_fusion(network.fusion)
    else:  # a fusion that is not known may want its layers to be what they are
        found = [(name, layer) for name, layer in found if not name.startswith(FUSION_PREFIX)]
    for name, layer in found:
        if not name.startswith(FUSION_PREFIX):
            network.set_submodule(name, _plain(layer))
    return applied(counted(len(found), "convolution"))


def _plain(layer: SpectralNormConv2d) -> nn.Conv2d:
    out_channels, in_channels, kernel, _ = layer.weight_orig.shape
    bias = layer.bias is not None
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=layer.padding, bias=bias, device="meta")
    conv.weight = nn.Parameter(layer.effective_weight().detach())
    if layer.bias is not None:
        conv.bias = nn.Parameter(layer.bias.detach())
    return conv
