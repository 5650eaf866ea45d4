"""Write fp16 and bf16 into a graph: Casts where values pass between formats, constants stored in the format that reads them.

1. A node in a format reads and gives float tensors of that format. Between two nodes of one format there is no Cast.
2. A value is cast once for each format that reads it. The graph's own inputs and outputs stay float32.
3. Inputs that an operator wants in float32 whatever it computes in (scales of Resize, of QuantizeLinear) stay.

Precondition: float32 graph without subgraphs, whose nodes in `asked` read and give float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir

from icf_deploy.export.precision.biases import constant
from icf_deploy.export.precision.nodes import is_constant, is_float

TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16, "fp32": ir.DataType.FLOAT}
_NUMPY = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
WIDE = "fp32"
FLOAT32_INPUTS = {"Resize": (1, 2), "QuantizeLinear": (1,), "DequantizeLinear": (1,)}


class _Casts:
    """The values of a graph in each format, made when they are first wanted."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[ir.Value, str], ir.Value] = {}

    def of(self, value: ir.Value, form: str) -> ir.Value:
        if (value, form) not in self._made:
            self._made[value, form] = self._constant(value, form) if is_constant(value) else self._cast(value, form)
        return self._made[value, form]

    def _constant(self, value: ir.Value, form: str) -> ir.Value:
        assert value.const_value is not None, value.name
        return constant(self._graph, f"{value.name}_{form}", value.const_value.numpy().astype(_NUMPY[form]))

    def _cast(self, value: ir.Value, form: str) -> ir.Value:
        node = ir.node("Cast", [value], {"to": int(TYPES[form])}, name=f"{value.name}_to_{form}")
        made = node.outputs[0]
        made.name, made.shape, made.type = f"{value.name}_{form}", value.shape, ir.TensorType(TYPES[form])
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(producer, node)
        return made


def insert_casts(graph: ir.Graph, asked: Mapping[ir.Node, str]) -> None:
    """Make the nodes of `asked` ({node: fp16 or bf16}) compute in that format, in place."""
    casts = _Casts(graph)
    nodes = list(graph)
    gives = {value: asked[node] for node in asked for value in node.outputs if is_float(value)}
    floats = {value for node in nodes for value in node.inputs if value is not None and is_float(value)}
    for node in nodes:
        form = asked.get(node, WIDE)
        kept = FLOAT32_INPUTS.get(node.op_type, ())
        for i, value in enumerate(node.inputs):
            if value is None or value not in floats:
                continue
            wanted = WIDE if i in kept else form
            if wanted != gives.get(value, WIDE):
                node.replace_input_with(i, casts.of(value, wanted))
    for value, form in gives.items():
        value.type = ir.TensorType(TYPES[form])
    for i, value in enumerate(graph.outputs):
        if value in gives:
            _give_wide(graph, i, casts)


def _give_wide(graph: ir.Graph, index: int, casts: _Casts) -> None:
    """Cast an output of the graph back to float32, under its name."""
    value = graph.outputs[index]
    name = value.name
    wide = casts.of(value, WIDE)
    graph.outputs[index] = wide
    value.name, wide.name = f"{name}_narrow", name
