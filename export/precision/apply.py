"""From a float32 graph and a recipe to the graph that a bundle carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes

from icf_deploy.errors import ArtefactError, UsageError
from icf_deploy.export.precision.calibration import Calibration, tensor_keys
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.insert_casts import WIDE, insert_casts
from icf_deploy.export.precision.insert_qdq import insert_qdq
from icf_deploy.export.precision.nodes import is_float, is_product, node_keys
from icf_deploy.export.precision.overflow import overflows
from icf_deploy.export.precision.recipe import QUANTIZED, Recipe

BFLOAT16_OPSET = 22  # the first in which Conv and the rest are defined for bfloat16


@dataclass(frozen=True)
class AppliedGraph:
    """model: the graph. formats: by node key, what each arithmetic node is written in. kept: {key: reason} of the nodes that
    stay in float32 although the recipe asked for less.

    label: the formats in words of the manifest, e.g. "int8+fp32".
    """

    model: onnx.ModelProto
    formats: Mapping[str, str]
    kept: Mapping[str, str]

    @property
    def label(self) -> str:
        """Formats joined by "+", the narrowest first."""
        order = ("fp8", "int8", "bf16", "fp16", "fp32")
        return "+".join(form for form in order if form in self.formats.values())


def apply_recipe(
    model: onnx.ModelProto, recipe: Recipe, calibration: Calibration | None = None, *, digest: str | None = None
) -> AppliedGraph:
    """Write `recipe` into a copy of a float32 graph.

    calibration: of the same graph; needed for int8, fp8, and for fp16, whose overflow it guards. Nodes that a format has no
    arithmetic for (int8: all but products with constant weights) stay in float32; that is what the format means. digest: the
    model's, where `network_digest` was asked before.

    Raises ArtefactError for a recipe or calibration of another network, UsageError for a missing calibration.
    """
    digest = network_digest(model) if digest is None else digest
    copy = ir.from_proto(model)
    ir_passes.ShapeInferencePass()(copy)
    graph = copy.graph
    keys = node_keys(graph)
    recipe.require_network(digest, keys.values())
    arithmetic = [node for node in keys if any(map(is_float, node.outputs))]
    asked = {node: recipe.format_of(keys[node]) for node in arithmetic}
    if calibration is None:
        needing = sorted({form for form in asked.values() if form not in (WIDE, "bf16")})
        if needing:
            raise UsageError(f"the recipe asks for {', '.join(needing)}, whose ranges come from photos: calibrate first")
    elif calibration.network != digest:
        raise ArtefactError("this calibration is of another network than the graph: calibrate again")
    elif calibration.weight_bits != recipe.weight_bits and "int8" in asked.values():
        raise ArtefactError(
            f"the recipe asks for int8 weights of {recipe.weight_bits} bits, and this calibration has {calibration.weight_bits}"
        )
    kept: dict[str, str] = {}
    if calibration is not None:
        tensors = tensor_keys(graph)
        for node in [node for node, form in asked.items() if form == "fp16"]:
            reason = overflows(node, tensors, calibration)
            if reason is not None:
                kept[keys[node]] = reason
                asked[node] = WIDE
        quantized = {node: form for node, form in asked.items() if form in QUANTIZED}
        products = {node: form for node, form in quantized.items() if is_product(node)}
        left = insert_qdq(graph, products, keys, calibration)
        kept |= left
        for node in quantized:
            if node not in products or keys[node] in left:
                asked[node] = WIDE
    insert_casts(graph, {node: form for node, form in asked.items() if form in ("fp16", "bf16")})
    if "bf16" in asked.values():
        _raise_opset(copy)
    ir_passes.RemoveUnusedNodesPass()(copy)
    ir_passes.TopologicalSortPass()(copy)
    return AppliedGraph(ir.to_proto(copy), {keys[node]: form for node, form in asked.items()}, kept)


def _raise_opset(model: ir.Model) -> None:
    """bfloat16 is written in an opset that has it; the operators of ours mean the same in both."""
    model.opset_imports[""] = max(model.opset_imports[""], BFLOAT16_OPSET)
