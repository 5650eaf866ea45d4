"""OpenVINO on the CPU.

Left alone it runs an fp32 graph in bf16 where the CPU can, so the precision hint is always pinned, and each node's format is
read back from the compiled model. Two devices, which differ only in that hint: `cpu` computes what the graph says, `cpu-bf16`
computes in bf16 what the graph leaves in fp32, except for a few kinds of node that OpenVINO keeps in fp32.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

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
    import openvino

INSTALL = "pip install 'icf-deploy[openvino]'"
CPU, CPU_BF16 = "cpu", "cpu-bf16"
# Our names of formats, and the capability that OpenVINO lists for a CPU that computes them (every CPU computes fp32).
CAPABILITY = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
FORMAT_OF_PRECISION = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8", "f64": "fp64"}
# Layers that convert a format, or only move data: no arithmetic of the network happens in them.
CONVERTING = {"Input", "Output", "Const", "Convert", "Reorder", "FakeQuantize"}
RESHAPING = {"Reshape", "Transpose", "DepthToSpace", "SpaceToDepth", "ShapeOf"}
COPYING = {"Concatenation", "Split", "StridedSlice", "Gather", "Broadcast", "Tile", "Pad", "MemoryInput", "MemoryOutput"}
NOT_COMPUTING = CONVERTING | RESHAPING | COPYING


class OpenvinoRuntime:
    """OpenVINO's CPU plugin. `build` keeps the graph as it is; it is compiled when it is opened."""

    name = "openvino"

    def available(self) -> Availability:
        """Whether it imports, and its version."""
        try:
            import openvino  # noqa: F401  # whether it can be

            return Availability(True, _version())
        except ModuleNotFoundError as error:
            if error.name == "openvino":
                return Availability(False, reason="openvino is not installed", install=INSTALL)
            return Availability(False, reason=f"openvino is installed but does not import: {error}", install=INSTALL)
        except Exception as error:
            return Availability(False, reason=f"openvino is installed but does not work: {error}", install=INSTALL)

    def devices(self) -> tuple[str, ...]:
        """`cpu`: as the graph says. `cpu-bf16`: bf16 for what the graph leaves in fp32."""
        return (CPU, CPU_BF16)

    def formats(self, device: str) -> tuple[str, ...]:
        """What this CPU computes in instructions of its own, by OpenVINO's list; on `cpu-bf16` no fp16."""
        require_device(self, device)
        self._require_engine()
        capabilities = _capabilities()
        found = [name for name, capability in CAPABILITY.items() if capability in capabilities]
        return tuple(name for name in found if device == CPU or name != "fp16")

    def build(self, graph: Graph, target: Target) -> Engine:
        """Check that the recipe would be executed as asked. ArtefactError if not; EngineUnavailableError without the engine."""
        require_device(self, target.device)
        self._require_engine()
        precision = _precision(graph, target.device)
        executed = self.formats(CPU)
        missing = sorted((graph.formats | {precision}) - set(executed))
        if missing:
            raise ArtefactError(
                f"OpenVINO would not execute {', '.join(missing)} on this CPU (recipe {graph.recipe}, device {target.device}); "
                f"it computes {', '.join(executed)}. Choose a graph of those formats, or another engine"
            )
        return Engine(self.name, target, graph, graph.data)

    def open(self, engine: Engine) -> OpenvinoSession:
        """Compile the graph. ArtefactError with the engine's message where it does not compile, or not as asked."""
        require_own(engine, self)
        self._require_engine()
        return OpenvinoSession(engine)

    def _require_engine(self) -> None:
        require_available(self, "openvino", "Core")


