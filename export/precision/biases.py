"""Where a product's bias stands in a graph: in the product itself, or in the sum behind a matrix product."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from icf_deploy.export.precision.nodes import BIAS_INPUT, is_constant


def takes_bias(node: ir.Node, channels: int) -> bool:
    """Whether `add_to_bias` can shift the outputs of this product."""
    return _place(node, channels) is not None


def add_to_bias(graph: ir.Graph, node: ir.Node, shift: npt.NDArray[np.float32]) -> None:
    """Add float32 [channels] to the outputs of a product, by its bias; makes one where a convolution has none.

    Precondition: `takes_bias`. A bias that others read, too, is copied.
    """
    place = _place(node, len(shift))
    assert place is not None, node.name
    reader, index = place
    old = reader.inputs[index] if index < len(reader.inputs) else None
    found = np.zeros(len(shift), np.float32) if old is None or old.const_value is None else old.const_value.numpy()
    value = constant(graph, f"{node.name}_bias", (found + shift).astype(np.float32))
    if index < len(reader.inputs):
        reader.replace_input_with(index, value)
    else:
        reader.resize_inputs(index + 1)
        reader.replace_input_with(index, value)


def bias_of(node: ir.Node, channels: int) -> npt.NDArray[np.float32]:
    """The bias of a product, float32 [channels]; zeros where it has none, or where `add_to_bias` has no place for one."""
    place = _place(node, channels)
    if place is None:
        return np.zeros(channels, np.float32)
    reader, index = place
    value = reader.inputs[index] if index < len(reader.inputs) else None
    if value is None or value.const_value is None:
        return np.zeros(channels, np.float32)
    return np.asarray(value.const_value.numpy(), np.float32)


def constant(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """A new constant of the graph."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _place(node: ir.Node, channels: int) -> tuple[ir.Node, int] | None:
    """The node and input where the bias is, or may be put; None where there is no such place."""
    if node.op_type in ("Conv", "Gemm"):
        bias = node.inputs[BIAS_INPUT] if len(node.inputs) > BIAS_INPUT else None
        if bias is None:
            return (node, BIAS_INPUT) if node.op_type == "Conv" else None
        return (node, BIAS_INPUT) if _is_row(bias, channels) else None
    output = node.outputs[0]
    readers = list(output.uses())
    if len(readers) != 1 or output.is_graph_output() or readers[0].node.op_type != "Add":
        return None
    add = readers[0].node
    index = 1 - readers[0].idx
    other = add.inputs[index]
    return (add, index) if other is not None and _is_row(other, channels) else None


def _is_row(value: ir.Value, channels: int) -> bool:
    return is_constant(value) and value.const_value is not None and tuple(value.const_value.shape.numpy()) == (channels,)
