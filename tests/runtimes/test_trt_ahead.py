"""Engines for GPUs that are elsewhere, compiled here for real: TensorRT for RTX needs neither GPU nor driver for that."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper, numpy_helper

from icf_deploy.bundle.opening import open_bundle
from icf_deploy.errors import ArtefactError, EngineUnavailableError, IntegrityError, UsageError
from icf_deploy.runtimes import cuda, registry
from icf_deploy.runtimes.base import Engine, Graph, Target
from icf_deploy.runtimes.ort import OrtRuntime
from icf_deploy.runtimes.trt import TrtRuntime, build_ahead
from icf_deploy.runtimes.trt_plan import decode_plan

pytest.importorskip("tensorrt_rtx")
_spec = importlib.util.spec_from_file_location("low_precision", Path(__file__).with_name("low_precision.py"))
assert _spec is not None and _spec.loader is not None
low_precision: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(low_precision)

SIZE = (256, 256)
TARGETS = {"rtx30": "sm86", "rtx40": "sm89", "rtx50": "sm120"}
Graphs = dict[str, Graph]


@pytest.fixture(scope="module")
def real_gray(photo: Callable[[str], npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    import cv2

    gray = cv2.resize(cv2.cvtColor(photo("coffee"), cv2.COLOR_RGB2GRAY), SIZE[::-1], interpolation=cv2.INTER_AREA)
    return gray.astype(np.float32)[None, None] / np.float32(255)


def shipped_edge() -> tuple[bytes, int]:
    """Graph and stride of the shipped bundle."""
    bundle = open_bundle()
    return bundle.graph().data, bundle.manifest.stride


def lowered_ddcolor() -> tuple[bytes, int]:
    """The graph that `export` makes of a DDColor-tiny checkpoint, with random weights: what is compiled is the same."""
    import torch

    from icf_deploy.export.graph import example_gray, to_onnx
    from icf_deploy.export.lowering import lower, lower_graph
    from icf_deploy.network.presets import build

    torch.manual_seed(4)
    network = build("ddcolor-tiny").eval()
    model = lower_graph(to_onnx(lower(network, SIZE).network, (example_gray(SIZE),))).model
    return model.SerializeToString(), network.stride


NETWORKS = {"icf-edge": shipped_edge, "ddcolor-tiny": lowered_ddcolor}


@pytest.fixture(scope="module", params=NETWORKS)
def graphs(request: pytest.FixtureRequest, real_gray: npt.NDArray[np.float32]) -> Graphs:
    """One network, as it is shipped, in each format."""
    data, stride = NETWORKS[request.param]()
    formats = {"fp32": data, "fp16": low_precision.to_fp16(data), "int8": low_precision.to_int8(data, real_gray)}
    return {
        name: Graph(content, hashlib.sha256(content).hexdigest(), SIZE, stride, name, request.param)
        for name, content in formats.items()
    }


@pytest.mark.parametrize("recipe", ["fp32", "fp16", "int8"])
def test_a_real_network_is_compiled_for_three_generations_of_gpu_in_the_formats_that_its_graph_states(
    graphs: Graphs, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", "off")  # nobody comes back for these two gigabytes
    phases: set[str] = set()
    engines = build_ahead(graphs[recipe], list(TARGETS), lambda phase, done, steps: phases.add(phase))
    assert list(engines) == list(TARGETS)
    assert "Building engine" in phases
    plans = {name: decode_plan(content) for name, content in engines.items()}
    for name, plan in plans.items():
        assert (plan.sm, plan.graph, plan.recipe) == (TARGETS[name], graphs[recipe].sha256, recipe)
        assert len(plan.data) > 1_000_000
        assert plan.formats.get(recipe, 0) > 50
        assert set(plan.formats) == ({"fp32", "int8"} if recipe == "int8" else {recipe})
    assert len({plan.data for plan in plans.values()}) == 3  # each one is another machine's code
    if recipe == "fp16":  # half the bytes per weight, and some machine code
        assert len(plans["rtx40"].data) < len(graphs["fp32"].data)


@pytest.mark.parametrize("recipe, bound", [("fp16", 0.02), ("int8", 0.25)])
def test_the_low_precision_graphs_of_this_file_still_compute_their_network(
    graphs: Graphs, recipe: str, bound: float, real_gray: npt.NDArray[np.float32]
) -> None:
    def run(name: str) -> npt.NDArray[np.float32]:
        # ONNX Runtime computes the float16 graph in float32, with weights rounded to float16.
        graph = replace(graphs[name], recipe="fp32")
        with OrtRuntime().open(OrtRuntime().build(graph, Target("cpu", 1))) as session:
            return session.run(real_gray)

    expected = run("fp32")
    assert np.abs(run(recipe) - expected).mean() < bound * np.abs(expected).mean()


@pytest.fixture
def small_graph(small: Any) -> Graph:
    graph: Graph = small.graph(small.fp32())
    return graph


def test_what_was_compiled_is_kept_and_each_target_has_its_own(small_graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_ahead(small_graph, ["rtx30", "rtx40"])

    def again(*_: object, **__: object) -> None:
        raise AssertionError("it was compiled again")

    monkeypatch.setattr("icf_deploy.runtimes.trt.compile_plan", again)
    assert build_ahead(small_graph, ["rtx40", "rtx30", "rtx30"]) == first
    with pytest.raises(AssertionError, match="compiled again"):
        build_ahead(small_graph, ["rtx40-tf32"])
    with pytest.raises(AssertionError, match="compiled again"):
        build_ahead(replace(small_graph, sha256="77" * 32), ["rtx40"])


def test_tf32_is_off_unless_the_target_asks_for_it_and_then_the_formats_say_so(small_graph: Graph) -> None:
    engines = build_ahead(small_graph, ["rtx40", "rtx40-tf32"])
    exact, rounded = decode_plan(engines["rtx40"]), decode_plan(engines["rtx40-tf32"])
    assert exact.formats == {"fp32": 3}
    assert rounded.formats == {"tf32": 2, "fp32": 1}  # the convolutions, and the ReLU between them
    assert exact.data != rounded.data


@pytest.mark.parametrize("name", ["rtx99", "sm90", "sm1", "h100", "", "rtx40-bf16", "cuda"])
def test_a_gpu_that_is_not_compiled_for_is_a_usage_error_that_lists_those_that_are(small_graph: Graph, name: str) -> None:
    with pytest.raises(UsageError, match=r"rtx30, rtx40, rtx50.*sm86"):
        build_ahead(small_graph, ["rtx40", name])


def test_every_name_is_looked_at_before_anything_is_compiled(small_graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icf_deploy.runtimes.trt.compile_plan", None)
    with pytest.raises(UsageError, match="rtx99"):
        build_ahead(small_graph, ["rtx40", "rtx99"])


def test_a_turing_gpu_refuses_products_of_float32_matrices_with_the_way_out(small: Any) -> None:
    weights = numpy_helper.from_array(np.eye(small.size[1] // 2, dtype=np.float32), "eye")
    nodes = [
        helper.make_node("AveragePool", ["gray"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("MatMul", ["half", "eye"], ["product"]),
        helper.make_node("Concat", ["product", "product"], ["ab"], axis=1),
    ]
    graph = small.graph(small.onnx(nodes, [weights]))
    with pytest.raises(ArtefactError, match=r"sm75.*FP32 GEMM is not supported.*choose a graph in fp16"):
        build_ahead(graph, ["rtx20"])
    assert build_ahead(graph, ["rtx30"])


def test_the_parsers_complaints_name_the_operator_and_the_node(small: Any) -> None:
    unknown = small.onnx([helper.make_node("Colourize", ["gray"], ["ab"], name="painter")], [])
    with pytest.raises(ArtefactError, match=r"TensorRT does not take this graph.*Colourize.*painter|painter.*Colourize"):
        build_ahead(small.graph(unknown), ["rtx40"])


def test_a_quantized_bias_which_onnx_runtimes_own_quantizer_writes_is_refused_by_the_parser(small: Any) -> None:
    bias = [
        numpy_helper.from_array(np.zeros(2, np.int32), "codes"),
        numpy_helper.from_array(np.ones(2, np.float32), "scale"),
        numpy_helper.from_array(np.zeros(2, np.int32), "zero"),
        numpy_helper.from_array(np.ones((2, 1, 2, 2), np.float32), "weight"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["bias"], axis=0),
        helper.make_node("Conv", ["gray", "weight", "bias"], ["ab"], strides=[2, 2]),
    ]
    with pytest.raises(ArtefactError, match="DequantizeLinear"):
        build_ahead(small.graph(small.onnx(nodes, bias)), ["rtx40"])


@pytest.mark.parametrize("recipe", ["int8", "fp16", "bf16+int8"])
def test_a_recipe_whose_formats_the_graph_does_not_hold_is_refused(small: Any, recipe: str) -> None:
    with pytest.raises(ArtefactError, match="the graph's types say fp32 x 3"):
        build_ahead(small.graph(small.fp32(), recipe), ["rtx40"])


@pytest.mark.parametrize("name, recipe", [("rtx20", "bf16"), ("rtx30", "fp8")])
def test_a_format_that_the_gpu_has_no_instructions_for_is_refused(small: Any, name: str, recipe: str) -> None:
    with pytest.raises(ArtefactError, match=f"would not execute {recipe} on sm"):
        build_ahead(small.graph(small.low(TensorProto.BFLOAT16), recipe), [name])


def test_formats_of_the_small_network_are_those_of_its_graph(small: Any) -> None:
    for recipe, data, expected in (
        ("fp16", small.low(TensorProto.FLOAT16), {"fp16": 3}),
        ("bf16", small.low(TensorProto.BFLOAT16), {"bf16": 3}),
        ("int8", small.int8(), {"int8": 2, "fp32": 1}),
    ):
        plan = decode_plan(build_ahead(small.graph(data, recipe), ["rtx40"])["rtx40"])
        assert plan.formats == expected


def test_a_graph_of_another_shape_than_the_manifest_says_is_refused(small_graph: Graph) -> None:
    for wrong in (replace(small_graph, size=(96, 64)), replace(small_graph, stride=4)):
        with pytest.raises(ArtefactError, match="does not map gray to ab"):
            build_ahead(wrong, ["rtx40"])


def test_what_progress_raises_ends_the_build_and_reaches_the_caller(small_graph: Graph) -> None:
    def interrupt(phase: str, done: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_ahead(small_graph, ["rtx40"], interrupt)
    assert build_ahead(small_graph, ["rtx40"])  # nothing half done was kept


@pytest.mark.skipif(cuda.driver_present(), reason="this machine has an NVIDIA driver")
def test_a_machine_without_a_gpu_compiles_but_opens_nothing_and_says_so(small_graph: Graph) -> None:
    runtime = TrtRuntime()
    engine = runtime.build(small_graph, Target("rtx40"))
    found = runtime.available()
    assert not found.ok
    assert found.version is not None and found.version.startswith("tensorrt")
    assert runtime.devices() == ()
    for use in (lambda: runtime.open(engine), lambda: runtime.build(small_graph, Target("cuda"))):
        with pytest.raises(EngineUnavailableError, match="no NVIDIA driver"):
            use()
    assert "trt" not in registry.preferred()


@pytest.mark.parametrize("content", [b"", b"x", b"icf-plan 2"])
def test_what_is_no_engine_of_trt_is_refused_before_the_library_sees_it(small_graph: Graph, content: bytes) -> None:
    engine = Engine("trt", Target("rtx40"), small_graph, content)
    with pytest.raises(ArtefactError, match="not an engine of trt"):
        TrtRuntime().open(engine)


@pytest.mark.parametrize("damage", ["truncated", "longer", "flipped", "header"])
def test_a_damaged_engine_is_refused_before_the_library_sees_it(small_graph: Graph, damage: str) -> None:
    whole = TrtRuntime().build(small_graph, Target("rtx40"))
    changed = bytearray(whole.data)
    if damage == "flipped":
        changed[-1000] ^= 1
    damaged = {
        "truncated": whole.data[:-1],
        "longer": whole.data + b"x",
        "flipped": bytes(changed),
        "header": whole.data.replace(b'"sm"', b'"ms"', 1),
    }
    with pytest.raises(IntegrityError, match="this engine of trt is damaged") as error:
        TrtRuntime().open(replace(whole, data=damaged[damage]))
    assert error.value.exit_status == 6


def test_the_library_prints_nothing(small_graph: Graph, capfd: pytest.CaptureFixture[str], caplog: Any) -> None:
    with caplog.at_level(logging.INFO):
        build_ahead(small_graph, ["rtx40"])
    assert capfd.readouterr() == ("", "")
