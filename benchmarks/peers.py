"""Openers for what a user would do without us: each engine with its own defaults, or with the hints that a candidate states.

A candidate names one as `icf_deploy.benchmarks.peers:ort_defaults` and brings an ONNX file or a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from icf_deploy.benchmarks.onnx_shapes import plain_sizes
from icf_deploy.benchmarks.openers import graph_of
from icf_deploy.errors import UsageError

if TYPE_CHECKING:
    from types import TracebackType

    from icf_deploy.benchmarks.candidate import Candidate
    from icf_deploy.runtimes.base import FloatArray


class PeerSession:
    """A session around one function gray -> ab. `formats` is what the engine was asked for: peers tell nothing more."""

    def __init__(
        self, run: Callable[[FloatArray], FloatArray], size: tuple[int, int], output_size: tuple[int, int], asked: str
    ) -> None:
        self.run = run
        self.size = size
        self.output_size = output_size
        self.formats: Mapping[str, int] = {asked: 1}

    def close(self) -> None:
        """Nothing to free before the process ends."""

    def __enter__(self) -> PeerSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def ort_defaults(candidate: Candidate) -> PeerSession:
    """ONNX Runtime as `InferenceSession(file)` gives it; only the number of threads is the candidate's, if it states one."""
    import onnxruntime

    data = graph_of(candidate).data
    size, output_size = plain_sizes(data)
    options = onnxruntime.SessionOptions()
    if candidate.threads is not None:
        options.intra_op_num_threads = candidate.threads
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return PeerSession(lambda gray: cast("FloatArray", session.run(None, {name: gray})[0]), size, output_size, "asked: fp32")


def openvino_defaults(candidate: Candidate) -> PeerSession:
    """OpenVINO as `compile_model(file)` gives it. Option `precision`: its INFERENCE_PRECISION_HINT (`f32`, `bf16`, `f16`)."""
    import openvino

    data = graph_of(candidate).data
    size, output_size = plain_sizes(data)
    hints: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if "precision" in candidate.options:
        hints["INFERENCE_PRECISION_HINT"] = candidate.options["precision"]
    if candidate.threads is not None:
        hints["INFERENCE_NUM_THREADS"] = candidate.threads
    core = openvino.Core()
    request = core.compile_model(core.read_model(data), "CPU", hints).create_infer_request()
    asked = f"asked: {candidate.options.get('precision', 'default')}"
    return PeerSession(lambda gray: cast("FloatArray", request.infer({0: gray})[0].copy()), size, output_size, asked)


def torch_eager(candidate: Candidate) -> PeerSession:
    """PyTorch eager in inference mode.

    Options: `preset` (random weights, `seed`) unless the candidate has a checkpoint file; `size` [H, W];
    `channels_last` (bool); `compile` (bool: through torch.compile).
    """
    import torch

    options = candidate.options
    if candidate.threads is not None:
        torch.set_num_threads(candidate.threads)
    network = _network(candidate)
    if options.get("channels_last"):
        network = network.to(memory_format=torch.channels_last)
    function = torch.compile(network) if options.get("compile") else network
    height, width = options.get("size", (256, 256))

    def run(gray: FloatArray) -> FloatArray:
        with torch.inference_mode():
            return cast("FloatArray", function(torch.from_numpy(np.require(gray, requirements="W"))).contiguous().numpy())

    stride = int(network.stride)
    return PeerSession(run, (height, width), (height // stride, width // stride), "asked: fp32")


def _network(candidate: Candidate) -> Any:
    """The network of the candidate's checkpoint file or preset, in evaluation mode."""
    import torch

    if candidate.file is not None:
        from icf_deploy.network.checkpoint import load_checkpoint

        return load_checkpoint(candidate.file)
    preset = candidate.options.get("preset")
    if preset is None:
        raise UsageError(f"{candidate.label}: torch_eager needs a checkpoint file or the option preset")
    from icf_deploy.network import presets

    torch.manual_seed(int(candidate.options.get("seed", 0)))
    return presets.build(str(preset)).eval()
