"""How a plan is run, on a CUDA that is played by the CPU: batches, CUDA graphs, contexts, threads, and what is given back."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from icf_deploy.errors import ArtefactError, EngineUnavailableError, WorkError
from icf_deploy.runtimes import cuda, registry, trt
from icf_deploy.runtimes.base import Engine, FloatArray, Graph, Target
from icf_deploy.runtimes.trt import TrtRuntime
from icf_deploy.runtimes.trt_plan import Plan
from icf_deploy.runtimes.trt_session import MOST_CONTEXTS, TrtSession, count_formats

_spec = importlib.util.spec_from_file_location("fake_cuda", Path(__file__).with_name("fake_cuda.py"))
assert _spec is not None and _spec.loader is not None
fake_cuda: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_cuda)

GRAPH = Graph(b"a graph", "5e" * 32, (8, 16), 2)
PLAN = Plan("tensorrt_rtx", "1.7", "sm89", GRAPH.sha256, "fp32", 4, {"fp32": 3}, b"machine code")


def colours(gray: FloatArray) -> FloatArray:
    """Every other pixel, times 50 and -20: enough to tell photos apart, and a swapped H and W."""
    small = gray[:, :, ::2, ::2]
    return np.concatenate([small * 50, small * -20], axis=1)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    played = fake_cuda.FakeRuntime()
    monkeypatch.setattr(cuda, "bindings", lambda: played)
    monkeypatch.setattr(cuda, "driver_present", lambda: True)
    monkeypatch.setattr(cuda, "_driver_version", lambda: "580.95")
    return played


@pytest.fixture
def library(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    played = fake_cuda.FakeTrt(gpu, colours)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", played)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    return played


@pytest.fixture
def open_it(library: Any) -> Callable[..., TrtSession]:
    def of(plan: Plan = PLAN) -> TrtSession:
        return TrtRuntime().open(Engine("trt", Target("cuda"), GRAPH, plan.encode()))

    return of


def photos(count: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).random((count, 1, 8, 16), dtype=np.float32)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 11])
def test_every_batch_gives_each_photo_its_own_colours(open_it: Callable[..., TrtSession], count: int) -> None:
    with open_it() as session:
        for seed in range(3):
            gray = photos(count, seed)
            ab = session.run(gray)
            np.testing.assert_array_equal(ab, colours(gray))
            assert ab.shape == (count, 2, 4, 8)


def test_a_batch_that_comes_again_is_replayed_as_one_launch(open_it: Callable[..., TrtSession], library: Any, gpu: Any) -> None:
    with open_it() as session:
        (context,) = library.contexts
        enqueued, launched = context.enqueued, gpu.launched
        for seed in range(10):
            np.testing.assert_array_equal(session.run(photos(1, seed)), colours(photos(1, seed)))
        assert context.enqueued == enqueued  # recorded when the session was opened
        assert gpu.launched == launched + 10


def test_a_graph_is_never_launched_after_its_context_has_changed_shape(open_it: Callable[..., TrtSession]) -> None:
    with open_it() as session:
        for count in (1, 1, 1, 3, 1, 1, 3, 3, 3, 2, 3, 3, 1, 1):  # the played context refuses an outdated graph
            np.testing.assert_array_equal(session.run(photos(count, count)), colours(photos(count, count)))


def test_an_engine_that_cannot_be_captured_is_launched_kernel_by_kernel_and_the_log_says_so_once(
    open_it: Callable[..., TrtSession], library: Any, gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    library.capturable = False
    with open_it() as session:
        for seed in range(5):
            np.testing.assert_array_equal(session.run(photos(1, seed)), colours(photos(1, seed)))
    assert gpu.launched == 0
    assert caplog.text.count("no CUDA graph") == 1


def test_a_capture_that_fails_is_given_up_and_the_photo_still_gets_its_colours(
    open_it: Callable[..., TrtSession], gpu: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    end = gpu.cudaStreamEndCapture

    def fail(stream: int) -> tuple[Any, int]:
        gpu.cudaGraphDestroy(end(stream)[1])
        return fake_cuda.cudaError_t.cudaErrorStreamCaptureUnsupported, 0

    monkeypatch.setattr(gpu, "cudaStreamEndCapture", fail)
    with open_it() as session:
        for seed in range(3):
            np.testing.assert_array_equal(session.run(photos(1, seed)), colours(photos(1, seed)))
    assert "cudaErrorStreamCaptureUnsupported" in caplog.text
    assert gpu.held() == 0


def test_many_threads_share_a_few_contexts_and_get_each_their_own_photo(
    open_it: Callable[..., TrtSession], library: Any, gpu: Any
) -> None:
    grays = [photos(1 + number % 3, number) for number in range(40)]
    with open_it() as session:
        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(lambda number: session.run(grays[number % 40]), range(1600)))
        for number, ab in enumerate(results):
            np.testing.assert_array_equal(ab, colours(grays[number % 40]))
        assert 1 <= len(library.contexts) <= MOST_CONTEXTS
    assert gpu.held() == 0


def test_closing_gives_back_every_buffer_stream_and_graph(open_it: Callable[..., TrtSession], gpu: Any) -> None:
    session = open_it()
    session.run(photos(3))
    assert gpu.held() > 4
    session.close()
    assert gpu.held() == 0


def test_calls_hold_no_more_memory_than_the_first_ones(open_it: Callable[..., TrtSession], gpu: Any) -> None:
    with open_it() as session:
        for count in (1, 2, 1, 2):
            session.run(photos(count))
        held = gpu.held()
        for number in range(500):
            session.run(photos(1 + number % 4 // 3, number))
        assert gpu.held() <= held


def test_a_session_that_does_not_get_its_memory_gives_back_what_it_got(open_it: Callable[..., TrtSession], gpu: Any) -> None:
    gpu.memory_left = 5500  # the buffer of gray fits, that of ab does not
    with pytest.raises(WorkError, match="cudaErrorMemoryAllocation"):
        open_it()
    assert gpu.held() == 0


def test_an_engine_that_fails_at_run_time_says_what_the_library_said(open_it: Callable[..., TrtSession], library: Any) -> None:
    with open_it() as session:
        library.fails = True
        with pytest.raises(WorkError, match="batch of 2"):
            session.run(photos(2))
        library.fails = False
        np.testing.assert_array_equal(session.run(photos(2)), colours(photos(2)))


def test_what_rtx_compiled_on_this_gpu_is_kept_for_the_next_time(open_it: Callable[..., TrtSession], library: Any) -> None:
    open_it().close()
    assert library.given_kernels == []
    open_it().close()
    assert library.given_kernels == [library.kernels]


def test_the_full_library_needs_no_kernels_and_no_configuration(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_cuda.FakeTrt(gpu, colours, rtx=False, version="10.3.0"))
    plan = Plan("tensorrt", "10.3.0", "sm89", GRAPH.sha256, "fp32", 4, {"fp32": 3}, b"machine code")
    with TrtRuntime().open(Engine("trt", Target("cuda"), GRAPH, plan.encode())) as session:
        np.testing.assert_array_equal(session.run(photos(2)), colours(photos(2)))
    assert gpu.held() == 0


def test_availability_says_which_library_it_is_and_on_what(library: Any) -> None:
    found = TrtRuntime().available()
    assert (found.ok, found.version) == (True, "tensorrt_rtx 1.7 on Abacus RTX 4090")
    assert TrtRuntime().devices() == ("cuda", "cuda-tf32")


def test_the_full_library_is_taken_where_both_are_there(library: Any, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_cuda.FakeTrt(gpu, colours, rtx=False, version="11.4"))
    assert TrtRuntime().available().version == "tensorrt 11.4 on Abacus RTX 4090"


def test_a_plan_for_another_gpu_version_or_graph_is_refused_before_the_library_sees_it(
    open_it: Callable[..., TrtSession], library: Any, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "Runtime", None)
    for plan, words in (
        (Plan("tensorrt_rtx", "1.7", "sm120", GRAPH.sha256, "fp32", 4, {}, b"x"), "for sm120"),
        (Plan("tensorrt_rtx", "1.6", "sm89", GRAPH.sha256, "fp32", 4, {}, b"x"), r"tensorrt_rtx 1\.6"),
        (Plan("tensorrt_rtx", "1.7", "sm89", "77" * 32, "fp32", 4, {}, b"x"), "another graph"),
    ):
        with pytest.raises(ArtefactError, match=words):
            open_it(plan)
    with pytest.raises(ArtefactError, match="built by 'antigravity'"):  # no module is imported because a file names it
        open_it(Plan("antigravity", "1.7", "sm89", GRAPH.sha256, "fp32", 4, {}, b"x"))
    with pytest.raises(EngineUnavailableError, match=r"tensorrt is not installed|tensorrt does not import"):
        open_it(Plan("tensorrt", "11.4", "sm89", GRAPH.sha256, "fp32", 4, {}, b"x"))


def test_a_plan_that_the_library_does_not_take_is_an_error_in_its_words(
    open_it: Callable[..., TrtSession], library: Any, gpu: Any
) -> None:
    library.takes = False
    with pytest.raises(ArtefactError, match="serialization assertion failed"):
        open_it()
    assert gpu.held() == 0


def test_an_engine_of_another_shape_than_its_graph_is_refused(
    open_it: Callable[..., TrtSession], library: Any, gpu: Any
) -> None:
    library.shapes["ab"] = (-1, 2, 8, 16)
    with pytest.raises(ArtefactError, match=r"expected \[\[1, 8, 16\], \[2, 4, 8\]\]"):
        open_it()
    assert gpu.held() == 0


def test_a_machine_without_a_gpu_is_an_unavailable_engine(open_it: Callable[..., TrtSession], gpu: Any) -> None:
    gpu.gpus = 0
    assert "no GPU" in TrtRuntime().available().reason
    with pytest.raises(EngineUnavailableError, match="no GPU"):
        open_it()


def test_the_key_of_an_engine_names_gpu_driver_and_capability(library: Any) -> None:
    key = TrtRuntime().cache_key(GRAPH, Target("cuda"))
    assert key is not None
    assert key.fields["device"] == "Abacus RTX 4090"
    assert key.fields["capability"] == "sm89"
    assert key.fields["driver"] == "580.95 (CUDA 13.1)"
    assert key.fields["engine"] == "tensorrt_rtx 1.7"
    tf32 = TrtRuntime().cache_key(GRAPH, Target("cuda-tf32"))
    assert tf32 is not None
    assert {name for name in key.fields if key.fields[name] != tf32.fields[name]} == {"option tf32"}


def test_a_build_keeps_and_reuses_the_timings_of_the_full_library_only(
    library: Any, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def compiled(graph: Graph, used: Any, options: Any, *, sm: str, progress: Any, timings: Any) -> Plan:
        seen.append(None if timings is None else timings.read())
        if timings is not None:
            timings.write(b"how long kernels took")
        return Plan(used.name, used.version, sm, graph.sha256, graph.recipe, 4, {}, b"code")

    monkeypatch.setattr(trt, "compile_plan", compiled)
    TrtRuntime().build(GRAPH, Target("cuda"))
    TrtRuntime().build(GRAPH, Target("cuda"))  # from the cache
    monkeypatch.setitem(sys.modules, "tensorrt", fake_cuda.FakeTrt(gpu, colours, rtx=False, version="11.4"))
    TrtRuntime().build(GRAPH, Target("cuda"))
    TrtRuntime().build(GRAPH, Target("cuda-tf32"))
    assert seen == [None, None, b"how long kernels took"]


def test_an_engine_that_came_with_a_trusted_bundle_is_used_where_it_was_built_for_this_gpu(
    library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Brought:
        """A bundle with engines for three GPUs, and one of another graph."""

        path, trusted = Path("/somewhere/edge.icf"), True
        manifest = SimpleNamespace(default_graph="fp32")

        def graph(self, name: str | None = None) -> Graph:
            return GRAPH

        def engines(self, runtime: str) -> tuple[Any, ...]:
            assert runtime == "trt"
            found = [("fp32", "rtx50"), ("int8", "rtx40"), ("fp32", "rtx40-tf32"), ("fp32", "rtx40")]
            kept = [SimpleNamespace(name=f"{g}-{t}", graph=g, target=t, version="tensorrt_rtx 1.7") for g, t in found]
            return tuple(kept) if self.trusted else ()

        def engine(self, name: str) -> bytes:
            assert name == "fp32-rtx40"
            return PLAN.encode()

    bundle: Any = Brought()
    monkeypatch.setattr(trt, "compile_plan", None)
    with registry.open_session(bundle, "trt") as session:
        np.testing.assert_array_equal(session.run(photos(2)), colours(photos(2)))
    bundle.trusted = False
    with pytest.raises(TypeError):  # it is built: nothing of the bundle is touched
        registry.open_session(bundle, "trt")
    assert not TrtRuntime().fits("rtx40", "tensorrt_rtx 1.6", Target("cuda"))
    assert not TrtRuntime().fits("rtx40", "tensorrt 1.7", Target("cuda"))
    assert not TrtRuntime().fits("rtx40", "antigravity 1.7", Target("cuda"))
    assert not TrtRuntime().fits("abacus", "tensorrt_rtx 1.7", Target("cuda"))


def test_executed_formats_come_from_the_engines_description_where_it_has_one(
    open_it: Callable[..., TrtSession], library: Any
) -> None:
    with open_it() as session:
        assert session.formats == {"fp32": 3}  # of the typed network: the description has only names
    layers = [
        {
            "LayerType": "CaskConvolution",
            "Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
        },
        {"LayerType": "kgen", "Inputs": [{"Format/Datatype": "Row major linear FP16 format"}, {"Format/Datatype": "Int64"}]},
        {"LayerType": "gemm", "Inputs": [{"Format/Datatype": "Row major linear BFloat16 format"}]},
        {"LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
        {"LayerType": "gemm", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
    ]
    assert count_formats(layers) == {"int8": 1, "fp16": 1, "bf16": 1, "fp32": 1}
    library.description = json.dumps({"Layers": layers})
    with open_it() as session:
        assert session.formats == {"int8": 1, "fp16": 1, "bf16": 1, "fp32": 1}


def test_every_function_of_cuda_bindings_that_is_called_exists_there_with_as_many_parameters() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    for name in (name for name in dir(fake_cuda.FakeRuntime) if name.startswith("cuda")):
        real, played = getattr(runtime, name), getattr(fake_cuda.FakeRuntime, name)
        if callable(played) and not isinstance(played, type):
            signature = real.__doc__.splitlines()[0]
            parameters = [part for part in signature.partition("(")[2].rpartition(")")[0].split(",") if part.strip()]
            assert len(parameters) == played.__code__.co_argcount - 1, signature
        elif name == "cudaError_t":
            assert all(hasattr(real, member.name) for member in played)
        else:
            assert all(hasattr(real, member) for member in vars(played)) if hasattr(played, "__dict__") else real is not None
