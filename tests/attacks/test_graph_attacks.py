from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from icf_deploy.bundle.graph_check import check_graph
from icf_deploy.errors import IntegrityError

Refused = Callable[..., None]
Restate = Callable[..., None]
Models = Callable[[float], onnx.ModelProto]
GRAPH = "graphs/fp32.onnx"
OUTSIDE = r"graphs/fp32\.onnx: a tensor keeps its data in another file"


def external(location: str = "../../../../etc/passwd") -> onnx.TensorProto:
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[2, 1, 4, 4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def constant(tensor: onnx.TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def as_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(external())


def absolute(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(external("/etc/passwd"))


def without_its_mark(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="x")


def without_a_place(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def as_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(constant(external()))


def in_a_list_of_tensors(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Anything", [], ["c"], domain="x", values=[external(), external()]))


def in_a_branch(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([constant(external())], "inner", [], [])
    for _ in range(8):
        inner = helper.make_graph([helper.make_node("If", ["x"], ["c"], then_branch=inner, else_branch=inner)], "outer", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=inner, else_branch=inner))


def in_a_function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("x", "f", [], ["c"], [constant(external())], [helper.make_opsetid("", 17)]))


def as_default_of_a_function(model: onnx.ModelProto) -> None:
    function = helper.make_function("x", "f", [], [], [], [helper.make_opsetid("", 17)])
    function.attribute_proto.append(helper.make_attribute("a", external()))
    model.functions.append(function)


def in_a_sparse_tensor(model: onnx.ModelProto) -> None:
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.ones(1, np.float32), "v"), indices, [4])
    sparse.values.CopyFrom(external())
    model.graph.sparse_initializer.append(sparse)


def as_indices_of_a_sparse_attribute(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "v")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64), "i"), [4])
    sparse.indices.CopyFrom(external())
    model.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse))


def in_training_information(model: onnx.ModelProto) -> None:
    model.training_info.add().initialization.initializer.append(external())


@pytest.mark.parametrize(
    "change",
    [
        as_initializer,
        absolute,
        without_its_mark,
        without_a_place,
        as_attribute,
        in_a_list_of_tensors,
        in_a_branch,
        in_a_function,
        as_default_of_a_function,
        in_a_sparse_tensor,
        as_indices_of_a_sparse_attribute,
        in_training_information,
    ],
)
def test_weights_in_another_file(
    change: Callable[[onnx.ModelProto], None], victim: Path, models: Models, refused: Refused, restate: Restate
) -> None:
    model = models(100)
    change(model)
    restate(victim, {GRAPH: model.SerializeToString()})
    refused(victim, OUTSIDE)


def test_weights_in_another_file_where_the_mark_is_written_so_that_readers_may_differ(
    victim: Path, models: Models, refused: Refused, restate: Restate
) -> None:
    data = models(100).SerializeToString()
    tensor = b"\x08\x04\x10\x01\x42\x01w"
    for mark in (
        b"\x70\x81\x80\x80\x80\x80\x80\x80\x80\x80\x01",  # 1, in more bytes than needed, and bits beyond an enum's 32
        b"\x70\x81\x00",  # 1, in more bytes than needed
        b"\x70\x01\x70\x00",  # first outside, then inside again
        b"\x70\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # -1
    ):
        message = tensor + mark
        graph = b"\x2a" + bytes([len(message)]) + message
        restate(victim, {GRAPH: data + b"\x3a" + bytes([len(graph)]) + graph})  # merged with the graph that is there
        refused(victim, OUTSIDE)
    message = tensor + b"\xf0\x00\x01"  # the tag in more bytes than needed
    graph = b"\x2a" + bytes([len(message)]) + message
    restate(victim, {GRAPH: data + b"\x3a" + bytes([len(graph)]) + graph})
    refused(victim, "readers understand differently")


@pytest.mark.parametrize("operator", ["com.microsoft:EPContext", ":EPContext", "com.microsoft:Snpe"])
def test_an_engine_inside_a_graph(operator: str, victim: Path, models: Models, refused: Refused, restate: Restate) -> None:
    domain, operator = operator.split(":")
    model = models(100)
    model.graph.node.append(
        helper.make_node(operator, ["gray"], ["x"], domain=domain, ep_cache_context="../evil.engine", embed_mode=0)
    )
    restate(victim, {GRAPH: model.SerializeToString()})
    refused(victim, f"holds a compiled engine .operator {operator}.")


