"""Which network a graph is: a digest of what it computes, whoever exported it and whatever its values are called."""

from __future__ import annotations

import hashlib
import json

import onnx
import onnx_ir as ir

from icf_deploy.export.precision.nodes import node_keys


def network_digest(model: onnx.ModelProto) -> str:
    """Hex SHA-256 of operators with their module paths, attributes, connections and constants; names of values do not count."""
    graph = ir.from_proto(model).graph
    digest = hashlib.sha256()
    numbers: dict[ir.Value, str] = {value: f"input {i}" for i, value in enumerate(graph.inputs)}
    for number, (node, key) in enumerate(node_keys(graph).items()):
        line: list[object] = [key, node.domain, [_operand(value, numbers) for value in node.inputs]]
        line += [sorted((name, str(attribute.value)) for name, attribute in node.attributes.items())]
        digest.update(json.dumps(line).encode() + b"\n")
        numbers |= {value: f"{number}:{i}" for i, value in enumerate(node.outputs)}
    shapes = [[str(dim) if isinstance(dim, int) else "free" for dim in value.shape or ()] for value in graph.inputs]
    digest.update(json.dumps([shapes, [numbers[value] for value in graph.outputs]]).encode())
    return digest.hexdigest()


def _operand(value: ir.Value | None, numbers: dict[ir.Value, str]) -> str:
    if value is None:
        return "none"
    if value in numbers:
        return numbers[value]
    constant = value.const_value
    assert constant is not None, value.name
    content = hashlib.sha256(constant.tobytes()).hexdigest()
    return f"{constant.dtype.name} {[int(n) for n in constant.shape.numpy()]} {content}"
