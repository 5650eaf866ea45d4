"""From a graph to a plan, with full TensorRT (10.3 and later) or TensorRT for RTX.

The network is strongly typed: each layer computes in the type that the graph writes (Cast, Q/DQ), and TensorRT changes none.
TF32, which TensorRT turns on unless told not to, is off unless the target asks for it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from icf_deploy.errors import ArtefactError
from icf_deploy.runtimes.base import Graph
from icf_deploy.runtimes.session import AB_CHANNELS, GRAY_CHANNELS
from icf_deploy.runtimes.trt_library import Library
from icf_deploy.runtimes.trt_plan import Plan

_log = logging.getLogger(__name__)

# Photos in one call of the engine; more are run in turns. Every context holds activations for as many.
LARGEST_BATCH = 4
Progress = Callable[[str, int, int], None]
"""progress(phase, steps done, steps in all): called as the builder goes on, possibly from a thread of its own."""

# Layers in which the network's arithmetic happens; all others convert, move data, or compute shapes.
PRODUCTS = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM"}
COMPUTING = PRODUCTS | {
    "ACTIVATION",
    "ELEMENTWISE",
    "NORMALIZATION",
    "PARAMETRIC_RELU",
    "POOLING",
    "REDUCE",
    "RESIZE",
    "SCALE",
    "SOFTMAX",
    "UNARY",
}
FORMAT_OF_TYPE = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "FP8": "fp8", "INT8": "int8"}
QUANTIZED = {"INT8", "FP8"}


@dataclass(frozen=True)
class Options:
    """What decides the plan besides graph and library. sm: as `sm89`; None compiles for the GPU that is here."""

    sm: str | None
    tf32: bool = False
    largest_batch: int = LARGEST_BATCH

    def fields(self) -> dict[str, str]:
        """For the cache's key."""
        return {
            "option tf32": str(self.tf32),
            "option batch": f"1 to {self.largest_batch}, best at 1",
            "option typing": "strong",
        }


@dataclass
class Said:
    """What the library said while it worked, by severity."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def reason(self) -> str:
        """The first error that names a cause."""
        return self.errors[0] if self.errors else "it gives no reason"


@dataclass(frozen=True)
class TimingCache:
    """Timings of kernels that earlier builds have measured on this GPU; only the full library measures any."""

    read: Callable[[], bytes | None]
    write: Callable[[bytes], None]


def compile_plan(
    graph: Graph,
    library: Library,
    options: Options,
    *,
    sm: str,
    progress: Progress | None = None,
    timings: TimingCache | None = None,
) -> Plan:
    """Compile a graph. sm: of the GPU that will run it, for the header.

    Raises ArtefactError with the library's own words for a graph that it doesn't take or compile, and for a recipe whose
    formats the graph doesn't hold.
    """
    trt, said = library.module, Said()
    logger = new_logger(trt, said)
    builder = trt.Builder(logger)
    network = builder.create_network(_creation_flags(trt))
    parser = _parse(trt, network, logger, graph, said)  # the network's weights are the parser's until it is built
    formats = network_formats(network, tf32=options.tf32)
    _require_formats(graph, formats)
    config = builder.create_builder_config()
    _configure(trt, config, options)
    profile = builder.create_optimization_profile()
    photo = (GRAY_CHANNELS, *graph.size)
    profile.set_shape(network.get_input(0).name, (1, *photo), (1, *photo), (options.largest_batch, *photo))
    config.add_optimization_profile(profile)
    kept = _use_timings(config, timings) if timings is not None else None
    monitor = new_monitor(trt, progress)
    config.progress_monitor = monitor
    serialized = builder.build_serialized_network(network, config)
    del parser
    monitor.raise_what_was_caught()
    if serialized is None:
        hint = " Turing GPUs have no product of float32 matrices there: choose a graph in fp16." if sm == "sm75" else ""
        raise ArtefactError(f"{library.name} {library.version} does not compile this graph for {sm}: {said.reason()}.{hint}")
    if kept is not None and timings is not None:
        timings.write(bytes(kept.serialize()))
    for warning in said.warnings:
        _log.debug("%s: %s", library.name, warning)
    data = bytes(serialized)
    return Plan(library.name, library.version, sm, graph.sha256, graph.recipe, options.largest_batch, formats, data)


def network_formats(network: Any, *, tf32: bool) -> dict[str, int]:
    """Computing layers per number format, from the typed network: what strong typing obliges the library to execute.

    A convolution or product whose inputs all come out of DequantizeLinear is computed in the quantized format.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    counts: Counter[str] = Counter()
    for layer in layers:
        kind = _name(layer.type)
        if kind not in COMPUTING:
            continue
        format_name = (_quantized_format(layer, producers) if kind in PRODUCTS else None) or FORMAT_OF_TYPE.get(
            _name(layer.get_output(0).dtype)
        )
        if format_name is not None:
            counts["tf32" if tf32 and format_name == "fp32" and kind in PRODUCTS else format_name] += 1
    return dict(counts)


