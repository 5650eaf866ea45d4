"""Input and output size of a plain ONNX file, read without the onnx package: a device does not have it.

Follows onnx.proto3: ModelProto.graph = 7; GraphProto.initializer = 5, input = 11, output = 12; ValueInfoProto.name = 1,
type = 2; TypeProto.tensor_type = 1; Tensor.shape = 2; TensorShapeProto.dim = 1; Dimension.dim_value = 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from icf_deploy.errors import ArtefactError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of Protocol Buffers
_IMAGE_RANK = 4  # [N,C,H,W]


def plain_sizes(data: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """(H, W) of the gray input and (h, w) of the ab output of an ONNX model.

    Raises ArtefactError where `data` is no ONNX model with one input [N,1,H,W] and one output [N,2,h,w] of fixed H and W.
    """
    view = memoryview(data)
    try:
        graph = next(_submessages(view, 7))
        weights = {_text(_first(tensor, 8)) for tensor in _submessages(graph, 5)}
        inputs = [value for value in _submessages(graph, 11) if _text(_first(value, 1)) not in weights]
        outputs = list(_submessages(graph, 12))
        shapes = [_shape(value) for value in (*inputs, *outputs)]
    except (StopIteration, IndexError, UnicodeDecodeError, ValueError) as error:
        raise ArtefactError("this is not an ONNX model: its bytes do not follow onnx.proto3") from error
    if len(inputs) != 1 or len(outputs) != 1 or [shape[1:2] for shape in shapes] != [[1], [2]]:
        raise ArtefactError(f"expected a graph with one input [N,1,H,W] and one output [N,2,h,w], found shapes {shapes}")
    if any(len(shape) != _IMAGE_RANK or min(shape[2:]) < 1 for shape in shapes):
        raise ArtefactError(f"expected fixed sizes H x W and h x w, found shapes {shapes} (0 is a free dimension)")
    return (shapes[0][2], shapes[0][3]), (shapes[1][2], shapes[1][3])


def _shape(value: memoryview) -> list[int]:
    """Dimensions of a ValueInfoProto; 0 where one is free."""
    tensor = _first(_first(value, 2), 1)
    return [next((int(dim) for number, dim in _fields(entry) if number == 1 and isinstance(dim, int)), 0)
            for entry in _submessages(_first(tensor, 2), 1)]  # fmt: skip


def _first(message: memoryview, number: int) -> memoryview:
    return next(_submessages(message, number), memoryview(b""))


def _submessages(message: memoryview, number: int) -> Iterator[memoryview]:
    return (value for found, value in _fields(message) if found == number and isinstance(value, memoryview))


def _text(value: memoryview) -> str:
    return bytes(value).decode()


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of every field: integers for varints, the bytes for everything else."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(message):
            raise IndexError("the message ends early")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return value, at
