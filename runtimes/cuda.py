"""The little of CUDA that running an engine takes, through NVIDIA's `cuda-bindings`: memory, one stream, a captured graph.

Every call of the bindings returns its error first; `check` turns that into a CudaError and gives back the rest.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icf_deploy.runtimes.base import FloatArray

INSTALL = "pip install cuda-bindings"
# Device files of a Linux driver: a graphics card, a Jetson (two generations of its driver), Windows' subsystem for Linux.
DEVICE_FILES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg")
NVML = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
NVML_TEXT_BYTES = 96  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE is 80


class CudaError(Exception):
    """A CUDA call that failed; its name and text."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that engines run on. capability: (major, minor). driver: its version, and the CUDA version that it serves."""

    name: str
    capability: tuple[int, int]
    driver: str

    @property
    def sm(self) -> str:
        """`sm89` of capability 8.9."""
        return f"sm{self.capability[0]}{self.capability[1]}"


def driver_present() -> bool:
    """Whether an NVIDIA driver seems to be installed; loads nothing, so it costs no start-up time."""
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll").is_file()
    return any(Path(name).exists() for name in DEVICE_FILES)


def bindings() -> Any:
    """The module `cuda.bindings.runtime`. ImportError where it is not installed."""
    return importlib.import_module("cuda.bindings.runtime")


def check(result: tuple[Any, ...]) -> Any:
    """What a call gave besides its error: nothing, a value, or a tuple of values. CudaError for an error."""
    error, *values = result
    runtime = bindings()
    if error != runtime.cudaError_t.cudaSuccess:
        name, text = (runtime.cudaGetErrorName(error)[1], runtime.cudaGetErrorString(error)[1])
        raise CudaError(f"{_text(name)}: {_text(text)}")
    return values[0] if len(values) == 1 else tuple(values) or None


def find_gpu() -> Gpu:
    """The first GPU that CUDA shows (CUDA_VISIBLE_DEVICES chooses). CudaError without one, ImportError as `bindings`."""
    runtime = bindings()
    if not check(runtime.cudaGetDeviceCount()):
        raise CudaError("CUDA shows no GPU")
    facts = check(runtime.cudaGetDeviceProperties(0))
    version = check(runtime.cudaDriverGetVersion())
    served = f"CUDA {version // 1000}.{version % 1000 // 10}"
    return Gpu(_text(facts.name), (int(facts.major), int(facts.minor)), f"{_driver_version()} ({served})".strip())


class Buffer:
    """As many floats in pinned memory and on the GPU. `host` is the pinned memory as an array; copies go through a stream."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        runtime = bindings()
        self.row_bytes = 4 * math.prod(shape[1:])  # of one photo
        size = shape[0] * self.row_bytes
        self._pinned = check(runtime.cudaHostAlloc(size, runtime.cudaHostAllocDefault))
        try:
            self.device = int(check(runtime.cudaMalloc(size)))
        except CudaError:
            runtime.cudaFreeHost(self._pinned)
            raise
        floats = (ctypes.c_float * (size // 4)).from_address(int(self._pinned))
        self.host: FloatArray = np.ctypeslib.as_array(floats).reshape(shape)

    def upload(self, photos: int, stream: Stream) -> None:
        """Copy the first photos to the GPU, in the stream's turn."""
        runtime = bindings()
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        check(runtime.cudaMemcpyAsync(self.device, self._pinned, photos * self.row_bytes, kind, stream.handle))

    def download(self, photos: int, stream: Stream) -> None:
        """Copy the first photos back, in the stream's turn."""
        runtime = bindings()
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        check(runtime.cudaMemcpyAsync(self._pinned, self.device, photos * self.row_bytes, kind, stream.handle))

    def free(self) -> None:
        """Give both back; `host` may not be touched any more."""
        runtime = bindings()
        self.host = np.empty(0, np.float32)
        runtime.cudaFree(self.device)
        runtime.cudaFreeHost(self._pinned)


class Stream:
    """A queue of work of its own, which waits for no other one."""

    def __init__(self) -> None:
        runtime = bindings()
        self.handle = check(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))

    def wait(self) -> None:
        """Block until all of it is done."""
        check(bindings().cudaStreamSynchronize(self.handle))

    def begin_capture(self) -> None:
        """From here on record what this thread queues, instead of doing it. Other threads go on as they like."""
        runtime = bindings()
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(runtime.cudaStreamBeginCapture(self.handle, mode))

    def end_capture(self) -> CapturedWork:
        """What was recorded. CudaError where something in it cannot be replayed; the stream works as before then."""
        return CapturedWork(check(bindings().cudaStreamEndCapture(self.handle)))

    def free(self) -> None:
        """Give it back; it must be done."""
        bindings().cudaStreamDestroy(self.handle)


class CapturedWork:
    """A CUDA graph that is ready to be launched."""

    def __init__(self, graph: Any) -> None:
        runtime = bindings()
        try:
            self._executable = check(runtime.cudaGraphInstantiate(graph, 0))
        finally:
            runtime.cudaGraphDestroy(graph)

    def launch(self, stream: Stream) -> None:
        """Queue all of it."""
        check(bindings().cudaGraphLaunch(self._executable, stream.handle))

    def free(self) -> None:
        """Give it back; it must be done."""
        bindings().cudaGraphExecDestroy(self._executable)


def _driver_version() -> str:
    """The driver's own version from NVIDIA's management library; "" where that is not there (on a Jetson)."""
    try:
        library = ctypes.CDLL(NVML)
        text = ctypes.create_string_buffer(NVML_TEXT_BYTES)
        if library.nvmlInit_v2() != 0:
            return ""
        try:
            found = library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(NVML_TEXT_BYTES))
        finally:
            library.nvmlShutdown()
    except (OSError, AttributeError):
        return ""
    return text.value.decode(errors="replace") if found == 0 else ""


def _text(value: Any) -> str:
    return value.decode(errors="replace").rstrip("\0") if isinstance(value, bytes) else str(value)
