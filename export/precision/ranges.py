"""Run the float32 graph on one photo and give out every tensor that it computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from icf_deploy.runtimes.cores import thread_count

FloatArray = npt.NDArray[np.float32]
# Of tensors given out by one run: each is a copy, and every group of them computes the whole graph again.
GROUP_BYTES = 2**29
FATAL = 4  # log severity: what goes wrong comes as an exception


def cpu_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on the CPU. Unlike an engine's it may have any inputs and outputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = thread_count(None)
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


class Activations:
    """A session in float32 that gives out the tensors of a graph by name."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        inputs, given = {value.name for value in model.graph.input}, {value.name for value in model.graph.output}
        exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given | inputs)
        self._session = cpu_session(exposed)
        self._feed = self._session.get_inputs()[0].name
        lengths = {value.name: _bytes(value.shape) for value in self._session.get_outputs()}
        self._groups = _grouped({name: lengths[name] for name in names if name not in inputs})

    def of(self, photo: FloatArray) -> Iterator[tuple[str, FloatArray]]:
        """(name, value) of the graph's input and of every tensor; photo: float32 [1,1,H,W]."""
        yield self._feed, photo
        for group in self._groups:
            for name, value in zip(group, self._session.run(group, {self._feed: photo}), strict=True):
                yield name, np.asarray(value, np.float32)


def _grouped(lengths: Mapping[str, int]) -> list[list[str]]:
    """Names in groups of at most GROUP_BYTES, where one alone has no more."""
    groups: list[list[str]] = []
    room = 0
    for name, length in lengths.items():
        if length > room or not groups:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(name)
        room -= length
    return groups


def _bytes(shape: Sequence[object]) -> int:
    """Of a float32 tensor; a free dimension is the batch, which is 1."""
    return math.prod(side for side in shape if isinstance(side, int)) * np.dtype(np.float32).itemsize
