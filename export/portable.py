"""A graph for strict targets: common operators only, and no tensor of more than five dimensions.

1. Einsum of the form b k c, b c ... -> b k ... is a matrix product between two reshapes.
2. DepthToSpace is two permutations in five dimensions: the columns of each block first, then its rows. (In one permutation
   it needs six.)
3. Gelu is x / 2 * (1 + erf(x / sqrt(2))).

All three are exact. They are no rewrites of `lowering`: they make nothing cheaper.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes
import onnx_ir.tape

from icf_deploy.errors import ArtefactError

OPTION = "--portable-ops"
MOST_DIMENSIONS = 5
MATRIX_LABELS = 3  # of a batch of matrices: batch, row, column
# What the importers of TensorRT, OpenVINO, ONNX Runtime, Core ML, LiteRT and ncnn all name among their operators.
PORTABLE_OPERATORS = frozenset(
    {
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Concat",
        "Conv",
        "DequantizeLinear",
        "Div",
        "Erf",
        "Expand",
        "Flatten",
        "Gather",
        "Gemm",
        "Identity",
        "LayerNormalization",
        "MatMul",
        "Mul",
        "Pad",
        "Pow",
        "QuantizeLinear",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Resize",
        "Shape",
        "Slice",
        "Softmax",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
    }
)


def portable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function in PORTABLE_OPERATORS, as a new model. Raises ArtefactError where it can't be said in them."""
    graph = ir.from_proto(model)
    ir_passes.ShapeInferencePass()(graph)
    translations = {"Einsum": _einsum, "DepthToSpace": _depth_to_space, "Gelu": _gelu}
    for node in list(graph.graph):
        translate = translations.get(node.op_type)
        if translate is not None:
            _replace(graph.graph, node, translate(node))
    ir_passes.RemoveUnusedNodesPass()(graph)
    ir_passes.ShapeInferencePass()(graph)
    _require_portable(graph)
    return ir.to_proto(graph)


def _require_portable(model: ir.Model) -> None:
    foreign = sorted({node.op_type for node in model.graph} - PORTABLE_OPERATORS)
    if foreign:
        raise ArtefactError(f"the operators {', '.join(foreign)} can't be written portably; export without {OPTION}")
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and len(value.shape) > MOST_DIMENSIONS:
                raise ArtefactError(
                    f"{value.name} has {len(value.shape)} dimensions, a portable graph at most {MOST_DIMENSIONS}"
                )


def _replace(graph: ir.Graph, node: ir.Node, tape: ir.tape.Tape) -> None:
    """Put what `tape` recorded, whose last node gives the result, in the place of `node`, under its name and path."""
    old, new = node.outputs[0], tape.nodes[-1].outputs[0]
    for i, added in enumerate(tape.nodes):
        added.name = f"{node.name}.{i}"  # the exporter numbers with underscores
        added.metadata_props.update(node.metadata_props)
        for output in added.outputs:
            output.name = f"{old.name}.{i}"
    for value in tape.initializers:
        graph.register_initializer(value)
    name = old.name
    new.shape, new.type = old.shape, old.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, [old], [new])
    new.name = name


def _reshape(tape: ir.tape.Tape, x: ir.Value, shape: list[int], name: str) -> ir.Value:
    """Reshape to [N, *shape]."""
    target = tape.initializer(ir.tensor(np.array([0, *shape], np.int64)), name=name)
    return tape.op("Reshape", [x, target])


def _sizes(value: ir.Value) -> list[int]:
    """The dimensions behind the batch."""
    if value.shape is None or not all(isinstance(dim, int) for dim in list(value.shape)[1:]):
        raise ArtefactError(f"{value.name} has no fixed shape behind its batch, so {OPTION} can't translate what reads it")
    return [int(dim) for dim in list(value.shape)[1:]]  # type: ignore[arg-type]  # just checked


def _inputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _einsum(node: ir.Node) -> ir.tape.Tape:
    """Formula 1. Raises ArtefactError for any other einsum."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    terms, _, result = equation.partition("->")
    left, _, right = terms.partition(",")
    rest = right[2:]
    if len(left) != MATRIX_LABELS or right[:2] != left[0] + left[2] or result != left[:2] + rest:
        raise ArtefactError(f"the einsum {equation!r} is no matrix product as it stands, so {OPTION} can't translate it")
    matrix, x = _inputs(node)
    summed, *image = _sizes(x)
    tape = ir.tape.Tape()
    flat = _reshape(tape, x, [summed, math.prod(image)], f"{node.name}_flat")
    product = tape.op("MatMul", [matrix, flat])
    _reshape(tape, product, [_sizes(matrix)[0], *image], f"{node.name}_image")
    return tape


def _depth_to_space(node: ir.Node) -> ir.tape.Tape:
    """Formula 2, for channels in the order (channel, row, column) that PixelShuffle has."""
    if node.attributes.get_string("mode", "DCR") != "CRD":
        raise ArtefactError(f"{node.name} orders its channels unlike PixelShuffle, so {OPTION} can't translate it")
    (x,) = _inputs(node)
    block = node.attributes.get_int("blocksize")
    channels, height, width = _sizes(x)
    kept = channels // block**2
    tape = ir.tape.Tape()
    columns = _reshape(tape, x, [kept * block, block, height, width], f"{node.name}_columns")
    columns = tape.op("Transpose", [columns], {"perm": [0, 1, 3, 4, 2]})
    rows = _reshape(tape, columns, [kept, block, height, width * block], f"{node.name}_rows")
    rows = tape.op("Transpose", [rows], {"perm": [0, 1, 3, 2, 4]})
    _reshape(tape, rows, [kept, height * block, width * block], f"{node.name}_image")
    return tape


def _gelu(node: ir.Node) -> ir.tape.Tape:
    """Formula 3. Raises ArtefactError for the approximation by tanh."""
    if node.attributes.get_string("approximate", "none") != "none":
        raise ArtefactError(f"{node.name} is the approximate Gelu, which {OPTION} does not translate")
    (x,) = _inputs(node)
    dtype = x.dtype.numpy() if x.dtype is not None else np.dtype(np.float32)
    tape = ir.tape.Tape()

    def constant(number: float, role: str) -> ir.Value:
        return tape.initializer(ir.tensor(np.array(number, dtype)), name=f"{node.name}_{role}")

    scaled = tape.op("Mul", [x, constant(1 / math.sqrt(2), "scale")])
    raised = tape.op("Add", [tape.op("Erf", [scaled]), constant(1.0, "one")])
    half = tape.op("Mul", [x, constant(0.5, "half")])
    tape.op("Mul", [half, raised])
    return tape
