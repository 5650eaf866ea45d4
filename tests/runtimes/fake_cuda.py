# ruff: noqa: N801, N802, N815  (the names are those of cuda-bindings)
"""CUDA's runtime and TensorRT's, as far as a session uses them, on the CPU: with their rules, and an account of what is held.

Work on a stream is queued, and done when the stream is waited for. A stream that captures records instead. A graph that is
launched after its context changed shape has no defined result: here that is an error. So is memory that is used after it was
freed, and a context that two threads use at once.
"""

from __future__ import annotations

import ctypes
import enum
import json
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorStreamCaptureUnsupported = 900


class FakeRuntime:
    """The module `cuda.bindings.runtime`."""

    cudaError_t = cudaError_t
    cudaHostAllocDefault = 0
    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks: dict[int, Any] = {}  # address -> memory
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self.launched = 0
        self.next = 1
        self.memory_left = 2**40
        self.capability, self.gpus = (8, 9), 1

    def held(self) -> int:
        """Everything that has not been given back."""
        return len(self.blocks) + len(self.streams) + len(self.graphs) + len(self.executables)

    def _new(self, table: dict[int, Any], item: Any) -> int:
        with self.lock:
            self.next += 1
            table[self.next] = item
            return self.next

    def _allocate(self, size: int) -> tuple[cudaError_t, int]:
        if size > self.memory_left:
            return cudaError_t.cudaErrorMemoryAllocation, 0
        self.memory_left -= size
        memory = (ctypes.c_char * size)()
        with self.lock:
            self.blocks[ctypes.addressof(memory)] = memory
        return cudaError_t.cudaSuccess, ctypes.addressof(memory)

    def _free(self, address: int) -> tuple[cudaError_t]:
        with self.lock:
            self.memory_left += len(self.blocks.pop(int(address)))
        return (cudaError_t.cudaSuccess,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[cudaError_t, int]:
        return self._allocate(size)

    def cudaMalloc(self, size: int) -> tuple[cudaError_t, int]:
        return self._allocate(size)

    def cudaFree(self, address: int) -> tuple[cudaError_t]:
        return self._free(address)

    def cudaFreeHost(self, address: int) -> tuple[cudaError_t]:
        return self._free(address)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[cudaError_t, int]:
        return cudaError_t.cudaSuccess, self._new(self.streams, Stream())

    def cudaStreamDestroy(self, stream: int) -> tuple[cudaError_t]:
        assert not self.streams.pop(stream).queue
        return (cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[cudaError_t]:
        def copy() -> None:
            assert target in self.blocks and source in self.blocks
            assert size <= len(self.blocks[target]) and size <= len(self.blocks[source])
            ctypes.memmove(target, source, size)

        self.streams[stream].add(copy)
        return (cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[cudaError_t]:
        self.streams[stream].finish()
        return (cudaError_t.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[cudaError_t]:
        assert self.streams[stream].recorded is None
        self.streams[stream].recorded = []
        return (cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[cudaError_t, int]:
        recorded, self.streams[stream].recorded = self.streams[stream].recorded, None
        assert recorded is not None
        return cudaError_t.cudaSuccess, self._new(self.graphs, recorded)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[cudaError_t, int]:
        return cudaError_t.cudaSuccess, self._new(self.executables, list(self.graphs[graph]))

    def cudaGraphDestroy(self, graph: int) -> tuple[cudaError_t]:
        del self.graphs[graph]
        return (cudaError_t.cudaSuccess,)

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[cudaError_t]:
        with self.lock:
            self.launched += 1
        for work in self.executables[executable]:
            self.streams[stream].add(work)
        return (cudaError_t.cudaSuccess,)

    def cudaGraphExecDestroy(self, executable: int) -> tuple[cudaError_t]:
        del self.executables[executable]
        return (cudaError_t.cudaSuccess,)

    def cudaGetErrorName(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:
        return cudaError_t.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:
        return cudaError_t.cudaSuccess, b"what it means"

    def cudaGetDeviceCount(self) -> tuple[cudaError_t, int]:
        return cudaError_t.cudaSuccess, self.gpus

    def cudaGetDeviceProperties(self, device: int) -> tuple[cudaError_t, Any]:
        facts = SimpleNamespace(name=b"Abacus RTX 4090\0\0", major=self.capability[0], minor=self.capability[1])
        return cudaError_t.cudaSuccess, facts

    def cudaDriverGetVersion(self) -> tuple[cudaError_t, int]:
        return cudaError_t.cudaSuccess, 13010


class Stream:
    """Work that is queued, or recorded."""

    def __init__(self) -> None:
        self.queue: list[Callable[[], None]] = []
        self.recorded: list[Callable[[], None]] | None = None

    def add(self, work: Callable[[], None]) -> None:
        (self.queue if self.recorded is None else self.recorded).append(work)

    def finish(self) -> None:
        assert self.recorded is None, "waiting while capturing"
        queue, self.queue = self.queue, []
        for work in queue:
            work()


class FakeTrt:
    """The module `tensorrt_rtx` (or, with rtx=False, `tensorrt`), running only; `compute`: gray [n,1,H,W] -> ab [n,2,h,w]."""

    ILogger = type("ILogger", (), {"__init__": lambda self: None, "INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2})
    LayerInformationFormat = SimpleNamespace(JSON=1)

    def __init__(self, cuda: FakeRuntime, compute: Callable[[Array], Array], *, rtx: bool = True, version: str = "1.7") -> None:
        self.cuda, self.compute, self.rtx, self.__version__ = cuda, compute, rtx, version
        self.contexts: list[Context] = []
        self.capturable, self.fails, self.most_contexts, self.takes = True, False, 99, True
        self.description = json.dumps({"Layers": ["only", "names"]})
        self.kernels = b"kernels for this GPU"
        self.given_kernels: list[bytes] = []
        self.Builder = object
        self.shapes = {"gray": (-1, 1, 8, 16), "ab": (-1, 2, 4, 8)}
        if rtx:
            self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    def Runtime(self, logger: Any) -> Any:
        def deserialize(data: bytes) -> Engine | None:
            if not self.takes:
                logger.log(self.ILogger.ERROR, "serialization assertion failed")  # type: ignore[attr-defined]
                return None
            return Engine(self)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class Engine:
    num_io_tensors = 2

    def __init__(self, trt: FakeTrt) -> None:
        self.trt = trt
        if trt.rtx:
            self.create_runtime_config = lambda: RuntimeConfig(trt)

    def get_tensor_name(self, index: int) -> str:
        return ("gray", "ab")[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.trt.shapes[name]

    def get_tensor_mode(self, name: str) -> str:
        return "TensorIOMode.INPUT" if name == "gray" else "TensorIOMode.OUTPUT"

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _: self.trt.description)

    def create_execution_context(self, config: Any = None) -> Context | None:
        assert (config is not None) == self.trt.rtx
        if len(self.trt.contexts) >= self.trt.most_contexts:
            return None
        self.trt.contexts.append(Context(self.trt))
        return self.trt.contexts[-1]


class RuntimeConfig:
    def __init__(self, trt: FakeTrt) -> None:
        self.trt = trt
        self.dynamic_shapes_kernel_specialization_strategy: Any = None

    def create_runtime_cache(self) -> Any:
        def deserialize(data: bytes) -> bool:
            self.trt.given_kernels.append(data)
            return data == self.trt.kernels

        return SimpleNamespace(deserialize=deserialize, serialize=lambda: self.trt.kernels)

    def set_runtime_cache(self, cache: Any) -> bool:
        return True


class Context:
    """Reads gray and writes ab where it was told, in the shape that it was given."""

    def __init__(self, trt: FakeTrt) -> None:
        self.trt = trt
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.shapes = 0  # how often the shape was set
        self.busy = threading.Lock()
        self.enqueued = 0
        if trt.rtx:
            self.is_stream_capturable = lambda stream: trt.capturable

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "gray"
        self.shape, self.shapes = tuple(shape), self.shapes + 1
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.enqueued += 1
        if self.trt.fails:
            return False
        shape, shapes = self.shape, self.shapes

        def work() -> None:
            assert self.busy.acquire(blocking=False), "two threads use one context"
            try:
                assert shapes == self.shapes, "the context has changed shape since this was recorded"
                gray = self._array(self.addresses["gray"], shape)
                ab = self.trt.compute(gray)
                self._array(self.addresses["ab"], ab.shape)[...] = ab
            finally:
                self.busy.release()

        self.trt.cuda.streams[stream].add(work)
        return True

    def _array(self, address: int, shape: tuple[int, ...]) -> Array:
        memory = self.trt.cuda.blocks[address]
        count = int(np.prod(shape))
        assert 4 * count <= len(memory)
        return np.frombuffer(memory, np.float32, count).reshape(shape)
