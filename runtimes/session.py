"""What every session shares: its shapes, the check of its input, its life cycle; and the guards that every runtime needs."""

from __future__ import annotations

import importlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from icf_deploy.errors import ArtefactError, EngineUnavailableError, UsageError
from icf_deploy.runtimes.base import KnowsDevices

if TYPE_CHECKING:
    from icf_deploy.runtimes.base import Engine, FloatArray, Graph, Runtime

Self = TypeVar("Self", bound="EngineSession")
GRAY_CHANNELS = 1
AB_CHANNELS = 2
UNREPORTED = "unreported"  # instead of a format, in `formats`, where an engine doesn't tell what its nodes computed in


def require_available(runtime: Runtime, module: str, attribute: str) -> None:
    """Import `module`, which must have `attribute`; EngineUnavailableError with the reason and the command that repairs it.

    `runtime.available()` is asked only for the reason: it also looks at what else is installed, which takes longer than a
    cold start may.
    """
    try:
        getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, OSError) as error:
        availability = runtime.available()
        raise EngineUnavailableError(
            f"engine {runtime.name}: {availability.reason or error}. Install it with: {availability.install}"
        ) from error


def require_own(engine: Engine, runtime: Runtime) -> None:
    """Raise ArtefactError where `engine` was built by another runtime."""
    if engine.runtime != runtime.name:
        raise ArtefactError(
            f"this engine was built by {engine.runtime}, not by {runtime.name}: build it again for {runtime.name}"
        )


def known_devices(runtime: Runtime) -> tuple[str, ...]:
    """Devices that a name may ask for, whether they are here or not; the first is the default.

    `runtime.known` where a runtime states it (see `base.KnowsDevices`), so that no engine is imported to read a name.
    """
    return runtime.known if isinstance(runtime, KnowsDevices) else runtime.devices()


def require_device(runtime: Runtime, device: str) -> None:
    """Raise UsageError where no `runtime` has such a device. Whether it is here is another question: EngineUnavailableError."""
    known = known_devices(runtime)
    if device not in known and device not in runtime.devices():
        raise UsageError(
            f"engine {runtime.name} has no device {device!r}: choose one of "
            + ", ".join(f"{runtime.name}:{name}" for name in known)
        )


class EngineSession(ABC):
    """A `base.Session` whose subclass computes one checked batch in `_compute` and frees it in `_release`."""

    def __init__(self, graph: Graph) -> None:
        height, width = graph.size
        self._size = (height, width)
        self._output_size = (height // graph.stride, width // graph.stride)
        self._closed = False
        self._inside = 0  # calls of `run` that have not returned
        self._calls = threading.Condition()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the gray input."""
        return self._size

    @property
    def output_size(self) -> tuple[int, int]:
        """(h, w) of the ab output."""
        return self._output_size

    @property
    @abstractmethod
    def formats(self) -> Mapping[str, int]:
        """Nodes that computed in each number format; conversions and pure data movement are not counted."""

    @abstractmethod
    def _compute(self, gray: FloatArray) -> FloatArray:
        """gray: float32 [N,1,H,W], contiguous -> ab: float32 [N,2,h,w], which the caller owns. Several threads call it."""

    @abstractmethod
    def _release(self) -> None:
        """Free what the engine holds; called once."""

    def run(self, gray: FloatArray) -> FloatArray:
        """gray: float32 [N,1,H,W] in 0..1 -> ab: float32 [N,2,h,w] in CIELAB units. Any N from 1; several threads may call it.

        Raises UsageError for another shape or type, and after `close`. The range is the caller's word: checking it would
        read the whole picture.
        """
        if gray.dtype != np.float32 or gray.ndim != 4 or gray.shape[0] < 1 or gray.shape[1:] != (GRAY_CHANNELS, *self._size):  # noqa: PLR2004  # N, C, H, W
            height, width = self._size
            raise UsageError(f"gray must be float32 [N,1,{height},{width}], not {gray.dtype} {list(gray.shape)}")
        with self._calls:
            if self._closed:
                raise UsageError("this session is closed: open it again")
            self._inside += 1
        try:
            return self._compute(np.ascontiguousarray(gray))
        finally:
            with self._calls:
                self._inside -= 1
                if self._closed:
                    self._calls.notify_all()

    def close(self) -> None:
        """Wait for the calls of other threads to return, then free what the engine holds. Calling it twice does nothing."""
        with self._calls:
            if self._closed:
                return
            self._closed = True
            self._calls.wait_for(lambda: self._inside == 0)
        self._release()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
