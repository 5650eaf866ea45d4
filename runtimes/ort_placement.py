"""What ONNX Runtime made of a graph: on which provider its nodes run, and in which formats they computed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_deploy.runtimes.session import GRAY_CHANNELS, UNREPORTED

if TYPE_CHECKING:
    import onnxruntime

# Of a profiled node's tensors, the first format named here is the one that it computed in.
FORMAT_OF_TENSOR = {
    "int8": "int8",
    "uint8": "int8",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float": "fp32",
    "double": "fp64",
}
# Operators that convert a format, or only move data: no arithmetic of the network happens in them.
CONVERTING = {"QuantizeLinear", "DequantizeLinear", "Cast", "ReorderInput", "ReorderOutput", "MemcpyToHost", "MemcpyFromHost"}
RESHAPING = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Transpose", "DepthToSpace", "SpaceToDepth", "Shape"}
COPYING = {"Concat", "Split", "Slice", "Gather", "Expand", "Tile", "Pad", "Constant", "ConstantOfShape"}
NOT_COMPUTING = CONVERTING | RESHAPING | COPYING
# Nearly all of a network's work; the others may run where they like (what computes shapes belongs on the CPU).
HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"}


def placement(session: onnxruntime.InferenceSession) -> dict[str, int] | None:
    """Heavy nodes per provider; None where this version (before 1.24) doesn't tell. Needs the option that records it."""
    read = getattr(session, "get_provider_graph_assignment_info", None)
    if read is None:
        return None
    counts: Counter[str] = Counter()
    for group in read():
        counts[str(group.ep_name)] += sum(1 for node in group.get_nodes() if node.op_type in HEAVY)
    return {name: count for name, count in counts.items() if count}


def executed_formats(
    options: onnxruntime.SessionOptions,
    load: Callable[[onnxruntime.SessionOptions], onnxruntime.InferenceSession],
    name: str,
    size: tuple[int, int],
    compiling: str | None,
) -> dict[str, int]:
    """Computing nodes per format, from a profile of one run on zeros. name: of the input. compiling: as `count_formats`."""
    import tempfile

    import numpy as np

    with tempfile.TemporaryDirectory(prefix="icf-profile-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "ort")
        session = load(options)
        session.run(None, {name: np.zeros((1, GRAY_CHANNELS, *size), np.float32)})
        events = json.loads(Path(session.end_profiling()).read_bytes())
    return count_formats(events, compiling)


def count_formats(events: list[dict[str, Any]], compiling: str | None = None) -> dict[str, int]:
    """Computing nodes per format, from the events of ONNX Runtime's profile.

    compiling: the provider, if it compiles parts of the graph. It shows each part as one node, and keeps the formats inside
    for itself.
    """
    counts: Counter[str] = Counter()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        details = event["args"]
        operator = str(details["op_name"])
        if compiling is not None and details.get("provider") == compiling:
            counts[UNREPORTED] += 1
            continue
        tensors = {kind for shape in details["input_type_shape"] + details["output_type_shape"] for kind in shape}
        format_name = next((name for kind, name in FORMAT_OF_TENSOR.items() if kind in tensors), None)
        if format_name is not None and operator not in NOT_COMPUTING:
            counts[format_name] += 1
    return dict(counts)
