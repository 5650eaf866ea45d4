"""Running a plan: contexts that several threads borrow, each with a stream and pinned buffers of its own.

A context that sees the same batch twice in a row records what it does as a CUDA graph, and replays that from then on: one
launch instead of one per kernel. Changing the shape of a context makes its graph invalid, so the graph goes with the batch.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from icf_deploy.errors import ArtefactError, WorkError
from icf_deploy.runtimes.base import Engine, FloatArray
from icf_deploy.runtimes.cores import thread_count
from icf_deploy.runtimes.cuda import Buffer, CapturedWork, CudaError, Stream
from icf_deploy.runtimes.pool import Pool
from icf_deploy.runtimes.session import AB_CHANNELS, GRAY_CHANNELS, EngineSession
from icf_deploy.runtimes.trt_build import Said, new_logger
from icf_deploy.runtimes.trt_library import Library
from icf_deploy.runtimes.trt_plan import Plan

_log = logging.getLogger(__name__)

# One computes while another one's photo comes and a third one's ab goes; more would only hold memory.
MOST_CONTEXTS = 3
# Kinds of layer in an engine's own description that convert a format, or only move data.
NOT_COMPUTING = {"Reformat", "NoOp", "Constant", "Shuffle", "Slice", "Concatenation", "Shape", "Cast", "signal", "wait"}
# Words in the description of a tensor, and the format they mean; the first that is found counts.
FORMAT_WORDS = {"int8": "int8", "fp8": "fp8", "bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "half": "fp16"}
FORMAT_WORDS |= {"fp32": "fp32", "float": "fp32"}

Kept = tuple[Callable[[], bytes | None], Callable[[bytes], None]]
"""(read, write): what TensorRT for RTX compiled on this GPU, from the last time."""


class TrtSession(EngineSession):
    """A deserialized plan and a pool of contexts. Any batch: more photos than the plan takes are run in turns."""

    def __init__(self, engine: Engine, plan: Plan, library: Library, compiled: Kept | None) -> None:
        super().__init__(engine.graph)
        self._plan, self._said = plan, Said()
        trt = library.module
        self._runtime: Any = trt.Runtime(new_logger(trt, self._said))
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan.data)
        if self._engine is None:
            raise ArtefactError(
                f"{library.name} {library.version} does not take this plan: {self._said.reason()}. Build it again on this GPU"
            )
        thread_count(engine.target.threads)  # means nothing to a GPU, but a number that makes no sense is refused
        self._require_shapes()
        self._formats = _described_formats(trt, self._engine) or dict(plan.formats)
        self._config, self._compiled = _runtime_config(trt, self._engine, compiled)
        self._contexts: Pool[Context] = Pool(self._new_context, MOST_CONTEXTS)
        try:
            self._run_both_ways()
        except BaseException:
            self.close()
            raise

    @property
    def formats(self) -> Mapping[str, int]:
        """Formats of the computing layers, from the engine's description; where it has none, from the typed network."""
        return dict(self._formats)

    def _require_shapes(self) -> None:
        """ArtefactError unless the engine maps gray to ab of this session's sizes."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        found = [list(self._engine.get_tensor_shape(name))[1:] for name in names]
        expected = [[GRAY_CHANNELS, *self.size], [AB_CHANNELS, *self.output_size]]
        if sorted(found) != sorted(expected):
            raise ArtefactError(f"this engine does not map gray to ab: expected {expected} after the batch, found {found}")

    def _new_context(self) -> Context:
        context = self._engine.create_execution_context(*(() if self._config is None else (self._config,)))
        if context is None:
            raise WorkError(
                f"TensorRT made no execution context: {self._said.reason()}. Is another program using the GPU's memory?"
            )
        largest, (height, width), (low, narrow) = self._plan.largest_batch, self.size, self.output_size
        gray, ab = (largest, GRAY_CHANNELS, height, width), (largest, AB_CHANNELS, low, narrow)
        return Context(context, self._engine, gray, ab, self._said)

    def _run_both_ways(self) -> None:
        """One photo, twice: kernels are loaded or compiled, and the CUDA graph recorded, before the first real photo comes."""
        for _ in range(2):
            self._compute(np.zeros((1, GRAY_CHANNELS, *self.size), np.float32))
        if self._compiled is not None:
            self._compiled()

    def _compute(self, gray: FloatArray) -> FloatArray:
        step = self._plan.largest_batch
        try:
            with self._contexts.borrow() as context:
                parts = [context.run(gray[start : start + step]) for start in range(0, len(gray), step)]
        except CudaError as error:
            raise WorkError(f"TensorRT failed on a batch of {len(gray)}: {error}") from error
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _release(self) -> None:
        for context in self._contexts.drain():
            context.free()
        # In this order: what is made by another one goes first.
        self._config = self._compiled = None
        self._engine = None
        self._runtime = None


class Context:
    """One execution context, its stream and its buffers. One thread at a time."""

    def __init__(self, context: Any, engine: Any, gray: tuple[int, ...], ab: tuple[int, ...], said: Said) -> None:
        self._context, self._said = context, said
        with contextlib.ExitStack() as taken:  # what was taken is given back where the next one does not fit
            self._stream = Stream()
            taken.callback(self._stream.free)
            self._gray = Buffer(gray)
            taken.callback(self._gray.free)
            self._ab = Buffer(ab)
            taken.callback(self._ab.free)
            self._taken = taken.pop_all()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._input = next(name for name in names if str(engine.get_tensor_mode(name)).endswith("INPUT"))
        output = next(name for name in names if name != self._input)
        if not (
            context.set_tensor_address(self._input, self._gray.device) and context.set_tensor_address(output, self._ab.device)
        ):
            self._taken.close()
            raise WorkError(f"TensorRT does not take its buffers: {said.reason()}")
        self._photo = gray[1:]
        self._batch = 0  # photos of the last call; the context's shape is set for as many
        self._captured: CapturedWork | None = None
        self._captures = True  # until one has failed

    def run(self, gray: FloatArray) -> FloatArray:
        """gray: float32 [n,1,H,W], n at most the largest batch -> ab, in memory of its own."""
        photos, last = len(gray), self._batch
        self._batch = 0  # a call that fails leaves the context in no known shape
        np.copyto(self._gray.host[:photos], gray)
        if photos != last:
            self._change_batch(photos)
            self._enqueue(photos)
        else:
            if self._captured is None and self._captures:
                self._capture(photos)
            if self._captured is None:
                self._enqueue(photos)
            else:
                self._captured.launch(self._stream)
        self._stream.wait()
        self._batch = photos
        ab: FloatArray = self._ab.host[:photos].copy()
        return ab

    def free(self) -> None:
        """Give back everything; the stream is done, since `run` waits for it."""
        if self._captured is not None:
            self._captured.free()
        self._captured = self._context = None
        self._taken.close()

    def _change_batch(self, photos: int) -> None:
        if self._captured is not None:
            self._captured.free()
            self._captured = None
        if not self._context.set_input_shape(self._input, (photos, *self._photo)):
            raise WorkError(f"TensorRT takes no batch of {photos}: {self._said.reason()}")

    def _enqueue(self, photos: int) -> None:
        self._gray.upload(photos, self._stream)
        if not self._context.execute_async_v3(int(self._stream.handle)):
            raise WorkError(f"TensorRT failed on a batch of {photos}: {self._said.reason()}")
        self._ab.download(photos, self._stream)

    def _capture(self, photos: int) -> None:
        """Record one call. Where that is not possible this context goes on kernel by kernel, and the log says so once."""
        capturable = getattr(self._context, "is_stream_capturable", None)
        reason = "this engine cannot be captured" if capturable is not None and not capturable(int(self._stream.handle)) else ""
        if not reason:
            self._stream.begin_capture()
            try:
                self._enqueue(photos)
            except (CudaError, WorkError) as error:
                reason = str(error)
            try:
                captured = self._stream.end_capture()
            except CudaError as error:
                reason = reason or str(error)
            else:
                if reason:
                    captured.free()
                else:
                    self._captured = captured
        if reason:
            self._captures = False
            _log.warning("no CUDA graph, kernels are launched one by one: %s", reason)


def _runtime_config(trt: Any, engine: Any, kept: Kept | None) -> tuple[Any, Callable[[], None] | None]:
    """TensorRT for RTX: how contexts run, and a function that keeps what was compiled. (None, None) for the full library.

    Kernels are specialized for the batch at once: done later, behind our back, the recorded graph would keep the slow ones.
    """
    if (
        kept is None
        or not hasattr(engine, "create_runtime_config")
        or not hasattr(trt, "DynamicShapesKernelSpecializationStrategy")
    ):
        return None, None
    read, write = kept
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    cache = config.create_runtime_cache()
    before = read()
    if before is not None and not cache.deserialize(before):
        _log.info("what was compiled on this GPU before does not fit it any more: it is compiled again")
        before = None
    config.set_runtime_cache(cache)

    def keep() -> None:
        content = bytes(cache.serialize())
        if content != before:
            write(content)

    return config, keep


def _described_formats(trt: Any, engine: Any) -> dict[str, int]:
    """Computing layers per format from the engine's own description; {} where it tells nothing."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        return {}
    return count_formats(layers)


def count_formats(layers: list[Any]) -> dict[str, int]:
    """Computing layers per format, from the `Layers` of an engine's description in JSON.

    A layer counts in the narrowest format among its inputs; where the description has only names, nothing is counted.
    """
    counts: Counter[str] = Counter()
    order = list(dict.fromkeys(FORMAT_WORDS.values()))
    for layer in layers:
        if not isinstance(layer, dict) or layer.get("LayerType") in NOT_COMPUTING:
            continue
        found = {
            _format_of(str(value.get("Format/Datatype", ""))) for value in layer.get("Inputs", ()) if isinstance(value, dict)
        }
        known = [name for name in order if name in found]
        if known:
            counts[known[0]] += 1
    return dict(counts)


def _format_of(description: str) -> str | None:
    """`fp16` of "Row major linear FP16 format"; None for an integer that is an index."""
    words = description.lower()
    return next((name for word, name in FORMAT_WORDS.items() if word in words), None)
