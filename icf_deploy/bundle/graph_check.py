"""What must hold of a graph's bytes before an engine sees them, found without the onnx package.

An ONNX file can name other files for its weights, and can carry machine code that some engines would run. So its protobuf is
walked here, as far as tensors and nodes stand in it:

1. it is an ONNX model in protobuf, beginning with its IR version, and nothing that an engine would take for another format;
2. no tensor keeps its data outside (TensorProto.external_data is empty, data_location is DEFAULT);
3. no node holds a compiled engine (EPContext of every execution provider, and the older Snpe);
4. messages nest no deeper than protobuf's readers go, and are no more than a network needs.

Field numbers: onnx.proto of ONNX 1.23. Encoding: protobuf.dev/programming-guides/encoding. What is ambiguous is refused, so
that no reader can understand it otherwise: tags in more bytes than needed, groups, fields of another wire type than theirs.
"""

from __future__ import annotations

from icf_deploy.errors import IntegrityError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are in no ONNX file

FIRST_BYTE = 0x08  # tag of ModelProto.ir_version: every writer puts it first
# Flatbuffers stand at byte 4: formats that ONNX Runtime and OpenVINO recognize there, whatever the rest of the bytes is.
FOREIGN_MAGIC = (b"ORTM", b"TFL3")
DEPTH_LIMIT = 100  # messages inside each other; protobuf's own limit
FIELD_LIMIT = 1_000_000  # fields that are looked at; a network of 1000 nodes has some 30,000
VARINT_BYTES = 10  # of the longest number
CONTINUED = 0x80  # a byte of this or more is not the last of its number
LARGEST_TAG = 2**32 - 1
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
COMPILED = (b"EPContext", b"Snpe")  # operators whose payload is an engine
OUTSIDE = "a tensor keeps its data in another file, and a bundle's graphs hold all of theirs"

MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, SPARSE, TRAINING, FUNCTION = range(8)
# Fields that lead to tensors and nodes: message -> {field number: message of its content}.
CHILDREN: dict[int, dict[int, int]] = {
    MODEL: {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    TENSOR: {},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TRAINING: {1: GRAPH, 2: GRAPH},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
}
# Fields whose content is looked at: a node's op_type and a tensor's external_data.
TEXTS: dict[int, tuple[int, ...]] = {NODE: (4,), TENSOR: (13,)}
TENSOR_DATA_LOCATION = 14


def check_graph(data: bytes, place: str) -> None:
    """Raise IntegrityError, which begins with `place`, where `data` breaks one of the rules above."""
    try:
        if data[:1] != bytes([FIRST_BYTE]) or data[4:8] in FOREIGN_MAGIC:
            raise _RefusedError("it is no ONNX model")
        _walk(data)
    except _RefusedError as error:
        raise IntegrityError(f"{place}: {error}. Do not run it; write the bundle again with `icf-deploy export`") from error
    except IndexError as error:
        raise IntegrityError(f"{place}: it is cut off. Copy the bundle again") from error


class _RefusedError(Exception):
    """Which rule is broken."""


def _walk(data: bytes) -> None:  # noqa: PLR0912  # one loop: a call per field would take three times as long
    waiting = [(MODEL, 0, len(data), 1)]  # message, first byte, byte behind the last, depth
    fields = graphs = 0
    while waiting:
        message, position, end, depth = waiting.pop()
        children, texts = CHILDREN[message], TEXTS.get(message, ())
        if depth > DEPTH_LIMIT:
            raise _RefusedError(f"its messages nest deeper than {DEPTH_LIMIT}")
        while position < end:
            fields += 1
            tag = data[position]
            position += 1
            if tag >= CONTINUED:
                tag, position = _long_tag(data, position - 1)
            number, wire = tag >> 3, tag & 7
            if wire == BYTES and not (message == TENSOR and number == TENSOR_DATA_LOCATION):
                length = data[position]
                position += 1
                if length >= CONTINUED:
                    length, position = _long_varint(data, position - 1)
                start, position = position, position + length
                if number in children:
                    waiting.append((children[number], start, position, depth + 1))
                    graphs += message == MODEL and children[number] == GRAPH
                elif number in texts:
                    _require_allowed(message, data[start:position])
            elif number in children or number in texts or wire not in (VARINT, FIXED32, FIXED64):
                raise _RefusedError("it is no ONNX model: a field is encoded as none of ONNX is")
            elif wire == VARINT:
                value, position = _long_varint(data, position)
                if value and message == TENSOR and number == TENSOR_DATA_LOCATION:
                    raise _RefusedError(OUTSIDE)
            else:
                position += FIXED_BYTES[wire]
            if position > end:
                raise _RefusedError("it is no ONNX model: a field reaches beyond its message")
            if fields > FIELD_LIMIT:
                raise _RefusedError(f"it has more than {FIELD_LIMIT} fields, which no network needs")
    if not graphs:
        raise _RefusedError("it is no ONNX model: there is no graph in it")


def _require_allowed(message: int, content: bytes) -> None:
    """Refuse external data, whatever it says, and operators that hold a compiled engine."""
    if message == TENSOR:
        raise _RefusedError(OUTSIDE)
    if content in COMPILED:
        raise _RefusedError(f"it holds a compiled engine (operator {content.decode()}), and a graph is no machine code")


def _long_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number that begins at `position`, and the position behind it."""
    value = 0
    for i in range(VARINT_BYTES):
        byte = data[position + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < CONTINUED:
            return value, position + i + 1
    raise _RefusedError("it is no ONNX model: a number does not end")


def _long_tag(data: bytes, position: int) -> tuple[int, int]:
    """As `_long_varint`, but a tag must be as short as it can be: readers differ about others."""
    tag, behind = _long_varint(data, position)
    if tag >> 7 * (behind - position - 1) == 0 or tag > LARGEST_TAG:
        raise _RefusedError("it is no ONNX model: a field's number is written in a way that readers understand differently")
    return tag, behind
