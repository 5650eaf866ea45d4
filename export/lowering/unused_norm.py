"""Drop the norm that DDColor's files carry and nothing reads.

1. The original computes `encoder.arch.norm` on the global average pool and throws the result away; our network never runs
   it. Without its two tensors the function is the same.

Precondition: the backbone is DDColor's ConvNeXt.
Saves: its parameters; the graph never had a node of it.
"""

from __future__ import annotations

from icf_deploy.export.lowering.lean_backbone import LeanConvNeXt, lean_backbone
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.backbones.convnext import ConvNeXt
from icf_deploy.network.network import ColorizationNetwork


def drop_unused_norm(network: ColorizationNetwork, _: Context) -> Result:
    """Remove the tensors that no step reads."""
    backbone = network.backbone
    if type(backbone) is not ConvNeXt and not (isinstance(backbone, LeanConvNeXt) and backbone.norm is not None):
        return skipped("the backbone carries no norm that nothing reads")
    lean = lean_backbone(network)
    assert lean is not None and lean.norm is not None
    parameters = sum(parameter.numel() for parameter in lean.norm.parameters())
    lean.norm = None
    return applied(counted(parameters, "parameter"))
