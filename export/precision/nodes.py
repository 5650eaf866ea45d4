"""Names of nodes that survive a re-export, and what kind of arithmetic a node does.

A key is `MODULE/OPERATOR` or, from the second such node of a module on, `MODULE/OPERATOR.INDEX`:
`backbone.blocks.3.layers.0/Conv`, `color_decoder.blocks.0/MatMul.1`. The module path is what torch.onnx leaves in a node's
`pkg.torch.onnx.name_scopes`: names of modules, no path of the exporting machine. The exporter's own node names number
everything and move with each of its versions.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"
# Their second operand is a constant: the products that int8 and fp8 have instructions for, per output channel.
WEIGHTED = ("Conv", "Gemm", "MatMul")
WEIGHT_INPUT, BIAS_INPUT = 1, 2


def node_keys(graph: ir.Graph) -> dict[ir.Node, str]:
    """The key of every node, in the graph's order. Nodes without a module path count to that of the node before them."""
    keys: dict[ir.Node, str] = {}
    counts: Counter[str] = Counter()
    last = ""
    for node in graph:
        path = module_path(node)
        last = last if path is None else path
        base = f"{last}/{node.op_type}"
        keys[node] = base if not counts[base] else f"{base}.{counts[base]}"
        counts[base] += 1
    return keys


def module_path(node: ir.Node) -> str | None:
    """Dotted path of the module that `node` came from; None where the exporter did not note one."""
    text = node.metadata_props.get(SCOPES)
    if not text:
        return None
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    paths = [scope for scope in scopes[:-1] if isinstance(scope, str) and scope]  # the last is the operation's own name
    return paths[-1] if paths else None


def is_product(node: ir.Node) -> bool:
    """Whether a node multiplies an activation with constant float weights."""
    if node.op_type not in WEIGHTED or len(node.inputs) <= WEIGHT_INPUT:
        return False
    weight = node.inputs[WEIGHT_INPUT]
    activation = node.inputs[0]
    return (
        weight is not None
        and activation is not None
        and not is_constant(activation)
        and is_constant(weight)
        and is_float(weight)
        and weight.const_value is not None
    )


def is_constant(value: ir.Value) -> bool:
    """Whether a value is stored in the graph."""
    return value.is_initializer()


def is_float(value: ir.Value) -> bool:
    """Whether a value holds floating-point numbers; False where its type is not known."""
    return value.dtype is not None and value.dtype.is_floating_point()


def reads(node: ir.Node) -> list[tuple[int, ir.Value]]:
    """The inputs of a node that are computed and not stored, with their places."""
    return [(i, value) for i, value in enumerate(node.inputs) if value is not None and not is_constant(value)]
