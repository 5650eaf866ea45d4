"""Quantization-aware training rounds where the exported int8 graph rounds, and mends what rounding after training cannot."""

from __future__ import annotations

import copy
import functools
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import numpy_helper

from icf_deploy.errors import CheckpointError, UsageError
from icf_deploy.export.graph import example_gray, to_onnx
from icf_deploy.export.lowering import lower, lower_graph
from icf_deploy.export.lowering.lean_fusion import PaletteFusion
from icf_deploy.export.pipeline import export_bundle, open_source
from icf_deploy.export.precision import narrow
from icf_deploy.export.precision.apply import apply_recipe
from icf_deploy.export.precision.calibration import calibrate
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.photos import packaged_photos
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.export.precision.trained import METADATA, TrainedRanges, as_trained
from icf_deploy.export.precision.weights import round_weight
from icf_deploy.network.checkpoint import checkpoint_metadata, load_checkpoint, save_checkpoint
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.network.presets import DDColorConfig, build_ddcolor
from icf_deploy.training.config import QAT_DEFAULTS, TrainConfig
from icf_deploy.training.loop import Progress, TrainingInterrupted, train
from icf_deploy.training.qat_network import FakeQuantized, fake_quantized, products_of
from icf_deploy.training.qat_rounding import ActivationRange, RoundedProduct, rounded_weight, unrounded

SIDE = 64
SIZE = (SIDE, SIDE)
SMALL_DDCOLOR = DDColorConfig(
    depths=(1, 1, 2, 1), dims=(16, 32, 64, 96), channels=64, queries=12, blocks=3, color_channels=32, hidden=64, heads=1
)
SAME = (
    1e-3  # of the mean magnitude that a product gives: float32 sums in another order, biases in int32, and hardly another code
)
ONE_CODE = 0.02  # of the largest: a value on the boundary between two codes may go either way

Array = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def gray() -> Array:
    return packaged_photos(SIZE).gray[:8]


def edge() -> ColorizationNetwork:
    """The shipped weights."""
    return open_source(None).network


def ddcolor() -> ColorizationNetwork:
    """A small one whose layer scales, which are 1e-6 before training, let its blocks matter."""
    torch.manual_seed(5)
    network = build_ddcolor(SMALL_DDCOLOR)
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return network.eval()


def graph_of(network: ColorizationNetwork) -> onnx.ModelProto:
    """The float32 graph that export makes."""
    return lower_graph(to_onnx(lower(network, SIZE).network, (example_gray(SIZE),))).model


def in_int8(model: onnx.ModelProto, trained: TrainedRanges) -> onnx.ModelProto:
    """The graph with every product in int8, as export writes it for a trained checkpoint."""
    calibration = as_trained(model, calibrate(model, packaged_photos(SIZE), method="minmax"), trained)
    recipe = Recipe("any", SIZE, network_digest(model), "int8", nodes=dict.fromkeys(trained.wide, "fp32"))
    return apply_recipe(model, recipe, calibration).model


def run(model: onnx.ModelProto, gray: Array, *, fuse: bool = True) -> Array:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not fuse:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"gray": photo[None]})[0] for photo in gray])


@torch.no_grad()
def unsettle(network: ColorizationNetwork) -> None:
    """Move what is trained, as training would, so that nothing agrees because it stood still."""
    generator = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module", params=[edge, ddcolor])
def unsettled(request: pytest.FixtureRequest) -> tuple[FakeQuantized, onnx.ModelProto, onnx.ModelProto]:
    """A network as if it had been trained, its float32 graph and its int8 graph, both by way of a checkpoint's network."""
    parts = fake_quantized(request.param(), SIZE)
    unsettle(parts.rounded)
    restored, trained = parts.restored(parts.rounded)
    model = graph_of(restored)
    return parts, model, in_int8(model, trained)


def test_every_trained_product_computes_what_it_computes_in_its_int8_graph(unsettled: Any, gray: Array) -> None:
    """Each is given what it reads in ONNX Runtime: only the product itself, its Q/DQ and its scales are compared."""
    parts, model, int8 = unsettled
    paths = {product.key: product.path for product in products_of(model) if not product.sees_photo}
    found = products_in_ort(int8, gray[:1])
    assert found.keys() == paths.keys() and len(paths) > 40
    for key, (read, given) in found.items():
        layer = parts.rounded.get_submodule(paths[key])
        if not isinstance(layer, RoundedProduct):
            assert isinstance(layer, PaletteFusion)  # its mix is rounded in place, and its input behind the colour decoder
            expected = (layer.read(torch.from_numpy(read)) @ layer.mix.T).detach().numpy()
        else:
            expected = layer(torch.from_numpy(read)).detach().numpy()
        difference = np.abs(given - expected)
        assert difference.mean() <= SAME * np.abs(expected).mean(), key
        assert difference.max() <= ONE_CODE * np.abs(expected).max(), key


