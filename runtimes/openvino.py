"""OpenVINO on a CPU, a GPU or an NPU.

Two devices are the CPU, and differ only in the precision hint: `cpu` computes what the graph says, `cpu-bf16` computes in bf16
what the graph leaves in fp32, except for a few kinds of node that OpenVINO keeps in fp32. What was executed is read back from
the compiled model, node by node. The model takes one photo (see `openvino_compile`), so a batch is run photo by photo.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from icf_deploy.errors import ArtefactError, EngineUnavailableError, WorkError
from icf_deploy.runtimes.base import Availability, Engine, FloatArray, Graph, Target
from icf_deploy.runtimes.cache_entry import EngineKey
from icf_deploy.runtimes.openvino_compile import (
    CPU,
    CPU_BF16,
    GPU,
    NPU,
    cache_key,
    compile_cached,
    first_line,
    is_cpu,
    precision_of,
    version,
)
from icf_deploy.runtimes.pool import Pool
from icf_deploy.runtimes.session import (
    AB_CHANNELS,
    GRAY_CHANNELS,
    UNREPORTED,
    EngineSession,
    require_available,
    require_device,
    require_own,
)
from icf_deploy.runtimes.signal_stack import kept_signal_stack

if TYPE_CHECKING:
    import openvino

INSTALL = "pip install 'icf-deploy[openvino]'"
# Our names of formats, and the capability that OpenVINO lists for a device that computes them. Every CPU computes fp32.
CAPABILITY = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
FORMAT_OF_PRECISION = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8", "f64": "fp64"}
# Layers that convert a format, or only move data: no arithmetic of the network happens in them.
CONVERTING = {"Input", "Output", "Const", "Convert", "Reorder", "FakeQuantize"}
RESHAPING = {"Reshape", "Transpose", "DepthToSpace", "SpaceToDepth", "ShapeOf"}
COPYING = {"Concatenation", "Split", "StridedSlice", "Gather", "Broadcast", "Tile", "Pad", "MemoryInput", "MemoryOutput"}
NOT_COMPUTING = CONVERTING | RESHAPING | COPYING


class OpenvinoRuntime:
    """OpenVINO. `build` keeps the graph as it is; opening it compiles it, or takes the compiled model from the cache."""

    name = "openvino"
    known = (CPU, CPU_BF16, GPU, NPU)

    def available(self) -> Availability:
        """Whether it imports, and its version."""
        try:
            import openvino  # noqa: F401  # whether it can be

            return Availability(True, version())
        except ModuleNotFoundError as error:
            if error.name == "openvino":
                return Availability(False, reason="openvino is not installed", install=INSTALL)
            return Availability(False, reason=f"openvino is installed but does not import: {error}", install=INSTALL)
        except Exception as error:
            return Availability(False, reason=f"openvino is installed but does not work: {error}", install=INSTALL)

    def devices(self) -> tuple[str, ...]:
        """`cpu`: as the graph says. `cpu-bf16`: bf16 for what the graph leaves in fp32. `gpu`, `npu` where there is one.

        Of several GPUs `gpu` is the first, and each has a name such as `gpu.1`.
        """
        if not self.available().ok:
            return (CPU, CPU_BF16)
        names = _device_names()
        first = [family for family in (GPU, NPU) if f"{family}.0" in names and family not in names]
        return (CPU, CPU_BF16, *first, *(name for name in names if name != CPU))

    def formats(self, device: str) -> tuple[str, ...]:
        """What this device computes in instructions of its own, by OpenVINO's list; on `cpu-bf16` no fp16."""
        self._require_here(device)
        capabilities = _capabilities("CPU" if is_cpu(device) else device.upper())
        found = [name for name, capability in CAPABILITY.items() if capability in capabilities]
        return tuple(name for name in found if device != CPU_BF16 or name != "fp16")

    def build(self, graph: Graph, target: Target) -> Engine:
        """Check that the recipe would be executed as asked. ArtefactError if not; EngineUnavailableError without the engine."""
        self._require_here(target.device)
        precision = precision_of(graph, target.device)
        executed = self.formats(CPU if is_cpu(target.device) else target.device)
        missing = sorted((graph.formats | {precision}) - set(executed))
        if missing:
            raise ArtefactError(
                f"OpenVINO would not execute {', '.join(missing)} on this {target.device.partition('-')[0].upper()} "
                f"(recipe {graph.recipe}, device {target.device}); it computes {', '.join(executed)}. Choose a graph of those "
                "formats, or another engine"
            )
        return Engine(self.name, target, graph, graph.data)

    def open(self, engine: Engine) -> OpenvinoSession:
        """Compile the graph. ArtefactError with the engine's message where it does not compile, or not as asked."""
        require_own(engine, self)
        self._require_here(engine.target.device)
        return OpenvinoSession(engine)

    def cache_key(self, graph: Graph, target: Target) -> EngineKey | None:
        """Under what the compiled model is kept; None for a GPU and an NPU."""
        self.build(graph, target)
        return cache_key(graph, target)

    def _require_here(self, device: str) -> None:
        """UsageError for a name that is none, EngineUnavailableError without the engine or the device."""
        if not is_cpu(device):
            require_device(self, device)
        require_available(self, "openvino", "Core")
        if not is_cpu(device) and device not in self.devices():
            raise EngineUnavailableError(
                f"engine openvino:{device}: OpenVINO finds no {device.upper()} on this machine, it finds "
                f"{', '.join(name.upper() for name in _device_names())}. Install the driver of the {device.upper()}, "
                "or choose openvino:cpu"
            )


