"""Drop the norm that DDColor's files carry and nothing reads.

1. The original computes `encoder.arch.norm` on the global average pool and throws the result away; our network never runs
   it. Without its two tensors the function is the same.

Precondition: the backbone is DDColor's ConvNeXt.
Saves: its parameters; the graph never had a node of it.
"""

from __future__ import annotations

from icf_deploy.export.lowering.lean_backbone import has_convnext, lean_backbone
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.network import ColorizationNetwork


def drop_unused_norm(network: ColorizationNetwork, _: Context) -> Result:
    """Remove the tensors that no step reads."""
    if not has_convnext(network):
        return skipped("the backbone carries no norm that nothing reads")
    backbone = lean_backbone(network)
    if backbone.norm is None:
        return skipped("the norm that nothing reads is gone already")
    parameters = sum(parameter.numel() for parameter in backbone.norm.parameters())
    backbone.norm = None
    return applied(counted(parameters, "parameter"))
