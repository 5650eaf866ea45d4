"""The engines there are. A new one is one module beside this file and one line in RUNTIMES.

An engine's name is `RUNTIME` or `RUNTIME:DEVICE`: `ort`, `ort:cuda`, `openvino:cpu-bf16`.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from icf_deploy.errors import EngineUnavailableError, UsageError
from icf_deploy.runtimes.base import Graph, Runtime, Session, Target
from icf_deploy.runtimes.session import known_devices, require_device

if TYPE_CHECKING:
    from icf_deploy.bundle.store import Bundle


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

    Raises UsageError (unknown engine or graph), EngineUnavailableError, ArtefactError, IntegrityError. No silent fallback: an
    engine that is installed but fails is an error, not a reason to take the next.
    """
    if engine is None:
        engine = default_engine(bundle)
    name, device = split(engine)
    runtime = get(name)
    return runtime.open(runtime.build(graph_for(bundle, engine, graph), Target(device, threads)))


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
