"""Quantization-aware training rounds where the exported int8 graph rounds, and leaves an int8 form that export takes over."""

from __future__ import annotations

import copy
import functools
import json
import os
import signal
import tempfile
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
from safetensors.torch import save

from icf_deploy.errors import CheckpointError, UsageError
from icf_deploy.export.graph import example_gray, to_onnx
from icf_deploy.export.lowering import lower
from icf_deploy.export.lowering.lean_fusion import PaletteFusion
from icf_deploy.export.pipeline import export_bundle, open_source
from icf_deploy.export.precision import narrow
from icf_deploy.export.precision.apply import apply_recipe
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.photos import packaged_photos
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.export.precision.trained import METADATA, TrainedInt8, as_trained
from icf_deploy.export.precision.weights import RoundedWeight
from icf_deploy.network.checkpoint import FORMAT, FORMAT_KEY, load_checkpoint, save_checkpoint
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.network.presets import DDColorConfig, build_ddcolor
from icf_deploy.training import qat_network
from icf_deploy.training.config import QAT_DEFAULTS, TrainConfig
from icf_deploy.training.loop import Progress, TrainingInterrupted, train
from icf_deploy.training.qat_network import FakeQuantized, Product, fake_quantized, left_wide, products_of
from icf_deploy.training.qat_rounding import BIAS_UNIT, GAIN_UNIT, RANGE_UNIT, ActivationRange, CodedWeight, RoundedProduct

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


def in_int8(parts: FakeQuantized, trained: TrainedInt8 | None = None) -> onnx.ModelProto:
    """The graph with every product in int8 but those that stay wide, as export writes it; rounded after training without."""
    calibration = parts.calibration if trained is None else as_trained(parts.model, parts.calibration, trained)
    recipe = Recipe("any", SIZE, network_digest(parts.model), "int8", nodes=dict.fromkeys(parts.left, "fp32"))
    return apply_recipe(parts.model, recipe, calibration).model


def run(model: onnx.ModelProto, gray: Array, *, fuse: bool = True) -> Array:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not fuse:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"gray": photo[None]})[0] for photo in gray])


@torch.no_grad()
def unsettle(network: ColorizationNetwork) -> None:
    """Move what is trained, further than training would, so that nothing agrees because it stood still."""
    generator = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module", params=[edge, ddcolor])
def unsettled(request: pytest.FixtureRequest) -> tuple[FakeQuantized, onnx.ModelProto, onnx.ModelProto]:
    """A network as if it had been trained, its float32 graph, and its int8 graph by way of a checkpoint."""
    network = request.param()
    parts = fake_quantized(network, SIZE)
    model = parts.model
    unsettle(parts.rounded)
    found = parts.trained(parts.rounded)
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(network, Path(folder) / "x.safetensors", metadata=found.to_metadata(), extra=found.to_tensors())
        trained = TrainedInt8.of_checkpoint(path.read_bytes())
    assert trained is not None
    return parts, model, in_int8(parts, trained)


def test_every_trained_product_computes_what_it_computes_in_its_int8_graph(unsettled: Any, gray: Array) -> None:
    """Each is given what it reads in ONNX Runtime: only the product itself, its Q/DQ and its scales are compared."""
    parts, model, int8 = unsettled
    paths = {product.key: product.path for product in products_of(model) if product.key not in parts.left}
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
    if parts.wide.preset != "icf-edge":
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
    # step = top / 127, top = start * exp(RANGE_UNIT * moved)
    torch.testing.assert_close(read.moved.grad, (upstream * of_step).sum() / 127 * 2.0 * RANGE_UNIT)


def test_a_weight_starts_as_it_was_rounded_and_the_gradient_passes_to_codes_steps_and_bias() -> None:
    codes = np.array([[3, -127, 5], [0, 64, 127]], np.int8)
    start = RoundedWeight(np.ascontiguousarray(codes.T), np.array([0.5, 0.25], np.float32), 1, np.array([1.0, 2.0], np.float32))
    coded = CodedWeight("x/MatMul", start, has_bias=True, reach=4.0)
    again = coded.rounded()
    assert np.array_equal(again.codes, start.codes) and np.array_equal(again.bias, start.bias) and again.axis == 1
    with torch.no_grad():
        coded.moved.copy_(torch.tensor([[0.4, -9.0, 0.6], [-0.6, 0.0, 0.0]]))
        coded.gain.copy_(torch.tensor([0.0, 0.1]) / GAIN_UNIT)
        coded.moved_bias.copy_(torch.tensor([0.0, 0.15]) / BIAS_UNIT)
    moved = coded.rounded()
    assert moved.codes.T.tolist() == [[3, -127, 6], [-1, 64, 127]]
    np.testing.assert_allclose(moved.scales, [0.5, 0.25 * np.exp(0.1)], rtol=1e-6)
    np.testing.assert_allclose(moved.bias, [1.0, 2.0 + 0.15 * 4.0 * 0.25], rtol=1e-6)
    np.testing.assert_allclose(coded().detach(), moved.codes.T * moved.scales[:, None], rtol=1e-6)
    upstream = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    coded().backward(upstream)
    passed = upstream * torch.tensor(moved.scales)[:, None]
    passed[0, 1] = 0  # beyond the last code
    torch.testing.assert_close(coded.moved.grad, passed)
    torch.testing.assert_close(coded.gain.grad, (upstream * coded().detach()).sum(1) * GAIN_UNIT)