FOREIGN = {
    "an ONNX Runtime flatbuffer that is an ONNX model, too": lambda good: b"\x08\x08\x12\x05ORTM!" + good[2:],
    "a TensorFlow Lite flatbuffer that is an ONNX model, too": lambda good: b"\x08\x08\x12\x05TFL3!" + good[2:],
    "an OpenVINO model": lambda _: b'<?xml version="1.0"?><net name="x" version="11"></net>',
    "a pickle": lambda _: b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94\x8c\x05print\x94\x93\x94.",
    "a zip file": lambda _: b"PK\x03\x04" + bytes(40),
    "a program": lambda _: b"\x7fELF" + bytes(60),
    "a TensorRT plan": lambda _: b"ptrt" + bytes(60),
    "text": lambda _: b"import os\n",
    "one byte": lambda _: b"\x08",
    "a model without a graph": lambda _: b"\x08\x08\x12\x01x",
    "a graph as a number": lambda good: good + b"\x38\x01",
    "groups": lambda good: good + b"\x3b\x3c",
    "cut off": lambda good: good[:-5],
    "cut off in a length": lambda good: good + b"\x3a\xff",
    "a number without end": lambda good: good + b"\x08" + b"\xff" * 20,
    "a field that reaches out of its message": lambda good: good + b"\x3a\x02\x0a\x7f" + bytes(200),
    "nested without end": lambda good: good + nested(5000),
}


def nested(depth: int) -> bytes:
    """A node with a graph with a node with a graph ..."""
    data = b""
    for i in range(3 * depth):
        tag = (b"\x32", b"\x2a", b"\x0a")[i % 3]  # attribute.g, node.attribute, graph.node
        length = len(data)
        encoded = bytearray()
        while True:
            encoded.append(length & 0x7F | (0x80 if length > 0x7F else 0))
            length >>= 7
            if not length:
                break
        data = tag + bytes(encoded) + data
    return b"\x3a" + bytes(_varint(len(data))) + data


def _varint(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN.keys())
def test_what_is_no_onnx_model(
    make: Callable[[bytes], bytes], victim: Path, models: Models, refused: Refused, restate: Restate
) -> None:
    restate(victim, {GRAPH: make(models(100).SerializeToString())})
    refused(victim, r"graphs/fp32\.onnx: it(s messages nest| is no ONNX model| is cut off)")


def test_a_graph_of_millions_of_empty_nodes(victim: Path, models: Models, refused: Refused, restate: Restate) -> None:
    nodes = b"\x0a\x00" * 1_100_000
    restate(victim, {GRAPH: models(100).SerializeToString() + b"\x3a" + bytes(_varint(len(nodes))) + nodes})
    refused(victim, "more than 1000000 fields")


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model, found by onnx's own descriptors: independent of the list of fields that is tested."""
    waiting = [model]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                values = value if isinstance(value, (list, tuple)) or hasattr(value, "add") else [value]
                waiting.extend(values)


def test_whatever_protobuf_reads_as_external_is_refused(models: Models) -> None:
    """Random changes of models with external data, judged by the real parser."""
    generator = random.Random(20261123)
    starts = []
    for change in (as_initializer, in_a_branch, in_a_function, in_a_sparse_tensor, as_attribute):
        model = models(100)
        change(model)
        starts.append(model.SerializeToString())
    starts.append(models(100).SerializeToString())
    parsed = outside = accepted = 0
    for _ in range(6000):
        data = bytearray(generator.choice(starts))
        for _ in range(generator.choice((0, 1, 1, 2, 4))):
            position = generator.randrange(len(data))
            kind = generator.randrange(3)
            if kind == 0:
                data[position] ^= 1 << generator.randrange(8)
            elif kind == 1:
                data[position:position] = bytes(generator.randrange(256) for _ in range(generator.randrange(1, 4)))
            else:
                del data[position]
        try:
            check_graph(bytes(data), "x")
            ours = True
        except IntegrityError:
            ours = False
        try:
            model = onnx.load_from_string(bytes(data))
        except Exception:
            continue
        parsed += 1
        accepted += ours
        if any(tensor.external_data or tensor.data_location == TensorProto.EXTERNAL for tensor in _tensors(model)):
            outside += 1
            assert not ours, bytes(data)
    assert outside > 1000
    assert accepted > 300
    assert parsed > 1500
