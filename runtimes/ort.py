"""ONNX Runtime on its CPU provider.

What it executes: fp32, and int8 where Q/DQ surround an operator. A graph in fp16 would be computed in fp32 with its Casts
removed, and a bf16 convolution is refused by the provider, so both are refused here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from icf_deploy.errors import ArtefactError, WorkError
from icf_deploy.runtimes.base import Availability, Engine, FloatArray, Graph, Target
from icf_deploy.runtimes.cores import thread_count
from icf_deploy.runtimes.session import (
    AB_CHANNELS,
    GRAY_CHANNELS,
    EngineSession,
    require_available,
    require_device,
    require_own,
)

if TYPE_CHECKING:
    import onnxruntime

INSTALL = "pip install 'icf-deploy[cpu]'"
PROVIDER = "CPUExecutionProvider"
FATAL = 4  # log severity: what goes wrong comes as an exception, once
# Every distribution that installs the module `onnxruntime`; two at once overwrite each other's files.
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn")
EXECUTED = ("fp32", "int8")
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
CONVERTING = {"QuantizeLinear", "DequantizeLinear", "Cast", "ReorderInput", "ReorderOutput"}
RESHAPING = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Transpose", "DepthToSpace", "SpaceToDepth", "Shape"}
COPYING = {"Concat", "Split", "Slice", "Gather", "Expand", "Tile", "Pad", "Constant", "ConstantOfShape"}
NOT_COMPUTING = CONVERTING | RESHAPING | COPYING


class OrtRuntime:
    """ONNX Runtime. `build` keeps the graph as it is; the engine optimizes it when it is opened."""

    name = "ort"

    def available(self) -> Availability:
        """Whether it imports; `reason` also says when two distributions of it overwrite each other."""
        try:
            import onnxruntime

            version = str(onnxruntime.__version__)
            onnxruntime.InferenceSession  # noqa: B018  # the leftovers of an uninstalled distribution import as an empty package
        except ModuleNotFoundError as error:
            if error.name == "onnxruntime":
                return Availability(False, reason="onnxruntime is not installed", install=INSTALL)
            return _broken(error)
        except Exception as error:
            return _broken(error)
        installed = _installed_distributions()
        if len(installed) > 1:
            reason = (
                f"{' and '.join(installed)} are both installed: they overwrite each other's files, and removing one breaks the "
                f"other. Repair it with: {_repair(installed)}"
            )
            return Availability(True, version, reason)
        return Availability(True, version)

    def devices(self) -> tuple[str, ...]:
        """Only the CPU provider."""
        return ("cpu",)

    def formats(self, device: str) -> tuple[str, ...]:
        """fp32 and int8."""
        require_device(self, device)
        return EXECUTED

    def build(self, graph: Graph, target: Target) -> Engine:
        """Check that the recipe would be executed as asked. ArtefactError if not; EngineUnavailableError without the engine."""
        require_device(self, target.device)
        refused = sorted(graph.formats - set(EXECUTED))
        if refused:
            raise ArtefactError(
                f"ONNX Runtime's CPU provider would not execute {', '.join(refused)} (recipe {graph.recipe}): it computes "
                f"{' and '.join(EXECUTED)}. Choose a graph of those formats, or another engine: `icf-deploy doctor` lists them"
            )
        require_available(self, "onnxruntime", "InferenceSession")
        return Engine(self.name, target, graph, graph.data)

    def open(self, engine: Engine) -> OrtSession:
        """Load and optimize the graph. ArtefactError with the engine's message where it does not load."""
        require_own(engine, self)
        require_available(self, "onnxruntime", "InferenceSession")
        return OrtSession(engine)


