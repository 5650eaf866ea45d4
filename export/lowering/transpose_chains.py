"""Make one permutation of two, and none of two that undo each other.

1. Transpose by p, then by q, is Transpose by p[q[i]]; where that is 0, 1, 2, ... it is nothing.

Precondition: the first Transpose is read by another one. (It stays for its other readers.)
Saves: a copy of the tensor per pair that an engine would not have merged itself.
"""

from __future__ import annotations

import onnx_ir as ir

from icf_deploy.export.lowering.rewrite import Result, applied, counted, skipped


def merge_transposes(model: ir.Model) -> Result:
    """Merge every chain of permutations."""
    done = 0
    for node in list(model.graph):
        before = node.inputs[0].producer() if node.op_type == "Transpose" and node.inputs[0] is not None else None
        if before is None or before.op_type != "Transpose" or before.inputs[0] is None:
            continue
        first, second = before.attributes.get_ints("perm"), node.attributes.get_ints("perm")
        merged = [first[i] for i in second]
        source: ir.Value = before.inputs[0]
        if merged == sorted(merged) and not node.outputs[0].is_graph_output():
            ir.convenience.replace_all_uses_with(node.outputs[0], source)
            model.graph.remove(node, safe=True)
        else:
            node.replace_input_with(0, source)
            node.attributes["perm"] = ir.AttrInt64s("perm", merged)
        if not before.outputs[0].uses() and not before.outputs[0].is_graph_output():
            model.graph.remove(before, safe=True)
        done += 1
    if not done:
        return skipped("no permutation follows another")
    return applied(counted(done, "pair"))
