"""TensorRT: the full library (10.3, as JetPack brings it, and later) or TensorRT for RTX, whichever is here.

An engine is built for the GPU that is here (device `cuda`; `cuda-tf32` lets products round their inputs to 10 bits of
mantissa), or ahead of time for one that is elsewhere (`rtx40`, `sm86`, ...): TensorRT for RTX compiles without a GPU.
CUDA_VISIBLE_DEVICES chooses among several GPUs.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Sequence

from icf_deploy.errors import ArtefactError, EngineUnavailableError
from icf_deploy.runtimes import cuda
from icf_deploy.runtimes.base import Availability, Engine, Graph, Target
from icf_deploy.runtimes.cache import EngineCache, default_cache
from icf_deploy.runtimes.cache_entry import EngineKey
from icf_deploy.runtimes.fingerprint import code_field, graph_fields, system_fields
from icf_deploy.runtimes.session import require_device, require_own
from icf_deploy.runtimes.trt_build import Options, Progress, TimingCache, compile_plan
from icf_deploy.runtimes.trt_library import (
    CONSUMER_NAMES,
    FULL,
    RTX,
    TF32_SUFFIX,
    Library,
    ahead_target,
    find_library,
    require_ahead_target,
)
from icf_deploy.runtimes.trt_plan import Plan, decode_plan
from icf_deploy.runtimes.trt_session import TrtSession

_log = logging.getLogger(__name__)

CUDA, CUDA_TF32 = "cuda", "cuda" + TF32_SUFFIX
AHEAD_COMMAND = "icf-deploy export --engine trt --target rtx40"
BUILD_MODULES = ("icf_deploy.runtimes.trt_build", "icf_deploy.runtimes.trt_plan")
# The first compute capability with instructions for a format.
FIRST_BF16, FIRST_FP8 = (8, 0), (8, 9)


class TrtRuntime:
    """TensorRT. What it builds is kept in the cache of this device.

    progress: called as a build goes on; None tells the log.
    """

    name = "trt"
    known = (CUDA, CUDA_TF32, *CONSUMER_NAMES)

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or _log_phase

    def available(self) -> Availability:
        """Whether an engine can run here, and which of the two libraries it would be."""
        try:
            library = find_library()
        except EngineUnavailableError as error:
            reason, _, install = str(error).removeprefix("engine trt: ").partition(". Install it with: ")
            return Availability(False, reason=reason, install=install)
        version = f"{library.name} {library.version}"
        if not cuda.driver_present():
            ahead = f"; engines for other machines can be compiled here: {AHEAD_COMMAND}"
            return Availability(False, version, f"there is no NVIDIA driver here{ahead if library.is_rtx else ''}")
        try:
            gpu = cuda.find_gpu()
        except ImportError:
            return Availability(False, version, "cuda-bindings, by which it reaches the GPU, is not installed", cuda.INSTALL)
        except cuda.CudaError as error:
            return Availability(False, version, f"CUDA finds no usable GPU: {error}")
        return Availability(True, f"{version} on {gpu.name}")

    def devices(self) -> tuple[str, ...]:
        """`cuda` and `cuda-tf32` where there is a GPU. The names of absent GPUs are only for building."""
        return (CUDA, CUDA_TF32) if self.available().ok else ()

    def formats(self, device: str) -> tuple[str, ...]:
        """What the GPU has instructions for. It is the graph that says what is computed in which."""
        self._require_device(device)
        target = ahead_target(device)
        if target is None:
            return _formats_of(self._require_gpu().capability, tf32=device == CUDA_TF32)
        return _formats_of((int(target.sm[2:-1]), int(target.sm[-1])), tf32=target.tf32)

    def build(self, graph: Graph, target: Target) -> Engine:
        """The engine, from the cache where it is kept, else compiled. target.device: one that is here, or an absent GPU.

        Raises ArtefactError with the parser's or builder's words for a graph that it does not take, UsageError for a GPU that
        it does not compile for, EngineUnavailableError without the library, or without a GPU for an engine that is to run here.
        """
        library, options, sm, key = self._resolve(graph, target)
        refused = sorted(graph.formats - set(self.formats(target.device)) - {"fp32"})
        if refused:
            raise ArtefactError(
                f"TensorRT would not execute {', '.join(refused)} on {sm} (recipe {graph.recipe}): it has instructions for "
                f"{', '.join(self.formats(target.device))}. Choose a graph of those formats"
            )
        cache = default_cache()
        timings = None if library.is_rtx else _timings(cache, key)
        content = cache.get_or_build(key, lambda: self._compile(graph, library, options, sm, timings))
        return Engine(self.name, target, graph, content)

    def open(self, engine: Engine) -> TrtSession:
        """Load the plan. It is machine code: give it only what `build` made, or what came in a bundle that you trust.

        Raises ArtefactError for a plan of another graph, GPU or version, IntegrityError for a damaged one,
        EngineUnavailableError without the library or a GPU.
        """
        require_own(engine, self)
        plan = decode_plan(engine.data)
        if plan.graph != engine.graph.sha256:
            raise ArtefactError("this engine was built from another graph than the one it stands for: build it again")
        library = find_library(plan.library)
        gpu = self._require_gpu()
        if plan.sm != gpu.sm or plan.version != library.version:
            raise ArtefactError(
                f"this engine was built by {plan.library} {plan.version} for {plan.sm}, and here are {library.name} "
                f"{library.version} and a {gpu.name} ({gpu.sm}): build it again on this machine"
            )
        return TrtSession(engine, plan, library, _compiled_kernels(plan, gpu) if library.is_rtx else None)

    def fits(self, built_for: str, version: str, target: Target) -> bool:
        """Whether an engine that was built ahead of time runs here. version: its library's name and version."""
        ahead = ahead_target(built_for)
        if ahead is None or ahead.tf32 != (target.device == CUDA_TF32):
            return False
        try:
            library, gpu = find_library(version.partition(" ")[0]), self._require_gpu()
        except (ArtefactError, EngineUnavailableError):
            return False
        return ahead.sm == gpu.sm and version == f"{library.name} {library.version}"

    def cache_key(self, graph: Graph, target: Target) -> EngineKey | None:
        """Under what the engine is kept. Raises as `build`."""
        return self._resolve(graph, target)[3]

    def _resolve(self, graph: Graph, target: Target) -> tuple[Library, Options, str, EngineKey]:
        """What builds the engine, how, for which compute capability, and under which key it is kept."""
        self._require_device(target.device)
        if ahead_target(target.device) is not None:
            library = require_rtx()
            ahead = require_ahead_target(target.device, library)
            options, sm = Options(ahead.sm, ahead.tf32), ahead.sm
            device = {"device": target.device.removesuffix(TF32_SUFFIX), "driver": "none"}
        else:
            library, gpu = find_library(), self._require_gpu()
            options, sm = Options(None, target.device == CUDA_TF32), gpu.sm
            device = {"device": gpu.name, "driver": gpu.driver}
        fields = {
            "runtime": self.name,
            "engine": f"{library.name} {library.version}",
            **graph_fields(graph),
            **options.fields(),
            **device,
            "capability": sm,
            **system_fields(),
            **code_field(*BUILD_MODULES),
        }
        return library, options, sm, EngineKey("engine", fields)

    def _compile(self, graph: Graph, library: Library, options: Options, sm: str, timings: TimingCache | None) -> bytes:
        return compile_plan(graph, library, options, sm=sm, progress=self._progress, timings=timings).encode()

    def _require_device(self, device: str) -> None:
        if ahead_target(device) is None:
            require_device(self, device)

    def _require_gpu(self) -> cuda.Gpu:
        """The GPU, or an EngineUnavailableError that says what is missing for an engine to run here."""
        found = self.available()
        if not found.ok:
            install = f". Install it with: {found.install}" if found.install else ""
            raise EngineUnavailableError(f"engine trt: {found.reason}{install}")
        return cuda.find_gpu()