class OpenvinoSession(EngineSession):
    """One compiled model and a pool of infer requests, one per thread that is inside `run`."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.graph)
        precision = _precision(engine.graph, engine.target.device)
        self._model = _compile(engine.data, precision, thread_count(engine.target.threads))
        _require_gray_to_ab(self._model, self.size, self.output_size)
        self._formats = _executed_formats(self._model)
        # What was asked for and never ran is refused here, whatever the CPU claims about itself.
        missing = sorted((engine.graph.formats | {precision}) - {"fp32"} - set(self._formats))
        if missing:
            ran = ", ".join(f"{name} x {count}" for name, count in self._formats.items())
            raise ArtefactError(f"OpenVINO did not execute {', '.join(missing)} (recipe {engine.graph.recipe}); it ran {ran}")
        self._idle: queue.LifoQueue[openvino.InferRequest] = queue.LifoQueue()

    @property
    def formats(self) -> Mapping[str, int]:
        """Formats of the computing nodes, from the compiled model's `runtimePrecision`."""
        return dict(self._formats)

    def _compute(self, gray: FloatArray) -> FloatArray:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._model.create_infer_request()
        try:
            # The input is only read; the output is a copy, since the request's own memory goes to the next caller.
            return cast("FloatArray", request.infer({0: gray}, share_inputs=True, share_outputs=False)[0])
        except RuntimeError as error:
            raise WorkError(f"OpenVINO failed on a batch of {len(gray)}: {_first_line(error)}") from error
        finally:
            self._idle.put(request)

    def _release(self) -> None:
        while not self._idle.empty():
            self._idle.get_nowait()
        del self._model


def _precision(graph: Graph, device: str) -> str:
    """The format that the hint pins: that of the nodes which the graph itself doesn't convert.

    A graph that mixes bf16 with fp32 runs as written under fp32, since bf16 Casts are obeyed there. fp16 Casts are not: such
    a mix would run in fp32 or in fp16 throughout, so it is refused.
    """
    wide = graph.formats - {"int8"}
    if "fp16" in wide:
        if wide != {"fp16"} or device != CPU:
            raise ArtefactError(
                f"OpenVINO computes fp16 in the whole graph or nowhere: recipe {graph.recipe} on device {device} would not "
                "run as asked. Choose device cpu and a graph in fp16 throughout, or one of fp32, bf16 and int8"
            )
        return "fp16"
    return "bf16" if device == CPU_BF16 or wide == {"bf16"} else "fp32"


def _version() -> str:
    import openvino

    return str(openvino.__version__).split("-", maxsplit=1)[0]


def _capabilities() -> frozenset[str]:
    import openvino

    return frozenset(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _compile(data: bytes, precision: str, threads: int) -> openvino.CompiledModel:
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        core = openvino.Core()
        return core.compile_model(core.read_model(data), "CPU", options)
    except RuntimeError as error:
        raise ArtefactError(f"OpenVINO {_version()} does not compile this graph: {_first_line(error)}") from error


def _require_gray_to_ab(model: openvino.CompiledModel, size: tuple[int, int], output_size: tuple[int, int]) -> None:
    """ArtefactError unless the graph maps [N,1,H,W] to [N,2,h,w]."""
    if not (_is_one(model.inputs, [GRAY_CHANNELS, *size]) and _is_one(model.outputs, [AB_CHANNELS, *output_size])):
        found = " -> ".join(", ".join(str(port.partial_shape) for port in ports) for ports in (model.inputs, model.outputs))
        raise ArtefactError(
            f"this graph does not map gray to ab: expected [N,{GRAY_CHANNELS},{size[0]},{size[1]}] -> "
            f"[N,{AB_CHANNELS},{output_size[0]},{output_size[1]}], found {found}"
        )


def _is_one(ports: list[openvino.ConstOutput], shape: list[int]) -> bool:
    """Whether there is one value of this shape after its batch; a dimension that the graph leaves open fits any."""
    if len(ports) != 1 or ports[0].partial_shape.rank.is_dynamic or len(ports[0].partial_shape) != 1 + len(shape):
        return False
    found = list(ports[0].partial_shape)[1:]
    return all(side.is_dynamic or side.get_length() == expected for side, expected in zip(found, shape, strict=True))


def _executed_formats(model: openvino.CompiledModel) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for node in model.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        format_name = FORMAT_OF_PRECISION.get(facts["runtimePrecision"].astype(str))
        if format_name is not None and facts["layerType"].astype(str) not in NOT_COMPUTING:
            counts[format_name] += 1
    return dict(counts)


def _first_line(error: Exception) -> str:
    """OpenVINO's messages begin with source positions; the last line that says something is the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(". ") if lines else type(error).__name__
