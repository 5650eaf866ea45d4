"""What a graph costs, read off the graph: multiplications, parameters, nodes, bytes, and the memory of its activations.

Everything follows from shapes, for a given batch, with nothing executed. An engine that fuses nodes, computes in place or
reorders them does better than these figures; they compare graphs, and say where to look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import onnx

from icf_deploy.errors import ArtefactError

# Constants up to this many numbers are kept for shape inference, which needs the values of shapes and nothing else.
SHAPE_VALUES = 64
# Operators whose output is their input under another shape: engines give out the same memory.
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
# Constants of these types are shapes, axes and pads, not parameters.
INDEX_TYPES = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
GIGA = 1e9
NAMED = 3  # how many tensors an error names

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Activation:
    """A tensor that is computed. bytes: of its numbers."""

    name: str
    shape: Shape
    bytes: int


@dataclass(frozen=True)
class GraphStatistics:
    """Figures of a graph for one batch size.

    gmac: 1e9 multiply-adds of convolutions and matrix products; elementwise work, norms and pooling are not counted, nor is
    what is computed from constants alone.
    parameters: numbers in the constants, shapes and axes left out. nodes: operators. bytes: of the file.
    largest: the largest activation. peak_bytes: the most that is alive at once, when nodes run one by one in the graph's order,
    each activation from the node that computes it to the last that reads it, inputs and outputs of the graph included.
    peak_node: where that happens.
    """

    gmac: float
    parameters: int
    nodes: int
    bytes: int
    largest: Activation
    peak_bytes: int
    peak_node: str


def statistics(model: onnx.ModelProto, batch: int = 1) -> GraphStatistics:
    """Figures of `model` for `batch` photos. Raises ArtefactError where a shape can't be inferred."""
    graph = model.graph
    values = _infer(model, batch)
    constants = _constants(graph)
    activations = {name: value for name, value in values.items() if name not in constants}
    peak_bytes, peak_node = _peak(graph, activations)
    largest = max(
        (activations[name] for node in graph.node for name in node.output if name in activations), key=lambda found: found.bytes
    )
    shapes = {name: value.shape for name, value in values.items()}
    return GraphStatistics(
        gmac=sum(_multiplications(node, shapes) for node in graph.node if not constants.issuperset(node.output)) / GIGA,
        parameters=sum(prod(tensor.dims) for tensor in graph.initializer if tensor.data_type not in INDEX_TYPES),
        nodes=len(graph.node),
        bytes=model.ByteSize(),
        largest=largest,
        peak_bytes=peak_bytes,
        peak_node=peak_node,
    )


def node_gmac(model: onnx.ModelProto, batch: int = 1) -> dict[str, float]:
    """{name of a node: its 1e9 multiply-adds}, of the nodes that `GraphStatistics.gmac` counts. Raises as `statistics`."""
    shapes = {name: value.shape for name, value in _infer(model, batch).items()}
    constants = _constants(model.graph)
    found = {
        node.name: _multiplications(node, shapes) / GIGA for node in model.graph.node if not constants.issuperset(node.output)
    }
    return {name: gmac for name, gmac in found.items() if gmac}


def _constants(graph: onnx.GraphProto) -> set[str]:
    """Names of constants, and of what is computed from nothing else: an engine computes that once, when it loads."""
    known = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if all(name in known for name in node.input if name):
            known.update(node.output)
    return known


def _infer(model: onnx.ModelProto, batch: int) -> dict[str, Activation]:
    """Shape and bytes of every value, with the free first dimension set to `batch`."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    given = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= SHAPE_VALUES:
            light.graph.initializer.append(tensor)
        elif tensor.name not in given:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for value in (*light.graph.input, *light.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = batch
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    found = {value.name: _activation(value) for value in (*inferred.input, *inferred.value_info, *inferred.output)}
    values = {name: value for name, value in found.items() if value is not None}
    values |= {
        tensor.name: Activation(tensor.name, tuple(tensor.dims), prod(tensor.dims) * _itemsize(tensor.data_type))
        for tensor in inferred.initializer
    }
    missing = [name for node in model.graph.node for name in node.output if name and name not in values]
    if missing:
        raise ArtefactError(
            f"the shapes of {len(missing)} tensors can't be inferred ({', '.join(missing[:NAMED])}, ...): "
            "this graph has operators that onnx does not know"
        )
    return values


def _activation(value: onnx.ValueInfoProto) -> Activation | None:
    """The value if its shape is known throughout."""
    tensor = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    shape = tuple(dim for dim in dims if dim is not None)
    if not tensor.HasField("shape") or len(shape) < len(dims):
        return None
    return Activation(value.name, shape, prod(shape) * _itemsize(tensor.elem_type))


def _itemsize(elem_type: int) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize)


def _multiplications(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Multiply-adds of one node; 0 for what is no convolution or matrix product."""
    if node.op_type in ("Conv", "ConvInteger"):
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type in ("MatMul", "MatMulInteger"):
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    if node.op_type == "Einsum":
        return _einsum_multiplications(node, [shapes[name] for name in node.input])
    return 0


def _einsum_multiplications(node: onnx.NodeProto, shapes: Iterable[Shape]) -> int:
    """The product of the sizes of all labels."""
    equation = next(attribute.s.decode() for attribute in node.attribute if attribute.name == "equation")
    labels = equation.split("->")[0].replace(" ", "").split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(labels, shapes, strict=True):
        sizes.update(zip(term, shape, strict=True))
    return prod(sizes.values())


def _peak(graph: onnx.GraphProto, activations: Mapping[str, Activation]) -> tuple[int, str]:
    """The most bytes alive at once, and the node at which they are."""
    storage: dict[str, str] = {}  # a view's memory is that of what it views
    for node in graph.node:
        for name in node.output:
            viewed = node.input[0] if node.op_type in VIEWS else name
            storage[name] = storage.get(viewed, viewed)
    end = len(graph.node)
    last_use = {storage.get(name, name): i for i, node in enumerate(graph.node) for name in node.input}
    last_use.update({storage.get(value.name, value.name): end for value in graph.output})
    alive = {value.name: activations[value.name].bytes for value in graph.input if value.name in activations}
    peak, where = sum(alive.values()), ""
    for i, node in enumerate(graph.node):
        for name in node.output:
            if name in activations and storage[name] == name:
                alive[name] = activations[name].bytes
        if sum(alive.values()) > peak:
            peak, where = sum(alive.values()), node.name
        for name in [name for name in alive if last_use.get(name, i) <= i]:
            del alive[name]
    return peak, where