def test_the_whole_network_gives_the_ab_of_its_int8_graph_as_nearly_as_onnx_runtime_does_when_it_does_not_fuse(
    unsettled: Any, gray: Array
) -> None:
    """Sums in another order put values on the other side of a rounding boundary, which moves all that follows."""
    parts, model, int8 = unsettled
    if parts.original.preset != "icf-edge":
        pytest.skip("with random weights the ab hardly depends on the photo")
    with torch.no_grad():
        expected = torch.cat([parts.rounded(torch.from_numpy(photo[None])) for photo in gray]).numpy()
    fused, plain, wide = run(int8, gray), run(int8, gray, fuse=False), run(model, gray)
    assert np.abs(plain - expected).mean() < 2 * np.abs(plain - fused).mean() + SAME * np.abs(plain - wide).mean()
    assert np.abs(plain - expected).mean() < 0.5 * np.abs(plain - wide).mean()


def products_in_ort(model: onnx.ModelProto, gray: Array) -> dict[str, tuple[Array, Array]]:
    """Of every int8 product of a graph, by its key: what it reads before it is rounded, and what it gives, bias included."""
    import onnx_ir as ir
    import onnxruntime

    from icf_deploy.export.precision.nodes import node_keys

    graph = ir.from_proto(model).graph
    places: dict[str, tuple[str, str]] = {}
    for node, key in node_keys(graph).items():
        first = node.inputs[0].producer() if node.inputs else None
        if node.op_type not in ("Conv", "MatMul", "Gemm") or first is None or first.op_type != "DequantizeLinear":
            continue
        source = first.inputs[0].producer().inputs[0]
        padding = source.producer()
        if padding is not None and padding.op_type == "Pad":
            source = padding.inputs[0]
        (reader,) = (use.node for use in node.outputs[0].uses()) if len(list(node.outputs[0].uses())) == 1 else (node,)
        adds = reader.op_type == "Add" and any(value.is_initializer() and len(value.shape) == 1 for value in reader.inputs)
        places[key] = source.name, (reader if adds and node.op_type == "MatMul" else node).outputs[0].name
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    names = sorted({name for pair in places.values() for name in pair} - {"gray"})
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    values = dict(zip(names, session.run(names, {"gray": gray}), strict=True)) | {"gray": gray}
    return {key: (values[read], values[given]) for key, (read, given) in places.items()}


def test_what_was_trained_comes_back_from_a_checkpoint_and_most_weights_of_an_edge_are(unsettled: Any, tmp_path: Path) -> None:
    parts, _, _ = unsettled
    products = [module for module in parts.rounded.modules() if isinstance(module, RoundedProduct)]
    trained = sum(module.start.numel() for module in products if module.trains)
    share = 0.8 if parts.original.preset == "icf-edge" else 0.1
    assert trained > share * sum(module.start.numel() for module in products)
    restored, _ = parts.restored(parts.rounded)
    save_checkpoint(restored, tmp_path / "x.safetensors")
    again = lower(load_checkpoint(tmp_path / "x.safetensors"), SIZE).network
    for module in products:
        expected, found = module.lowered_weight(), again.get_submodule(module.path).get_parameter("weight")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert any(float(module.moved.abs().max()) > 1 for module in products if module.trains)


def test_without_rounding_it_is_the_network_that_was_lowered(unsettled: Any, gray: Array) -> None:
    parts, model, _ = unsettled
    with torch.no_grad(), unrounded(parts.rounded):
        found = parts.rounded(torch.from_numpy(gray[:1])).numpy()
    expected = run(model, gray[:1])
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()  # but for the mix, which stays rounded


def test_products_that_read_one_tensor_share_its_range(unsettled: Any) -> None:
    parts, _, _ = unsettled
    for network in (parts.rounded, copy.deepcopy(parts.rounded)):
        products = [module for module in network.modules() if isinstance(module, RoundedProduct)]
        assert len({id(product.read) for product in products}) == len({product.read.tensor for product in products})
        assert len({product.read.tensor for product in products}) < len(products)


def test_the_gradients_are_those_of_learned_step_size_quantization() -> None:
    x = torch.tensor([-3.0, -0.4, 0.013, 0.77, 1.5, 9.0], requires_grad=True)
    read = ActivationRange("x", 2.0)
    upstream = torch.tensor([1.0, -2.0, 3.0, 5.0, 7.0, 11.0])
    read(x).backward(upstream)
    step = 2.0 / 127
    scaled = x.detach() / step
    inside = (scaled >= -128) & (scaled <= 127)
    assert torch.equal(x.grad, upstream * inside)
    of_step = torch.where(inside, scaled.round() - scaled, scaled.clamp(-128, 127))  # Esser et al., equation 3
    # step = top / 127, top = start * exp(0.1 * moved)
    torch.testing.assert_close(read.moved.grad, (upstream * of_step).sum() / 127 * 2.0 * 0.1)