def build_ahead(graph: Graph, targets: Sequence[str], progress: Progress | None = None) -> dict[str, bytes]:
    """Compile `graph` for GPUs that are elsewhere: {target: the engine's bytes}, which `TrtRuntime.open` takes there.

    targets: `rtx30`, `rtx40`, `rtx50`, or compute capabilities such as `sm86`; `-tf32` at the end allows TF32. Every name is
    looked at before anything is compiled. Raises as `TrtRuntime.build`.
    """
    library = require_rtx()
    for name in targets:
        require_ahead_target(name, library)
    runtime = TrtRuntime(progress)
    return {name: runtime.build(graph, Target(name)).data for name in dict.fromkeys(targets)}


def require_rtx() -> Library:
    """TensorRT for RTX, which alone compiles for GPUs that are elsewhere. EngineUnavailableError where it is not here."""
    try:
        return find_library(RTX)
    except EngineUnavailableError as error:
        raise EngineUnavailableError(
            f"building engines for GPUs that are elsewhere takes TensorRT for RTX; the full {FULL} builds only for the GPU of "
            f"this machine. {error}"
        ) from error


def _formats_of(capability: tuple[int, int], *, tf32: bool) -> tuple[str, ...]:
    formats = ["tf32"] if tf32 else []
    formats += ["fp32", "fp16", "int8"]
    formats += ["bf16"] if capability >= FIRST_BF16 else []
    formats += ["fp8"] if capability >= FIRST_FP8 else []
    return tuple(formats)


def _timings(cache: EngineCache, key: EngineKey) -> TimingCache:
    """The timings that builds of this library, GPU and driver share."""
    shared = {name: key.fields[name] for name in ("runtime", "engine", "device", "capability", "driver", "os", "machine")}
    place = EngineKey("timing", shared)
    return TimingCache(functools.partial(cache.get, place), functools.partial(cache.put, place))


def _compiled_kernels(plan: Plan, gpu: cuda.Gpu) -> tuple[functools.partial[bytes | None], functools.partial[None]]:
    """What TensorRT for RTX compiles on the user's GPU when a plan first runs; kept, it is not compiled again."""
    fields = {
        "runtime": TrtRuntime.name,
        "engine": f"{plan.library} {plan.version}",
        "plan": hashlib.sha256(plan.data).hexdigest(),
        "device": gpu.name,
        "capability": gpu.sm,
        "driver": gpu.driver,
        **system_fields(),
    }
    cache, key = default_cache(), EngineKey("kernels", fields)
    return functools.partial(cache.get, key), functools.partial(cache.put, key)


def _log_phase(phase: str, done: int, steps: int) -> None:
    _log.debug("TensorRT: %s, step %d of %d", phase, done, steps)
