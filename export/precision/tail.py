"""Run only what a recipe changes: what the float32 graph computes before that is computed once, and kept.

A graph can be entered where a block begins. The values that are alive there were kept from a float32 run; a recipe that leaves
everything before in float32 computes the same ones, so its graph is cut off there and fed with them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from icf_deploy.export.precision.apply import AppliedGraph
from icf_deploy.export.precision.blocks import block_of
from icf_deploy.export.precision.nodes import is_product, node_keys, reads
from icf_deploy.export.precision.ranges import cpu_session

KEPT_BYTES = 2**30  # of values, over all photos; where that is not enough, the later blocks' are kept, which save more
WIDE = "fp32"

FloatArray = npt.NDArray[np.float32]
Values = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Entry:
    """A place where a graph can be entered. before: keys of the nodes that are computed before it. names: of what is alive."""

    before: tuple[str, ...]
    names: tuple[str, ...]


class Tails:
    """Runs graphs that recipes have made of one float32 graph, each from the last entry before its first narrow node.

    gray: float32 [N,1,H,W]; photos are run one by one, on ONNX Runtime's CPU provider.
    """

    def __init__(self, model: onnx.ModelProto, gray: FloatArray) -> None:
        kept = entries(ir.from_proto(model).graph)
        feed = model.graph.input[0].name
        photos = [photo[None] for photo in gray]
        first = _run(model, sorted(_names(kept) - {feed}), feed, photos[:1])[0]
        while sum(first[name].nbytes for name in _names(kept) - {feed}) * len(gray) > KEPT_BYTES:
            kept = kept[1:]
        names = sorted(_names(kept) - {feed})
        self._entries = kept
        self._values = [{name: first[name] for name in names}, *_run(model, names, feed, photos[1:])]
        for photo, values in zip(photos, self._values, strict=True):
            values[feed] = photo

    def run(self, applied: AppliedGraph) -> FloatArray | None:
        """ab [N,2,h,w]; None where the graph is better run from its beginning."""
        entry = next((entry for entry in reversed(self._entries) if _wide(applied, entry.before)), None)
        if entry is None or _wide(applied, applied.formats):
            return None
        tail = tail_of(applied.model, {name: self._values[0][name] for name in entry.names})
        session, feeds = cpu_session(tail), [value.name for value in tail.graph.input]
        return np.concatenate([session.run(None, {name: values[name] for name in feeds})[0] for values in self._values])


def _run(model: onnx.ModelProto, names: list[str], feed: str, photos: Sequence[FloatArray]) -> list[Values]:
    """The values of these names on each photo, computed no further than needed."""
    if not names or not photos:
        return [{} for _ in photos]
    session = cpu_session(tail_of(model, {feed: photos[0]}, names))
    return [dict(zip(names, session.run(names, {feed: photo}), strict=True)) for photo in photos]


def _names(entries: Sequence[Entry]) -> set[str]:
    return {name for entry in entries for name in entry.names}


def tail_of(model: onnx.ModelProto, given: Values, wanted: Sequence[str] = ()) -> onnx.ModelProto:
    """The part of a graph that computes `wanted` (none: its outputs) from the values of `given`."""
    graph = model.graph
    makers = {name: number for number, node in enumerate(graph.node) for name in node.output}
    outputs = [onnx.ValueInfoProto(name=name) for name in wanted] or list(graph.output)
    asked = [value.name for value in outputs]
    seen: set[int] = set()
    read: set[str] = set()
    while asked:
        name = asked.pop()
        read.add(name)
        if name in given or name not in makers or makers[name] in seen:
            continue
        seen.add(makers[name])
        asked += [name for name in graph.node[makers[name]].input if name]
    tail = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    tail.graph.name = graph.name
    tail.graph.node.extend(graph.node[number] for number in sorted(seen))
    tail.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    tail.graph.output.extend(outputs)
    tail.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given.items()
        if name in read
    )
    return tail


def entries(graph: ir.Graph) -> tuple[Entry, ...]:
    """One before the first product of each block, in the graph's order; not where nothing would be saved."""
    keys = node_keys(graph)
    nodes = list(graph)
    begun: set[str] = set()
    found = []
    for number, node in enumerate(nodes):
        if not is_product(node) or block_of(keys[node]) in begun:
            continue
        begun.add(block_of(keys[node]))
        names = _alive(graph, nodes, number)
        if not names.issubset(value.name for value in graph.inputs):
            found.append(Entry(tuple(keys[node] for node in nodes[:number]), tuple(sorted(names))))
    return tuple(found)


def _alive(graph: ir.Graph, nodes: Sequence[ir.Node], start: int) -> set[str]:
    """Names of the values that the nodes from `start` on read and do not compute."""
    rest = set(nodes[start:])
    values = [value for node in nodes[start:] for _, value in reads(node)] + list(graph.outputs)
    return {value.name or "" for value in values if value.producer() not in rest}


def _wide(applied: AppliedGraph, keys: Collection[str]) -> bool:
    return all(applied.formats.get(key, WIDE) == WIDE for key in keys)