class OpenvinoSession(EngineSession):
    """One compiled model and a pool of infer requests, one per thread that is inside `run`."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.graph)
        graph, target = engine.graph, engine.target
        self._model = compile_cached(_graph_of(engine), target)
        _require_gray_to_ab(self._model, self.size, self.output_size)
        self._formats = _executed_formats(self._model)
        # What was asked for and never ran is refused here, whatever the device claims about itself.
        missing = sorted((graph.formats | {precision_of(graph, target.device)}) - {"fp32"} - set(self._formats))
        if missing and UNREPORTED not in self._formats:
            ran = ", ".join(f"{name} x {count}" for name, count in self._formats.items())
            raise ArtefactError(f"OpenVINO did not execute {', '.join(missing)} (recipe {graph.recipe}); it ran {ran}")
        self._requests: Pool[openvino.InferRequest] = Pool(self._model.create_infer_request)

    @property
    def formats(self) -> Mapping[str, int]:
        """Formats of the computing nodes, from the compiled model's `runtimePrecision`."""
        return dict(self._formats)

    def _compute(self, gray: FloatArray) -> FloatArray:
        ab = np.empty((len(gray), AB_CHANNELS, *self.output_size), np.float32)
        with self._requests.borrow() as request:
            try:
                for number, photo in enumerate(gray):
                    # Both sides are only looked at: the request's own memory goes to the next photo.
                    ab[number] = request.infer({0: photo[None]}, share_inputs=True, share_outputs=True)[0][0]
            except RuntimeError as error:
                raise WorkError(f"OpenVINO failed on photo {number + 1} of {len(gray)}: {first_line(error)}") from error
        return ab

    def _release(self) -> None:
        self._requests.drain()
        del self._model, self._requests


def _graph_of(engine: Engine) -> Graph:
    """The graph with the engine's own bytes, which are the graph's unless somebody has changed them since `build`."""
    graph = engine.graph
    if engine.data is graph.data:
        return graph
    return replace(graph, data=engine.data, sha256=hashlib.sha256(engine.data).hexdigest())


@kept_signal_stack()
def _device_names() -> tuple[str, ...]:
    """Our names of what OpenVINO finds here: `cpu`, `gpu.0`, `npu`."""
    import openvino

    return tuple(
        name.lower() for name in openvino.Core().available_devices if name.partition(".")[0].lower() in (CPU, GPU, NPU)
    )


@kept_signal_stack()
def _capabilities(device: str) -> frozenset[str]:
    import openvino

    return frozenset(openvino.Core().get_property(device, "OPTIMIZATION_CAPABILITIES"))


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
    """Computing nodes per format, where the device tells: an NPU doesn't."""
    try:
        nodes = model.get_runtime_model().get_ordered_ops()
    except RuntimeError:
        return {UNREPORTED: 1}
    counts: Counter[str] = Counter()
    for node in nodes:
        facts = node.get_rt_info()
        format_name = FORMAT_OF_PRECISION.get(facts["runtimePrecision"].astype(str))
        if format_name is not None and facts["layerType"].astype(str) not in NOT_COMPUTING:
            counts[format_name] += 1
    return dict(counts)