def test_weights_are_rounded_as_export_rounds_them_to_the_nearest() -> None:
    import onnx_ir as ir

    torch.manual_seed(1)
    conv = torch.nn.Conv2d(3, 5, 3, bias=False)
    model = to_onnx(conv, (torch.zeros(2, 3, 8, 8),), output_names=("y",), input_names=("x",))
    node = next(node for node in ir.from_proto(model).graph if node.op_type == "Conv")
    theirs = round_weight(node, None, has_bias=False, top=1.0)
    expected = theirs.codes * theirs.scales[:, None, None, None]
    np.testing.assert_array_equal(rounded_weight(conv.weight).detach().numpy(), expected.astype(np.float32))


@pytest.fixture
def config(photos_dir: Path, tmp_path: Path) -> TrainConfig:
    start = tmp_path / "start.safetensors"
    save_checkpoint(edge(), start)
    given: dict[str, Any] = {**QAT_DEFAULTS, "crop": SIDE, "batch": 2, "validate_every": 2, "validation_photos": 2}
    return TrainConfig(
        photos=(photos_dir,), output=tmp_path / "run.safetensors", steps=4, qat=True, from_checkpoint=start, **given
    )


def stop_after(step: int) -> Callable[[Progress], None]:
    def progress(done: Progress) -> None:
        if done.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return progress


def same(first: Path, second: Path) -> bool:
    one, other = load_checkpoint(first).state_dict(), load_checkpoint(second).state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_trains_resumes_to_the_bit_and_leaves_a_checkpoint_that_exports_as_it_was_trained(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config)
    parts = replace(config, output=tmp_path / "parts.safetensors")
    with pytest.raises(TrainingInterrupted):
        train(parts, progress=stop_after(3))
    train(replace(parts, steps=None, resume=True))
    assert same(config.output, parts.output)
    assert not same(config.output, config.from_checkpoint or Path())
    data = config.output.read_bytes()
    assert checkpoint_metadata(data)[METADATA] == checkpoint_metadata(parts.output.read_bytes())[METADATA]

    trained = TrainedRanges.of_metadata(checkpoint_metadata(data))
    assert trained is not None and trained.size == SIZE and len(trained.ranges) > 40
    monkeypatch.setattr(narrow, "choose_int8", functools.partial(narrow.choose_int8, target=1e3))  # four steps keep no budget
    bundle = export_bundle(config.output, tmp_path / "x.icf", size=SIZE, precision="int8")
    (graph,) = bundle.manifest.graphs
    facts: Any = graph.measurements["precision"]
    assert facts["trained_ranges"]["count"] == len(trained.ranges)
    assert {facts["recipe"]["nodes"][key] for key in trained.wide} == {"fp32"}
    written = onnx.load_model_from_string(bundle.graph().data)
    scales = {t.name: numpy_helper.to_array(t) for t in written.graph.initializer}
    steps = {float(scales[n.input[1]]) for n in written.graph.node if n.op_type == "QuantizeLinear"}
    assert steps and steps <= {float(np.float32(top / 127)) for top in trained.ranges.values()}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"from_checkpoint": None}, "name it with --from CHECKPOINT"),
        ({"precision": "bf16"}, "use --precision fp32"),
        ({"half": True}, "--half would move the weights"),
        ({"teacher": Path("t.pth")}, "leave --teacher out"),
        ({"qat": False, "loss": "float"}, "compares with the network before --qat"),
    ],
)
def test_options_that_do_not_go_with_qat_are_refused_by_name(change: dict[str, Any], text: str) -> None:
    given = TrainConfig(
        photos=(Path("p"),), output=Path("x.safetensors"), steps=1, qat=True, from_checkpoint=Path("a"), **QAT_DEFAULTS
    )
    given.check()
    with pytest.raises(UsageError, match=text):
        replace(given, **change).check()


def test_on_the_command_line_qat_changes_the_defaults_and_nothing_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from icf_deploy.cli.train import command

    seen: list[TrainConfig] = []
    monkeypatch.setattr("icf_deploy.training.loop.train", lambda config, **_: seen.append(config) or config.output)
    needed = ["--photos", "p", "-o", "x.safetensors", "--steps", "5", "--lr", "0.5", "--qat", "--from", "a.safetensors"]
    assert CliRunner().invoke(command, needed).exit_code == 0
    assert seen[0].lr == 0.5
    assert {name: getattr(seen[0], name) for name in QAT_DEFAULTS if name != "lr"} == {
        name: value for name, value in QAT_DEFAULTS.items() if name != "lr"
    }


def test_metadata_that_train_did_not_write_are_refused() -> None:
    assert TrainedRanges.of_metadata({}) is None
    good = TrainedRanges((64, 64), {"gray": 1.0}, ("fusion/Conv",))
    assert TrainedRanges.of_metadata({METADATA: good.to_text()}) == good
    for text in ("{", '{"size": [64]}', good.to_text().replace("1.0", "-1.0"), good.to_text().replace("1.0", '"x"')):
        with pytest.raises(CheckpointError, match="qat"):
            TrainedRanges.of_metadata({METADATA: text})