class OrtSession(EngineSession):
    """One InferenceSession; `run` may be called from several threads at once."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.graph)
        self._data = engine.data
        self._formats: dict[str, int] | None = None
        self._session: onnxruntime.InferenceSession | None = _load(engine.data, _options(thread_count(engine.target.threads)))
        self._input = _gray_input(self._session, self.size, self.output_size)

    @property
    def formats(self) -> Mapping[str, int]:
        """Formats of the computing nodes, from a profile of one run: what a graph asks for is not what gets executed.

        Fusion decides that (a quantized Conv whose output is not requantized at once runs in fp32), and only a profile
        shows it. The first reading costs one more load of the graph, on one thread, and one run on zeros.
        """
        if self._formats is None:
            self._formats = _executed_formats(self._data, self._input, self.size)
        return dict(self._formats)

    def _compute(self, gray: FloatArray) -> FloatArray:
        session = self._session
        assert session is not None  # `run` has checked
        try:
            return cast("FloatArray", session.run(None, {self._input: gray})[0])
        except Exception as error:  # the binding has a class per status code, with no common base below Exception
            raise WorkError(f"ONNX Runtime failed on a batch of {len(gray)}: {_first_line(error)}") from error

    def _release(self) -> None:
        self._session = None


def _options(threads: int) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = FATAL
    # Threads spin between the nodes of one run, where waking them would cost more than the node, and sleep between runs:
    # an application's own threads, and a battery, need the cores then.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _load(data: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(data, options, providers=[PROVIDER], enable_fallback=0)
    except Exception as error:  # as in OrtSession._compute
        version = onnxruntime.__version__
        raise ArtefactError(
            f"ONNX Runtime {version} does not load this graph: {_first_line(error)}. "
            "Export it again, or use a newer onnxruntime"
        ) from error


def _gray_input(session: onnxruntime.InferenceSession, size: tuple[int, int], output_size: tuple[int, int]) -> str:
    """Name of the one input. ArtefactError unless the graph maps float [N,1,H,W] to float [N,2,h,w]."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if not (_is_one(inputs, [GRAY_CHANNELS, *size]) and _is_one(outputs, [AB_CHANNELS, *output_size])):
        found = " -> ".join(
            ", ".join(f"{v.name} {v.type} {v.shape}" for v in values) or "nothing" for values in (inputs, outputs)
        )
        raise ArtefactError(
            f"this graph does not map gray to ab: expected float [N,{GRAY_CHANNELS},{size[0]},{size[1]}] -> "
            f"[N,{AB_CHANNELS},{output_size[0]},{output_size[1]}], found {found}"
        )
    return str(inputs[0].name)


def _is_one(values: list[onnxruntime.NodeArg], shape: list[int]) -> bool:
    """Whether there is one float value of this shape after its batch; a dimension without a number in the graph fits any."""
    if len(values) != 1 or values[0].type != "tensor(float)" or len(values[0].shape) != 1 + len(shape):
        return False
    return all(
        not isinstance(found, int) or found == expected for found, expected in zip(values[0].shape[1:], shape, strict=True)
    )


def _executed_formats(data: bytes, name: str, size: tuple[int, int]) -> dict[str, int]:
    import tempfile

    import numpy as np

    with tempfile.TemporaryDirectory(prefix="icf-profile-") as folder:
        options = _options(threads=1)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "ort")
        session = _load(data, options)
        session.run(None, {name: np.zeros((1, GRAY_CHANNELS, *size), np.float32)})
        events = json.loads(Path(session.end_profiling()).read_bytes())
    return _count_formats(events)


def _count_formats(events: list[dict[str, Any]]) -> dict[str, int]:
    """Computing nodes per format, from the events of ONNX Runtime's profile."""
    counts: Counter[str] = Counter()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        details = event["args"]
        tensors = {kind for shape in details["input_type_shape"] + details["output_type_shape"] for kind in shape}
        format_name = next((name for kind, name in FORMAT_OF_TENSOR.items() if kind in tensors), None)
        if format_name is not None and details["op_name"] not in NOT_COMPUTING:
            counts[format_name] += 1
    return dict(counts)


def _installed_distributions() -> list[str]:
    from importlib.metadata import PackageNotFoundError, distribution

    found = []
    for name in DISTRIBUTIONS:
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


def _repair(installed: list[str]) -> str:
    return f"pip uninstall -y {' '.join(installed)} && {INSTALL} (or [gpu] for the CUDA provider)"


def _broken(error: Exception) -> Availability:
    installed = _installed_distributions()
    reason = f"onnxruntime is installed but does not work: {_first_line(error)}"
    return Availability(False, reason=reason, install=_repair(installed) if installed else INSTALL)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(". ") if str(error).strip() else type(error).__name__