@pytest.fixture
def config(photos_dir: Path, tmp_path: Path) -> TrainConfig:
    start = tmp_path / "start.safetensors"
    save_checkpoint(edge(), start)
    given: dict[str, Any] = {**QAT_DEFAULTS, "crop": SIDE, "batch": 2, "validate_every": 2, "validation_photos": 2}
    given |= {"keep": "last"}  # so that what is kept did move
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
    before = (config.from_checkpoint or Path()).read_bytes()
    written = functools.cache(lambda: to_onnx(lower(edge(), SIZE).network, (example_gray(SIZE),)))
    monkeypatch.setattr(qat_network, "to_onnx", lambda *_: written())  # three runs start from one network
    train(config)
    parts = replace(config, output=tmp_path / "parts.safetensors")
    with pytest.raises(TrainingInterrupted):
        train(parts, progress=stop_after(3))
    train(replace(parts, steps=None, resume=True))
    assert same(config.output, config.from_checkpoint or Path())  # the float32 network does not move

    trained, resumed = (TrainedInt8.of_checkpoint(path.read_bytes()) for path in (config.output, parts.output))
    assert trained is not None and resumed is not None and trained.digest == resumed.digest
    assert trained.size == SIZE and len(trained.ranges) > 40 and TrainedInt8.of_checkpoint(before) is None
    history = json.loads(config.output.with_suffix(".history.json").read_text())
    assert [record["step"] for record in history] == [0, 2, 4]
    monkeypatch.setattr(narrow, "choose_int8", functools.partial(narrow.choose_int8, target=1e3))  # four steps keep no budget
    bundle = export_bundle(config.output, tmp_path / "x.icf", size=SIZE, precision="int8")
    (graph,) = bundle.manifest.graphs
    facts: Any = graph.measurements["precision"]
    assert facts["trained"]["products"] == len(trained.weights)
    assert {facts["recipe"]["nodes"][key] for key in trained.wide} == {"fp32"}
    model = onnx.load_model_from_string(bundle.graph().data)
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    steps = {float(scales[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert steps and steps <= {float(np.float32(top / 127)) for top in trained.ranges.values()}
    codes = {array.tobytes() for array in scales.values() if array.dtype == np.int8}
    assert {weight.codes.tobytes() for weight in trained.weights.values()} <= codes


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"from_checkpoint": None}, "name it with --from CHECKPOINT"),
        ({"precision": "bf16"}, "use --precision fp32"),
        ({"half": True}, "--half would move the weights"),
        ({"gain": 0.7}, "--gain would change them"),
        ({"qat": False, "loss": "huber", "wide": ("backbone.0",)}, "--wide backbone.0 is what --qat leaves"),
        ({"teacher": (Path("t.pth"),)}, "leave --teacher out"),
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


def test_wide_stays_what_sees_the_photo_what_int8_destroys_and_what_was_named() -> None:
    keys = ("backbone.stem.0/Conv", "backbone.blocks.0.layers.0/Conv", "backbone.blocks.9.layers.0/Conv", "fusion/MatMul")
    found = [Product(key, key.partition("/")[0], "x", "stem" in key, np.zeros((1, 1), np.float32), True) for key in keys]
    noise = dict.fromkeys(keys, 0.01) | {keys[3]: np.inf}
    assert left_wide(found, (), noise) == {keys[0]}
    assert left_wide(found, (), noise | {keys[2]: 0.4}) == {keys[0], keys[2]}
    assert left_wide(found, ("backbone.0", keys[3]), noise) == {keys[0], keys[1], keys[3]}
    with pytest.raises(UsageError, match=r"--wide backbone\.7: no product or block"):
        left_wide(found, ("backbone.7",), noise)


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


def test_an_int8_form_comes_back_whole_and_what_train_did_not_write_is_refused() -> None:
    weight = RoundedWeight(np.array([[1, -127], [5, 0]], np.int8), np.array([0.5, 2], np.float32), 0, np.zeros(2, np.float32))
    good = TrainedInt8((64, 64), {"gray": 1.0}, {"fusion/Conv": weight}, ("backbone.stem.0/Conv",))
    text, tensors = good.to_metadata()[METADATA], good.to_tensors()

    def checkpoint(text: str | None, tensors: dict[str, torch.Tensor]) -> bytes:
        return save(tensors, {FORMAT_KEY: FORMAT} | ({} if text is None else {METADATA: text}))

    again = TrainedInt8.of_checkpoint(checkpoint(text, tensors))
    assert again is not None and again.digest == good.digest and again.ranges == good.ranges and again.wide == good.wide
    assert TrainedInt8.of_checkpoint(checkpoint(None, tensors)) is None
    for wrong in ("{", '{"size": [64]}', text.replace("1.0", "-1.0"), text.replace("1.0", '"x"'), text.replace(": 0}", ": 7}")):
        with pytest.raises(CheckpointError, match="qat"):
            TrainedInt8.of_checkpoint(checkpoint(wrong, tensors))
    name = next(name for name in tensors if name.endswith("scales"))
    for spoiled in (tensors[name].double(), -tensors[name], tensors[name][:1], tensors[name] * torch.inf):
        with pytest.raises(CheckpointError, match="fusion/Conv"):
            TrainedInt8.of_checkpoint(checkpoint(text, {**tensors, name: spoiled}))
    del tensors[name]
    with pytest.raises(CheckpointError, match="fusion/Conv:scales"):
        TrainedInt8.of_checkpoint(checkpoint(text, tensors))
