"""Write int8 and fp8 into a graph, by QuantizeLinear and DequantizeLinear around products with constant weights.

1. The activation that a product reads passes through one pair, symmetric: zero point 0, one scale. All such products that read
   a tensor share its pair; whoever else reads it gets it unrounded.
2. The weight is stored in 8 bits, symmetric, with a scale per output channel, behind a DequantizeLinear.
3. The bias stays float32 without a pair; rounding's effect on the mean is added to it.

That is the form which ONNX Runtime, OpenVINO and TensorRT all take. TensorRT refuses zero points and pairs on biases, OpenVINO
products whose constant stands on the left; products of two activations (attention, the palette) stay as they are.
Preconditions: float32 graph; a `Calibration` of the same graph. A node that doesn't fulfil them is left alone, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from icf_deploy.export.precision.biases import add_to_bias, constant
from icf_deploy.export.precision.calibration import Calibration, tensor_keys
from icf_deploy.export.precision.clipping import SMALLEST, STEPS
from icf_deploy.export.precision.nodes import is_product
from icf_deploy.export.precision.weights import SMALLEST_SCALE, output_axis

FP8_LARGEST = 448.0  # of float8e4m3fn, the only 8-bit float that TensorRT takes in this place
NOT_A_PRODUCT = "no product with constant weights"


def insert_qdq(
    graph: ir.Graph, asked: Mapping[ir.Node, str], keys: Mapping[ir.Node, str], calibration: Calibration
) -> dict[str, str]:
    """Quantize, in place, the nodes of `asked` ({node: int8 or fp8}). Returns {key: why it stays as it is} of the others.

    keys: of all nodes (`nodes.node_keys`), taken before any pass.
    """
    tensors = tensor_keys(graph)
    pairs: dict[tuple[ir.Value, str], ir.Value] = {}
    left: dict[str, str] = {}
    for node, form in asked.items():
        key = keys[node]
        why = _obstacle(node, tensors, calibration)
        if why is not None:
            left[key] = why
            continue
        source = node.inputs[0]
        assert source is not None
        if (source, form) not in pairs:
            pairs[source, form] = _pair(graph, source, form, calibration, tensors[source])
        node.replace_input_with(0, pairs[source, form])
        if form == "int8":
            rounded = calibration.weights[key]
            node.replace_input_with(1, _dequantized(graph, node, rounded.codes, rounded.scales))
            if rounded.bias.any():
                add_to_bias(graph, node, rounded.bias)
        else:
            node.replace_input_with(1, _dequantized(graph, node, *_fp8_weight(node)))
    return left


def _obstacle(node: ir.Node, tensors: Mapping[ir.Value, str], calibration: Calibration) -> str | None:
    if not is_product(node):
        return NOT_A_PRODUCT
    source = node.inputs[0]
    if source is None or not np.isfinite(calibration.largest.get(tensors.get(source, ""), np.inf)):
        return "what it reads was not finite on the calibration photos"
    return None


def _pair(graph: ir.Graph, value: ir.Value, form: str, calibration: Calibration, key: str) -> ir.Value:
    """`value` through a Quantize and a Dequantize; readers are not touched."""
    if form == "int8":
        scale, zero = calibration.saturation[key] / STEPS, np.array(0, np.int8)
    else:
        scale, zero = max(calibration.largest[key], SMALLEST) / FP8_LARGEST, np.array(0, ml_dtypes.float8_e4m3fn)
    name = f"{value.name}_{form}"
    step = constant(graph, f"{name}_scale", np.array(scale, np.float32))
    origin = constant(graph, f"{name}_zero", zero)
    quantize = ir.node("QuantizeLinear", [value, step, origin], name=f"{name}_quantize")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], step, origin], name=f"{name}_dequantize")
    quantize.outputs[0].name, dequantize.outputs[0].name = f"{name}_codes", f"{name}_value"
    quantize.outputs[0].type = ir.TensorType(ir.tensor(zero).dtype)
    for made in (quantize.outputs[0], dequantize.outputs[0]):
        made.shape = value.shape
    dequantize.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantize, dequantize])
    else:
        graph.insert_after(producer, [quantize, dequantize])
    return dequantize.outputs[0]


def _dequantized(graph: ir.Graph, node: ir.Node, codes: npt.NDArray[np.generic], scales: npt.NDArray[np.float32]) -> ir.Value:
    weight = node.inputs[1]
    assert weight is not None
    name = f"{node.name}_weight"
    inputs = [
        constant(graph, f"{name}_codes", codes),
        constant(graph, f"{name}_scales", scales),
        constant(graph, f"{name}_zeros", np.zeros(scales.shape, codes.dtype)),
    ]
    dequantize = ir.node("DequantizeLinear", inputs, {"axis": output_axis(node)}, name=f"{name}_dequantize")
    value = dequantize.outputs[0]
    value.name, value.shape, value.type = f"{name}_value", weight.shape, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, dequantize)
    return value


def _fp8_weight(node: ir.Node) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32]]:
    """Codes and scales per output channel; a float's own rounding is to the nearest."""
    value = node.inputs[1]
    assert value is not None and value.const_value is not None
    weight, axis = value.const_value.numpy(), output_axis(node)
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = (np.maximum(np.abs(weight).max(axis=others, keepdims=True), SMALLEST_SCALE) / FP8_LARGEST).astype(np.float32)
    codes = (weight / scales).astype(ml_dtypes.float8_e4m3fn)
    return codes, np.ascontiguousarray(scales.ravel())
