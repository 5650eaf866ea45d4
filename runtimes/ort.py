"""ONNX Runtime, on any execution provider that the installed build has.

Left alone it answers a provider that cannot start with the CPU provider and a line in a log. Here the provider that was asked
for runs, or an error says what is missing. The CPU provider executes fp32, and int8 where Q/DQ surround an operator: a graph in
fp16 would be computed in fp32 with its Casts removed, and a bf16 convolution is refused by it, so both are refused here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

from icf_deploy.errors import ArtefactError, EngineUnavailableError, WorkError
from icf_deploy.runtimes.base import Availability, Engine, FloatArray, Graph, Target
from icf_deploy.runtimes.cores import thread_count
from icf_deploy.runtimes.ort_install import availability, first_line
from icf_deploy.runtimes.ort_placement import executed_formats, placement
from icf_deploy.runtimes.ort_providers import CPU_PROVIDER, PROVIDERS, Provider
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

_log = logging.getLogger(__name__)

FATAL = 4  # log severity: what goes wrong comes as an exception, once
USUAL_SEVERITY = 2  # of ONNX Runtime's own log where nobody has set it: warnings


class OrtRuntime:
    """ONNX Runtime. `build` keeps the graph as it is; the engine optimizes it when it is opened.

    Its optimized form is not kept in the cache: loading that saves 20 to 50 ms of about 90 for icf-edge, reading and hashing a
    second copy of the graph gives back most of it, and it is only right on the processor that wrote it, which nothing checks.
    """

    name = "ort"
    known = tuple(PROVIDERS)

    def available(self) -> Availability:
        """Whether it imports; `reason` also says when two distributions of it overwrite each other."""
        return availability()

    def devices(self) -> tuple[str, ...]:
        """`cpu`, and what else of `known` the installed build has. Whether that finds its hardware here, opening it tells."""
        try:
            import onnxruntime

            offered = set(onnxruntime.get_available_providers())
        except Exception:  # not installed, or broken: `available` says which
            return ("cpu",)
        return tuple(device for device, provider in PROVIDERS.items() if provider.name in offered)

    def formats(self, device: str) -> tuple[str, ...]:
        """What the provider computes in."""
        require_device(self, device)
        return PROVIDERS[device].formats

    def build(self, graph: Graph, target: Target) -> Engine:
        """Check that the recipe would be executed as asked.

        ArtefactError if not; EngineUnavailableError without ONNX Runtime, or with a build that lacks the provider.
        """
        require_device(self, target.device)
        self._require_provider(target.device)
        _require_executable(graph, target.device)
        return Engine(self.name, target, graph, graph.data)

    def open(self, engine: Engine) -> OrtSession:
        """Load and optimize the graph.

        ArtefactError with the engine's message where it does not load; EngineUnavailableError where the provider doesn't start.
        """
        require_own(engine, self)
        self._require_provider(engine.target.device)
        return OrtSession(engine)

    def _require_provider(self, device: str) -> None:
        require_available(self, "onnxruntime", "InferenceSession")
        if device != "cpu" and device not in self.devices():
            raise EngineUnavailableError(
                f"engine ort:{device}: this build of onnxruntime has no {PROVIDERS[device].name}, it has "
                f"{', '.join(f'ort:{name}' for name in self.devices())}. Install one that has it: {PROVIDERS[device].install}"
            )


class OrtSession(EngineSession):
    """One InferenceSession; `run` may be called from several threads at once, which each run it with memory of their own."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.graph)
        self._graph, self._device, self._data = engine.graph, engine.target.device, engine.data
        self._formats: dict[str, int] | None = None
        self._threads = thread_count(engine.target.threads)
        self._session: onnxruntime.InferenceSession | None = self._load(_options(self._threads))
        self._input = _gray_input(self._session, self.size, self.output_size)
        self._turn: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if self._provider.one_call:
            import threading

            self._turn = threading.Lock()
        if self._device != "cpu":
            _require_placed(self._session, self._device)

    @property
    def formats(self) -> Mapping[str, int]:
        """Formats of the computing nodes, from a profile of one run: what a graph asks for is not what gets executed.

        Fusion decides that (a quantized Conv whose output is not requantized at once runs in fp32), and only a profile
        shows it. The first reading costs one more load of the graph, on one thread, and one run on zeros.
        """
        if self._formats is None:
            compiling = self._provider.name if self._provider.compiles else None
            self._formats = executed_formats(_options(threads=1), self._load, self._input, self.size, compiling)
        return dict(self._formats)

    @property
    def _provider(self) -> Provider:
        return PROVIDERS[self._device]

    def _load(self, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        """A session on the provider that was asked for, and on no other in its place."""
        import onnxruntime

        provider = self._provider
        missing = provider.prepare()
        chosen = [(provider.name, dict(provider.options(self._graph.formats, self._threads)))]
        if self._device != "cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # before 1.24 nobody reads it
        if provider.one_call:
            options.enable_mem_pattern = False  # DirectML asks for it
        try:
            with contextlib.nullcontext() if self._device == "cpu" else _said_once():
                session = onnxruntime.InferenceSession(self._data, options, providers=chosen, enable_fallback=0)
        except Exception as error:  # the binding has a class per status code, with no common base below Exception
            if self._device != "cpu" and not _is_about_the_graph(error):
                raise _unstarted(self._device, missing or first_line(error)) from error
            raise ArtefactError(
                f"ONNX Runtime {onnxruntime.__version__} does not load this graph: {first_line(error)}. "
                "Export it again, or use a newer onnxruntime"
            ) from error
        if provider.name not in session.get_providers():
            reason = missing or f"ONNX Runtime put {' and '.join(session.get_providers())} in its place"
            raise _unstarted(self._device, reason)
        return session

    def _compute(self, gray: FloatArray) -> FloatArray:
        session = self._session
        assert session is not None  # `run` has checked
        try:
            with self._turn:
                return cast("FloatArray", session.run(None, {self._input: gray})[0])
        except Exception as error:  # as in `_load`
            raise WorkError(f"ONNX Runtime failed on a batch of {len(gray)}: {first_line(error)}") from error

    def _release(self) -> None:
        self._session = None


def _require_executable(graph: Graph, device: str) -> None:
    """ArtefactError where the provider would not execute the recipe as asked."""
    provider = PROVIDERS[device]
    refused = sorted(graph.formats - set(provider.formats))
    who = "ONNX Runtime's CPU provider" if device == "cpu" else f"ONNX Runtime's {provider.name}"
    if refused:
        raise ArtefactError(
            f"{who} would not execute {', '.join(refused)} (recipe {graph.recipe}): it computes "
            f"{' and '.join(provider.formats)}. Choose a graph of those formats, or another engine: `icf-deploy doctor` "
            "lists them"
        )
    if provider.whole and {"fp16", "fp32"} <= graph.formats:
        raise ArtefactError(
            f"{who} computes fp16 in the whole graph or nowhere: recipe {graph.recipe} would not run as asked. "
            "Choose a graph of one float format, or engine trt, which obeys the types in the graph"
        )


def _require_placed(session: onnxruntime.InferenceSession, device: str) -> None:
    """Say in the log what ONNX Runtime put on its CPU provider; ArtefactError where that is all of the arithmetic."""
    placed = placement(session)
    if placed is None:
        _log.warning("ort:%s: onnxruntime before 1.24 does not tell which nodes it puts on the CPU", device)
        return
    here = sum(count for name, count in placed.items() if name != CPU_PROVIDER)
    elsewhere = placed.get(CPU_PROVIDER, 0)
    if not here:
        raise ArtefactError(
            f"ONNX Runtime's {PROVIDERS[device].name} takes none of this graph's convolutions and matrix products: they would "
            f"run on the CPU. Choose ort:cpu, or another graph"
        )
    if elsewhere:
        _log.warning(
            "ort:%s runs %d of the graph's %d convolutions and matrix products; the rest run on the CPU",
            device,
            here,
            here + elsewhere,
        )


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


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Keep ONNX Runtime from logging why a provider doesn't start, outside the session's own log: our error says that.

    Its severity can be set and not read, so afterwards it is what it usually is.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(FATAL)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(USUAL_SEVERITY)


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


def _is_about_the_graph(error: Exception) -> bool:
    """Whether ONNX Runtime complains of the graph, and not of the provider."""
    return type(error).__name__ in ("InvalidGraph", "InvalidProtobuf", "InvalidArgument", "NoModel", "NotImplemented")


def _unstarted(device: str, reason: str) -> EngineUnavailableError:
    provider = PROVIDERS[device]
    return EngineUnavailableError(
        f"engine ort:{device}: {provider.name} does not start here: {reason}. It needs {provider.needs}"
    )
