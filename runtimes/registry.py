"""The engines there are. A new one is one module beside this file and one line in RUNTIMES.

An engine's name is `RUNTIME` or `RUNTIME:DEVICE`: `ort`, `ort:cuda`, `openvino:cpu-bf16`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from icf_deploy.errors import EngineUnavailableError, UsageError
from icf_deploy.runtimes.base import Engine, Graph, OpensBrought, Runtime, Session, Target
from icf_deploy.runtimes.session import known_devices, require_device

if TYPE_CHECKING:
    from icf_deploy.bundle.store import Bundle

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """One runtime: where its class is, which packages it needs (any one of them), whether it runs the checkpoint.

    needs_gpu: it runs nothing without a CUDA GPU, so it is not chosen where there is none.
    """

    module: str
    class_name: str
    packages: tuple[str, ...]
    runs_checkpoint: bool = False
    needs_gpu: bool = False


RUNTIMES: dict[str, Line] = {  # in the order of preference
    "trt": Line("icf_deploy.runtimes.trt", "TrtRuntime", ("tensorrt", "tensorrt_rtx"), needs_gpu=True),
    "ort": Line("icf_deploy.runtimes.ort", "OrtRuntime", ("onnxruntime",)),
    "openvino": Line("icf_deploy.runtimes.openvino", "OpenvinoRuntime", ("openvino",)),
    "pytorch": Line("icf_deploy.runtimes.pytorch", "PytorchRuntime", ("torch",), runs_checkpoint=True),
}


def names() -> tuple[str, ...]:
    """Names of all runtimes, preferred ones first."""
    return tuple(RUNTIMES)


def line(engine: str) -> Line:
    """The registry's line of `engine`, such as "ort" or "ort:cpu". UsageError if there is none."""
    name = engine.partition(":")[0]
    found = RUNTIMES.get(name)
    if found is None:
        import difflib  # not part of a cold start

        close = difflib.get_close_matches(name, RUNTIMES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UsageError(f"there is no engine {name!r}: choose one of {', '.join(RUNTIMES)}.{hint}")
    return found


def get(engine: str) -> Runtime:
    """The runtime of `engine`, such as "ort" or "ort:cpu". Imports our module, not the engine. UsageError if there is none."""
    found = line(engine)
    runtime = cast("Runtime", getattr(importlib.import_module(found.module), found.class_name)())
    _, colon, device = engine.partition(":")
    if colon:
        require_device(runtime, device)
    return runtime


def split(engine: str) -> tuple[str, str]:
    """(runtime, device) of an engine's name, with the runtime's default device where none is named. UsageError as `get`."""
    name, _, device = engine.partition(":")
    return name, device or known_devices(get(engine))[0]


def preferred() -> tuple[str, ...]:
    """Names of the engines that are installed and find their device, best first: trt, ort:cuda, ort, openvino, pytorch.

    That order is ours until `tune` has measured this device. It looks for packages and devices and imports none, so that
    starting with one engine doesn't pay for the others; one that is installed but broken says so when it is opened, and is
    not skipped.
    """
    from icf_deploy.runtimes.cuda import driver_present

    gpu = driver_present()
    found: list[str] = []
    for name, entry in RUNTIMES.items():
        if any(_is_installed(package) for package in entry.packages) and (gpu or not entry.needs_gpu):
            if name == "ort" and gpu and _has_cuda_provider():
                found.append("ort:cuda")
            found.append(name)
    return tuple(found)


def graph_for(bundle: Bundle, engine: str, graph: str | None = None) -> Graph:
    """What `engine` runs of `bundle`: its graph named `graph` (None: the default one), or for `pytorch` its checkpoint.

    Raises EngineUnavailableError where the bundle has no checkpoint for it.
    """
    name, _ = split(engine)
    if not RUNTIMES[name].runs_checkpoint:
        return bundle.graph(graph)
    checkpoint = bundle.checkpoint()
    if checkpoint is None:
        raise EngineUnavailableError(
            f"engine {name} runs the checkpoint, and {bundle.path.name} holds none: "
            f"write the bundle again with `icf-deploy export --with-checkpoint`"
        )
    return checkpoint


def open_session(bundle: Bundle, engine: str | None = None, *, graph: str | None = None, threads: int | None = None) -> Session:
    """Build and open `engine` (None: the first of `preferred`) on `bundle`; the caller closes the session.

    An engine in the bundle that was built for this device is used where the bundle was opened with `trust_engines`.
    Raises UsageError (unknown engine or graph), EngineUnavailableError, ArtefactError, IntegrityError. No silent fallback: an
    engine that is installed but fails is an error, not a reason to take the next.
    """
    if engine is None:
        engine = default_engine(bundle)
    name, device = split(engine)
    runtime, target = get(name), Target(device, threads)
    asked = graph_for(bundle, engine, graph)
    return runtime.open(_brought(bundle, runtime, asked, graph, target) or runtime.build(asked, target))


def _brought(bundle: Bundle, runtime: Runtime, asked: Graph, graph: str | None, target: Target) -> Engine | None:
    """The engine for this device that lies in the bundle, where its user trusts it; None where none fits."""
    entries = bundle.engines(runtime.name)  # none at all, unless they are trusted
    if not entries or not isinstance(runtime, OpensBrought):
        return None
    name = graph if graph is not None else bundle.manifest.default_graph
    for entry in entries:
        if entry.graph == name and runtime.fits(entry.target, entry.version, target):
            _log.info("engine %s of %s: it was built for %s, and is used", entry.name, bundle.path, entry.target)
            return Engine(runtime.name, target, asked, bundle.engine(entry.name))
    _log.info("no engine in %s fits %s here: one is built", bundle.path, runtime.name)
    return None


def default_engine(bundle: Bundle) -> str:
    """The first of `preferred` that can run `bundle`; `pytorch` needs a checkpoint in it. EngineUnavailableError if none."""
    for name in preferred():
        if not line(name).runs_checkpoint or bundle.checkpoint() is not None:
            return name
    raise EngineUnavailableError("no engine is installed that can run this bundle. Install one: pip install 'icf-deploy[cpu]'")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # blocked, or half imported
        return False


def _has_cuda_provider() -> bool:
    """Whether the installed ONNX Runtime carries its CUDA provider; without importing it."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return False
    libraries = Path(spec.origin).with_name("capi")
    return any((libraries / name).is_file() for name in ("libonnxruntime_providers_cuda.so", "onnxruntime_providers_cuda.dll"))
