"""Run the float32 graph on one photo and give out every tensor that it computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

FloatArray = npt.NDArray[np.float32]
# Tensors given out by one run. Each is a copy; a run per group bounds how many are alive at once.
GROUP = 64
FATAL = 4  # log severity: what goes wrong comes as an exception


class Activations:
    """A session of ONNX Runtime on the CPU, in float32, that gives out the tensors of a graph by name."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        inputs, given = {value.name for value in model.graph.input}, {value.name for value in model.graph.output}
        exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given | inputs)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        self._session = onnxruntime.InferenceSession(exposed.SerializeToString(), options, ["CPUExecutionProvider"])
        self._feed = self._session.get_inputs()[0].name
        self._names = [name for name in names if name not in inputs]

    def of(self, photo: FloatArray) -> Iterator[tuple[str, FloatArray]]:
        """(name, value) of the graph's input and of every tensor; photo: float32 [1,1,H,W]."""
        yield self._feed, photo
        for start in range(0, len(self._names), GROUP):
            group = self._names[start : start + GROUP]
            for name, value in zip(group, self._session.run(group, {self._feed: photo}), strict=True):
                yield name, np.asarray(value, np.float32)
