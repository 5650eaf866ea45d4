"""A graph in float16, and one in int8, as recipes will write them: for the tests of engines until recipes exist.

float16: Casts at both ends, everything between in float16. int8: symmetric, zero point 0, per-channel weights, no bias Q/DQ,
around convolutions and matrix products; scales from the largest magnitude on one batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]
HEAVY = ("Conv", "Gemm", "MatMul")
LARGEST = 127


def to_fp16(data: bytes) -> bytes:
    """The same graph, computed in float16 between two Casts."""
    model = onnx.load_model_from_string(data)
    graph = model.graph
    float32_always = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    for tensor in graph.initializer:
        if tensor.name not in float32_always:
            _halve(tensor)
    source, target = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _halve(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
        node.input[:] = [f"{source}_half" if name == source else name for name in node.input]
        node.output[:] = [f"{target}_half" if name == target else name for name in node.output]
    before = helper.make_node("Cast", [source], [f"{source}_half"], to=TensorProto.FLOAT16)
    after = helper.make_node("Cast", [f"{target}_half"], [target], to=TensorProto.FLOAT)
    _replace(model, [before, *graph.node, after])
    return bytes(model.SerializeToString())


def to_int8(data: bytes, gray: Array) -> bytes:
    """The same graph with Q/DQ around its convolutions and matrix products. gray: what the scales are measured on."""
    model = onnx.load_model_from_string(data)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    heavy = [node for node in model.graph.node if node.op_type in HEAVY]
    largest = _largest(data, gray, {name for node in heavy for name in node.input[:2] if name not in weights})
    nodes: list[NodeProto] = []
    done: dict[str, str] = {}
    new = [numpy_helper.from_array(np.int8(0), "zero_point")]

    def activation(name: str) -> str:
        if name not in done:
            new.append(numpy_helper.from_array(np.float32(max(largest[name], 1e-6) / LARGEST), f"{name}_scale"))
            codes, parameters = f"{name}_codes", [f"{name}_scale", "zero_point"]
            nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [codes]))
            nodes.append(helper.make_node("DequantizeLinear", [codes, *parameters], [f"{name}_int8"]))
            done[name] = f"{name}_int8"
        return done[name]

    def weight(name: str, axis: int) -> str:
        if name not in done:
            values = numpy_helper.to_array(weights[name])
            others = tuple(number for number in range(values.ndim) if number != axis)
            scales = (np.maximum(np.abs(values).max(axis=others), 1e-8) / LARGEST).astype(np.float32)
            shape = [1] * values.ndim
            shape[axis] = -1
            codes = np.clip(np.rint(values / scales.reshape(shape)), -LARGEST, LARGEST).astype(np.int8)
            for suffix, array in (("codes", codes), ("scale", scales), ("zero", np.zeros(len(scales), np.int8))):
                new.append(numpy_helper.from_array(array, f"{name}_{suffix}"))
            parts = [f"{name}_{suffix}" for suffix in ("codes", "scale", "zero")]
            nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}_int8"], axis=axis))
            done[name] = f"{name}_int8"
        return done[name]

    for node in model.graph.node:
        if node.op_type in HEAVY:
            for index in (0, 1):
                name = node.input[index]
                if name not in weights:
                    node.input[index] = activation(name)
                elif len(weights[name].dims) > 1:
                    axes = len(weights[name].dims)
                    node.input[index] = weight(name, 0 if node.op_type == "Conv" else axes - 1 if index else axes - 2)
        nodes.append(node)
    _replace(model, nodes)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *new])
    return bytes(model.SerializeToString())


def _halve(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


def _replace(model: onnx.ModelProto, nodes: Iterable[NodeProto]) -> None:
    kept = list(nodes)
    del model.graph.node[:]
    del model.graph.value_info[:]
    model.graph.node.extend(kept)


def _largest(data: bytes, gray: Array, names: set[str]) -> dict[str, float]:
    """The largest magnitude of each of these values."""
    import onnxruntime

    model = onnx.load_model_from_string(data)
    source = model.graph.input[0].name
    outputs = sorted(names - {source})
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(outputs, {source: gray})
    return {source: float(np.abs(gray).max()), **{n: float(np.abs(v).max()) for n, v in zip(outputs, values, strict=True)}}
