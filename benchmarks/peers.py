"""Openers for what a user would do without us: each engine with its own defaults, or with the hints that a candidate states.

A candidate names one as `icf_deploy.benchmarks.peers:ort_defaults` and brings an ONNX file, an OpenVINO model or a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from icf_deploy.benchmarks.onnx_shapes import plain_sizes
from icf_deploy.benchmarks.openers import graph_of
from icf_deploy.errors import UsageError
from icf_deploy.runtimes.signal_stack import kept_signal_stack

if TYPE_CHECKING:
    from pathlib import Path
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


@kept_signal_stack()
def openvino_defaults(candidate: Candidate) -> PeerSession:
    """OpenVINO as `compile_model(file)` gives it, of an `.onnx` file or of its own `.xml`, with the `.bin` beside it.

    Option `precision`: its INFERENCE_PRECISION_HINT (`f32`, `bf16`, `f16`). A free batch is set to 1, as its guides advise.
    """
    import openvino

    core = openvino.Core()
    own = candidate.file is not None and candidate.file.suffix == ".xml"
    model = core.read_model(candidate.file if own else graph_of(candidate).data)
    _, *rest = model.input(0).get_partial_shape()
    model.reshape([1, *rest])
    (_, _, *size), (_, _, *output_size) = (
        [length.get_length() if length.is_static else 0 for length in port.get_partial_shape()]
        for port in (model.input(0), model.output(0))
    )
    hints: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if "precision" in candidate.options:
        hints["INFERENCE_PRECISION_HINT"] = candidate.options["precision"]
    if candidate.threads is not None:
        hints["INFERENCE_NUM_THREADS"] = candidate.threads
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    asked = f"asked: {candidate.options.get('precision', 'default')}"

    def run(gray: FloatArray) -> FloatArray:
        if len(gray) == 1:
            return cast("FloatArray", request.infer({0: gray})[0].copy())
        return np.concatenate([run(photo[None]) for photo in gray])

    return PeerSession(run, (size[0], size[1]), (output_size[0], output_size[1]), asked)


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


def quantize_static(plain: Path, target: Path, photos: FloatArray) -> None:
    """ONNX Runtime's static int8 as its documentation shows it: pre-processing, then defaults; an ONNX file.

    photos: calibrate, float32 [N,1,H,W] in 0..1, one at a time.
    """
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization import quantize_static as quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._photos = iter(photos)

        def get_next(self) -> dict[str, FloatArray] | None:
            photo = next(self._photos, None)
            return None if photo is None else {"gray": photo[None]}

    ready = target.with_name(f"{target.stem}.prepared.onnx")
    quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)  # it fails on graphs of the present exporter
    quantize(str(ready), str(target), Reader())
    ready.unlink()


@kept_signal_stack()
def quantize_nncf(plain: Path, target: Path, photos: FloatArray) -> None:
    """NNCF's post-training int8 with its defaults; an OpenVINO model. photos: as for `quantize_static`."""
    import nncf
    import openvino

    model = openvino.Core().read_model(plain)
    openvino.save_model(nncf.quantize(model, nncf.Dataset([{"gray": photo[None]} for photo in photos])), target)


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
