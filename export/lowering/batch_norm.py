"""Fold a BatchNorm into the convolution before it.

1. In evaluation BatchNorm is y = s x + t per channel, with s = weight / sqrt(var + eps), t = bias - s mean. Directly behind a
   convolution: W'[o] = s_o W[o], b' = s b + t.

Exact at the borders too, whatever the padding: the map acts on the convolution's output.
Precondition: the two follow each other in a Sequential with nothing between, the BatchNorm uses stored statistics, and the
convolution is a plain one (no spectral norm on it).
Saves: a node per BatchNorm where the engine would not have folded it; two of four tensors per channel in the file.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from icf_deploy.export.lowering.affine import batch_norm_affine, fold_output, is_frozen
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.network import ColorizationNetwork


def fold_batch_norm(network: ColorizationNetwork, _: Context) -> Result:
    """Fold every BatchNorm that stands directly behind a convolution."""
    pairs = [
        (chain, i, conv, norm)
        for chain in network.modules()
        if isinstance(chain, nn.Sequential)
        for i, (conv, norm) in enumerate(pairwise(chain))
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and is_frozen(norm)
    ]
    if not pairs:
        return skipped("no BatchNorm with stored statistics stands directly behind a plain convolution")
    for chain, i, conv, norm in pairs:
        fold_output(conv, *batch_norm_affine(norm))
        chain[i + 1] = nn.Identity()
    return applied(counted(len(pairs), "BatchNorm"))
