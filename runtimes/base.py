"""What a runtime is: the code that builds and runs one kind of engine.

A runtime never decides what is computed. Precision is written into the graph; the runtime pins its own hints so that the
graph is executed as written, refuses a format that it would not execute, and reports what it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from icf_deploy.runtimes.cache_entry import EngineKey

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Availability:
    """Whether a runtime can run here; if not, why, and the command that brings it."""

    ok: bool
    version: str | None = None
    reason: str = ""
    install: str = ""


@dataclass(frozen=True)
class Target:
    """Where and how an engine runs.

    device: the runtime's own name of the device.
    threads: worker threads inside one call; None leaves it to the runtime's default of one per physical core.
    """

    device: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True)
class Graph:
    """A graph as a runtime needs it: the bytes that were hashed, and what its manifest says about them.

    data: ONNX protobuf. For the `pytorch` runtime, which runs no graph, the checkpoint's safetensors bytes.
    sha256: hex digest of `data`.
    size: (H, W) in pixels of the gray input. stride: H / h of the ab output. preset: the network's preset name.
    recipe: the number formats asked for, joined by "+": "fp32", "int8+bf16". "int8" alone leaves the rest in fp32.
    """

    data: bytes
    sha256: str
    size: tuple[int, int]
    stride: int
    recipe: str = "fp32"
    preset: str = ""

    @property
    def formats(self) -> frozenset[str]:
        """Number formats that the recipe asks for."""
        return frozenset(self.recipe.split("+"))


@dataclass(frozen=True)
class Engine:
    """A graph compiled by one runtime for one target, as bytes that `open` understands."""

    runtime: str
    target: Target
    graph: Graph
    data: bytes = field(repr=False)


class Session(Protocol):
    """An engine that is loaded and ready. Several threads may call `run` at once."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the gray input."""
        ...

    @property
    def output_size(self) -> tuple[int, int]:
        """(h, w) of the ab output."""
        ...

    @property
    def formats(self) -> Mapping[str, int]:
        """Number formats that were executed, and how many nodes ran in each, e.g. {"fp32": 212}.

        "unreported" counts nodes of which the engine doesn't tell.
        """
        ...

    def run(self, gray: FloatArray) -> FloatArray:
        """gray: float32 [N,1,H,W] in 0..1 -> ab: float32 [N,2,h,w] in CIELAB units."""
        ...

    def close(self) -> None:
        """Free what the engine holds. Calling it twice does nothing."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Runtime(Protocol):
    """One kind of engine. A new one is one module and one line in the registry."""

    name: str

    def available(self) -> Availability:
        """Whether it runs here. Never raises, and imports the engine only if it is installed."""
        ...

    def devices(self) -> tuple[str, ...]:
        """Devices that a `Target` may name here, on this machine; the first is the default."""
        ...

    def formats(self, device: str) -> tuple[str, ...]:
        """Number formats really executed on `device`, e.g. ("fp32", "int8")."""
        ...

    def build(self, graph: Graph, target: Target) -> Engine:
        """Compile. Raises ArtefactError for a format that it would not execute, EngineUnavailableError if it is not here."""
        ...

    def open(self, engine: Engine) -> Session:
        """Load what `build` made. Raises ArtefactError for an engine of another runtime."""
        ...


@runtime_checkable
class KnowsDevices(Protocol):
    """A runtime that can name devices which are not here: a name like `ort:cuda` is then understood without the engine."""

    known: tuple[str, ...]
    """Every device that a `Target` may name on some machine; the first is the default."""


@runtime_checkable
class KeepsEngines(Protocol):
    """A runtime that keeps what it compiles in the cache of this device."""

    def cache_key(self, graph: Graph, target: Target) -> EngineKey | None:
        """Under what the engine of `graph` on `target` is kept; None where that target's engines are not kept.

        Raises as `Runtime.build`.
        """
        ...


@runtime_checkable
class OpensBrought(Protocol):
    """A runtime whose engines can be built elsewhere, and travel in a bundle."""

    def fits(self, built_for: str, version: str, target: Target) -> bool:
        """Whether an engine that `version` of a library has built for `built_for` can be opened here as `target`."""
        ...
