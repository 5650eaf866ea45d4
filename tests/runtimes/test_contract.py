"""What every runtime has to keep, checked on each one that can run here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from icf_deploy.errors import ArtefactError, EngineUnavailableError, UsageError
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import Engine, FloatArray, Graph, Session, Target
from icf_deploy.runtimes.session import known_devices
from icf_deploy.runtimes.trt_library import CONSUMER_NAMES

EXACT = 1e-3  # CIELAB units; ab here reaches 50, float32 sums of 72 terms stay far below
BF16 = 1.0  # CIELAB units; 8 bits of mantissa on values up to 50
TF32 = 0.5  # CIELAB units; 10 bits of mantissa on values up to 50
# Devices that run something; trt also has names of absent GPUs, for which it only builds.
CUDA_ENGINES = ("ort:cuda", "ort:tensorrt", "pytorch:cuda", "pytorch:cuda-compiled", "trt:cuda", "trt:cuda-tf32")
OTHER_ENGINES = (
    "ort:cpu",
    *("ort:openvino", "ort:directml", "ort:coreml", "ort:xnnpack", "ort:qnn", "ort:migraphx"),
    *("openvino:cpu", "openvino:cpu-bf16", "openvino:gpu", "openvino:npu"),
    *("pytorch:cpu", "pytorch:compiled"),
)


def test_this_file_checks_every_runtime_and_device_of_the_registry() -> None:
    known = {f"{name}:{device}" for name in registry.names() for device in known_devices(registry.get(name))}
    assert known - {f"trt:{name}" for name in CONSUMER_NAMES} == {*CUDA_ENGINES, *OTHER_ENGINES}


def _runs_here(name: str) -> bool:
    """Whether this machine has the engine, its device, and instructions for the format that makes the device what it is."""
    runtime, device = registry.get(name), registry.split(name)[1]
    if not runtime.available().ok or device not in runtime.devices():
        return False
    return ("bf16" if device == "cpu-bf16" else "fp32") in runtime.formats(device)


HERE = [
    pytest.param(name, marks=[pytest.mark.gpu] if name in CUDA_ENGINES else [])
    for name in (*OTHER_ENGINES, *CUDA_ENGINES)
    if _runs_here(name)
]
ABSENT = [
    name
    for name in (*OTHER_ENGINES, *CUDA_ENGINES)
    if registry.split(name)[1] not in registry.get(name.partition(":")[0]).devices()
]


@pytest.mark.parametrize("name", ABSENT)
def test_an_engine_or_device_that_is_not_here_is_an_error_with_what_brings_it_and_no_other_takes_its_place(
    name: str, small: Any
) -> None:
    runtime, device = registry.get(name), registry.split(name)[1]
    recipe = "fp32" if device not in ("npu", "qnn") else "int8"
    with pytest.raises(EngineUnavailableError, match=r"(?i)install|driver"):
        runtime.build(small.graph(small.fp32(), recipe), Target(device))


@pytest.fixture(params=HERE)
def engine_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, small: Any) -> str:
    name = str(request.param)
    if name.startswith("pytorch"):
        monkeypatch.setattr("icf_deploy.network.checkpoint.load_checkpoint", lambda data: small.network)
    return name


@pytest.fixture
def engine(engine_name: str, small: Any) -> Engine:
    name, device = registry.split(engine_name)
    return registry.get(name).build(small.graph(small.fp32()), Target(device, threads=1))


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with registry.get(engine.runtime).open(engine) as session:
        yield session


@pytest.fixture
def tolerance(engine_name: str) -> float:
    return BF16 if engine_name.endswith("bf16") else TF32 if engine_name.endswith("tf32") else EXACT


def test_gives_the_ab_that_float64_arithmetic_gives(session: Session, gray: FloatArray, small: Any, tolerance: float) -> None:
    ab = session.run(gray)
    assert ab.dtype == np.float32
    assert ab.shape == (3, 2, *session.output_size)
    np.testing.assert_allclose(ab, small.network.expected(gray), rtol=0, atol=tolerance)


def test_states_the_size_of_the_graph_and_of_its_output(session: Session, small: Any) -> None:
    assert session.size == small.size
    assert session.output_size == (32, 48)


def test_a_photo_gets_the_same_colours_alone_and_in_a_batch(session: Session, gray: FloatArray, tolerance: float) -> None:
    together = session.run(gray)
    alone = np.concatenate([session.run(picture[None]) for picture in gray])
    np.testing.assert_allclose(together, alone, rtol=0, atol=tolerance / 10)


def test_the_same_photo_gives_the_same_bytes_twice(session: Session, gray: FloatArray) -> None:
    assert session.run(gray).tobytes() == session.run(gray).tobytes()


def test_a_result_stays_what_it_was_when_the_next_photo_runs(session: Session, gray: FloatArray) -> None:
    first = session.run(gray[:1])
    kept = first.copy()
    session.run(gray[1:2])
    np.testing.assert_array_equal(first, kept)
    first += 1  # the caller owns it


def test_takes_gray_that_is_read_only_or_not_contiguous_and_leaves_it_alone(session: Session, gray: FloatArray) -> None:
    expected = session.run(gray)
    strided = np.repeat(gray, 2, axis=3)[..., ::2]
    assert not strided.flags.c_contiguous
    strided.setflags(write=False)
    np.testing.assert_array_equal(session.run(strided), expected)
    read_only = gray.copy()
    read_only.setflags(write=False)
    np.testing.assert_array_equal(session.run(read_only), expected)
    np.testing.assert_array_equal(read_only, gray)


def test_threads_that_run_at_once_get_each_their_own_photo(session: Session, gray: FloatArray, tolerance: float) -> None:
    expected = [session.run(picture[None]) for picture in gray]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda number: session.run(gray[number % 3][None]), range(60)))
    for number, ab in enumerate(results):
        np.testing.assert_allclose(ab, expected[number % 3], rtol=0, atol=tolerance / 10)


@pytest.mark.parametrize(
    "shape, dtype",
    [
        ((1, 1, 96, 64), np.float32),
        ((1, 3, 64, 96), np.float32),
        ((64, 96), np.float32),
        ((0, 1, 64, 96), np.float32),
        ((1, 1, 64, 96), np.float64),
        ((1, 1, 64, 96), np.uint8),
    ],
)
def test_gray_of_another_shape_or_type_is_refused_with_the_right_one(
    session: Session, shape: tuple[int, ...], dtype: type
) -> None:
    with pytest.raises(UsageError, match=r"float32 \[N,1,64,96\]"):
        session.run(np.zeros(shape, dtype))


def test_a_closed_session_says_so_and_closing_twice_does_nothing(session: Session, gray: FloatArray) -> None:
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run(gray)


def test_reports_the_formats_that_computed(session: Session, engine_name: str) -> None:
    if set(session.formats) == {"unreported"}:
        pytest.skip(f"{engine_name} does not tell")
    if engine_name.endswith("tf32"):
        assert set(session.formats) <= {"tf32", "fp32"}
        return
    expected = "bf16" if engine_name.endswith("bf16") else "fp32"
    assert session.formats[expected] >= 1 if engine_name.startswith("trt") else session.formats[expected] >= 2  # convolutions
    assert set(session.formats) == {expected}


def test_an_engine_of_another_runtime_is_refused(engine: Engine) -> None:
    with pytest.raises(ArtefactError, match="built by other"):
        registry.get(engine.runtime).open(replace(engine, runtime="other"))


def test_a_device_that_there_is_not_is_a_usage_error_that_lists_those_there_are(engine: Engine, small: Any) -> None:
    runtime = registry.get(engine.runtime)
    with pytest.raises(UsageError, match=f"{runtime.name}:{known_devices(runtime)[0]}"):
        runtime.build(small.graph(small.fp32()), Target("abacus"))


def test_fewer_than_one_thread_is_a_usage_error(engine: Engine) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        registry.get(engine.runtime).open(replace(engine, target=replace(engine.target, threads=0)))


def test_a_recipe_in_a_format_that_would_not_be_executed_is_refused(engine_name: str, small: Any) -> None:
    name, device = registry.split(engine_name)
    with pytest.raises(ArtefactError, match="fp8"):
        registry.get(name).build(small.graph(small.fp32(), "int8+fp8"), Target(device))


@pytest.mark.parametrize("damage", [b"", b"not a graph at all", None], ids=["empty", "text", "truncated"])
def test_bytes_that_are_no_graph_are_an_artefact_error(
    engine: Engine, damage: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # PyTorch's real checkpoint loader
    data = engine.data[: len(engine.data) // 2] if damage is None else damage
    with pytest.raises(ArtefactError):
        registry.get(engine.runtime).open(replace(engine, data=data))


def test_a_graph_of_another_shape_than_the_manifest_says_is_an_artefact_error(
    engine: Engine, build_graph: Callable[..., Graph]
) -> None:
    wrong = replace(engine, graph=build_graph(engine.graph))
    with pytest.raises(ArtefactError, match=r"expected|stride"):
        registry.get(engine.runtime).open(wrong)


@pytest.fixture(params=["stride", "size"])
def build_graph(request: pytest.FixtureRequest, engine_name: str) -> Callable[[Graph], Graph]:
    if request.param == "size" and engine_name.startswith("pytorch"):
        pytest.skip("PyTorch runs at any size")
    changes: dict[str, Any] = {"stride": {"stride": 4}, "size": {"size": (96, 64)}}[request.param]
    return lambda graph: replace(graph, **changes)