def new_logger(trt: Any, said: Said) -> Any:
    """A logger of the library that keeps errors and warnings, and prints nothing."""

    class KeepingLogger(trt.ILogger):  # type: ignore[misc]  # the base is the library's
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                said.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                said.warnings.append(message)

    return KeepingLogger()


def new_monitor(trt: Any, progress: Progress | None) -> Any:
    """A progress monitor of the library. What `progress` raises, Ctrl-C too, ends the build, and is raised again after it."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is the library's
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.caught: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(phase_name, step + 1)
            return self.caught is None

        def phase_finish(self, phase_name: str) -> None:
            self._report(phase_name, self.steps.get(phase_name, 0))

        def _report(self, phase: str, done: int) -> None:
            try:
                if progress is not None and self.caught is None:
                    progress(phase, done, self.steps.get(phase, 0))
            except BaseException as error:  # it must not travel through the library's own frames
                self.caught = error

        def raise_what_was_caught(self) -> None:
            if self.caught is not None:
                raise self.caught

    return Monitor()


def _creation_flags(trt: Any) -> int:
    """Strong typing is a flag up to TensorRT 10; since 11 there is nothing else, and the flag may go."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(trt: Any, network: Any, logger: Any, graph: Graph, said: Said) -> Any:
    """Fill the network; the parser. ArtefactError with all that it complains of, and for a graph that isn't gray to ab."""
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.data):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        lines = [f"{_where(error)}{error.desc()}" for error in errors] or [said.reason()]
        raise ArtefactError(f"TensorRT does not take this graph: {'; '.join(dict.fromkeys(lines))}")
    height, width = graph.size
    expected = ([GRAY_CHANNELS, height, width], [AB_CHANNELS, height // graph.stride, width // graph.stride])
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    if not (_is_one(inputs, expected[0]) and _is_one(outputs, expected[1])):
        found = " -> ".join(", ".join(f"{value.name} {list(value.shape)}" for value in side) for side in (inputs, outputs))
        raise ArtefactError(
            f"this graph does not map gray to ab: expected [N,{expected[0]}] -> [N,{expected[1]}], found {found}"
        )


def _where(error: Any) -> str:
    """The node of a parser's error, where the parser knows it (since 10.0)."""
    name, operator = str(error.node_name()), str(error.node_operator())
    return f"{operator} {name}: " if operator or name else ""


def _is_one(values: list[Any], shape: list[int]) -> bool:
    """Whether there is one float32 value of this shape after its batch; a dimension that the graph leaves open fits any."""
    if len(values) != 1 or _name(values[0].dtype) != "FLOAT" or len(values[0].shape) != 1 + len(shape):
        return False
    return all(found in (-1, expected) for found, expected in zip(list(values[0].shape)[1:], shape, strict=True))


def _require_formats(graph: Graph, formats: dict[str, int]) -> None:
    """ArtefactError where the recipe asks for a format that no layer of the graph has."""
    missing = sorted(graph.formats - {"fp32"} - set(formats))
    if missing:
        found = ", ".join(f"{name} x {count}" for name, count in formats.items())
        raise ArtefactError(
            f"TensorRT would not execute {', '.join(missing)} (recipe {graph.recipe}): the graph's types say {found}, "
            "and it obeys them. Export the graph again with that recipe"
        )


def _configure(trt: Any, config: Any, options: Options) -> None:
    flags = trt.BuilderFlag
    (config.set_flag if options.tf32 else config.clear_flag)(flags.TF32)
    # What each layer computes in can be read back from the engine.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(flags, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)  # RTX asks for it where a stream is captured
    if hasattr(config, "num_compute_capabilities"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, (options.sm or "current").upper()), 0)


def _use_timings(config: Any, timings: TimingCache) -> Any:
    kept = config.create_timing_cache(timings.read() or b"")
    config.set_timing_cache(kept, False)  # no timings of another GPU
    return kept


def _quantized_format(layer: Any, producers: dict[str, Any]) -> str | None:
    """The format of a product between quantized values; None for any other."""
    types = set()
    if layer.num_inputs < 2:  # noqa: PLR2004  # its weights are constants, and not quantized
        return None
    for index in range(2):  # a third one is the bias
        value = layer.get_input(index)
        source = producers.get(value.name) if value is not None else None
        while source is not None and _name(source.type) in ("SHUFFLE", "SHAPE", "SLICE", "IDENTITY"):
            source = producers.get(source.get_input(0).name)
        if source is None or _name(source.type) != "DEQUANTIZE":
            return None
        types.add(_name(source.get_input(0).dtype))
    return FORMAT_OF_TYPE[types.pop()] if len(types) == 1 and types <= QUANTIZED else None


def _name(member: Any) -> str:
    """`HALF` of DataType.HALF."""
    return str(member).rpartition(".")[2]
