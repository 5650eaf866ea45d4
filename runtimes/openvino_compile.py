"""From a graph to OpenVINO's compiled model: the options that hold it to the graph's formats, and the cache that keeps it.

Left alone OpenVINO runs an fp32 graph in bf16 on a CPU that has it, and in fp16 on a GPU: the precision hint is always pinned.
A graph's batch is free, and compiled like that every node works out its shape in every call: `icf-edge` takes 1.24 times and
DDColor-tiny 1.19 times as long as with a batch of one written into the graph (docs/engines.md). So one it is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icf_deploy.errors import ArtefactError
from icf_deploy.runtimes.base import Graph, Target
from icf_deploy.runtimes.cache import default_cache
from icf_deploy.runtimes.cache_entry import EngineKey
from icf_deploy.runtimes.cores import thread_count, usable_cores
from icf_deploy.runtimes.fingerprint import code_field, graph_fields, processor_fields, system_fields
from icf_deploy.runtimes.signal_stack import kept_signal_stack

if TYPE_CHECKING:
    import openvino

_log = logging.getLogger(__name__)

CPU, CPU_BF16, GPU, NPU = "cpu", "cpu-bf16", "gpu", "npu"
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
MOST_STREAMS = 8  # calls that may run at once; each stream holds activations of its own


@dataclass(frozen=True)
class Plan:
    """How a graph is compiled. device: OpenVINO's name."""

    device: str
    options: tuple[tuple[str, Any], ...]


def plan_for(graph: Graph, target: Target) -> Plan:
    """The options of one graph on one target. ArtefactError for formats that it could not be held to.

    On the CPU a call uses `threads` of the cores; the rest serve other calls at the same time, each in a stream of its own.
    A caller that is alone loses 6% by that, so nothing is split off where a call uses all cores, as it does by default.
    """
    hint = ("INFERENCE_PRECISION_HINT", HINTS[precision_of(graph, target.device)])
    latency = ("PERFORMANCE_HINT", "LATENCY")
    threads = thread_count(target.threads)
    if is_cpu(target.device):
        streams = max(1, min(MOST_STREAMS, usable_cores() // threads))
        return Plan("CPU", (hint, latency, ("INFERENCE_NUM_THREADS", threads * streams), ("NUM_STREAMS", streams)))
    return Plan(target.device.upper(), (hint, latency))


def is_cpu(device: str) -> bool:
    """Whether a device of ours is OpenVINO's CPU."""
    return device in (CPU, CPU_BF16)


def precision_of(graph: Graph, device: str) -> str:
    """The format that the hint pins: that of the nodes which the graph itself doesn't convert.

    A graph that mixes bf16 with fp32 runs as written under fp32, since bf16 Casts are obeyed there. fp16 Casts are not: such
    a mix would run in fp32 or in fp16 throughout, so it is refused.
    """
    wide = graph.formats - {"int8"}
    if "fp16" in wide:
        if wide != {"fp16"} or device == CPU_BF16:
            raise ArtefactError(
                f"OpenVINO computes fp16 in the whole graph or nowhere: recipe {graph.recipe} on device {device} would not "
                "run as asked. Choose device cpu and a graph in fp16 throughout, or one of fp32, bf16 and int8"
            )
        return "fp16"
    return "bf16" if device == CPU_BF16 or wide == {"bf16"} else "fp32"


@kept_signal_stack()
def cache_key(graph: Graph, target: Target) -> EngineKey | None:
    """Under what the compiled model is kept. None for a GPU and an NPU: OpenVINO does not name their drivers' versions."""
    if not is_cpu(target.device):
        return None
    import openvino

    core = openvino.Core()
    plan = plan_for(graph, target)
    return EngineKey(
        "engine",
        {
            "runtime": "openvino",
            "engine": "openvino " + "-".join(str(openvino.__version__).split("-")[:3]),
            **graph_fields(graph),
            **{f"option {name}": str(value) for name, value in plan.options},
            "device": str(core.get_property(plan.device, "FULL_DEVICE_NAME")),
            "capability": " ".join(sorted(core.get_property(plan.device, "OPTIMIZATION_CAPABILITIES"))),
            **processor_fields(),
            **system_fields(),
            **code_field(__name__),
        },
    )


def compile_cached(graph: Graph, target: Target) -> openvino.CompiledModel:
    """The compiled model, from the cache where it is kept. ArtefactError with the engine's message where it doesn't compile."""
    plan, key = plan_for(graph, target), cache_key(graph, target)
    if key is None:
        return _compile(graph, plan)
    compiled: list[openvino.CompiledModel] = []

    def build() -> bytes:
        compiled.append(_compile(graph, plan))
        return _exported(compiled[0])

    cache = default_cache()
    content = cache.get_or_build(key, build)
    if compiled:
        return compiled[0]
    try:
        return _imported(content, plan)
    except RuntimeError as error:
        _log.warning("OpenVINO does not take its own engine back, so it is built again: %s", first_line(error))
        cache.remove(key)
        return _compile(graph, plan)


@kept_signal_stack()
def _compile(graph: Graph, plan: Plan) -> openvino.CompiledModel:
    import openvino

    try:
        core = openvino.Core()
        model = core.read_model(graph.data)
        _, *rest = model.input(0).get_partial_shape()
        model.reshape([1, *rest])
        return core.compile_model(model, plan.device, dict(plan.options))
    except RuntimeError as error:
        raise ArtefactError(f"OpenVINO {version()} does not compile this graph: {first_line(error)}") from error


def _exported(model: openvino.CompiledModel) -> bytes:
    import io

    stream = io.BytesIO()
    model.export_model(stream)
    return stream.getvalue()


@kept_signal_stack()
def _imported(content: bytes, plan: Plan) -> openvino.CompiledModel:
    import io

    import openvino

    return openvino.Core().import_model(io.BytesIO(content), plan.device, dict(plan.options))


def version() -> str:
    """OpenVINO's version, without its build number."""
    import openvino

    return str(openvino.__version__).split("-", maxsplit=1)[0]


def first_line(error: Exception) -> str:
    """OpenVINO's messages begin with source positions; the last line that says something is the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(". ") if lines else type(error).__name__
