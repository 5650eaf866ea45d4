"""A recipe becomes a graph: the form that every engine takes, the formats that were asked for, and what could not be done."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from icf_deploy.errors import ArtefactError, UsageError
from icf_deploy.export.graph import to_onnx
from icf_deploy.export.precision.apply import apply_recipe
from icf_deploy.export.precision.calibration import Calibration, calibrate
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.photos import CalibrationPhotos
from icf_deploy.export.precision.recipe import Recipe

SIZE = (32, 32)
PRODUCTS = (
    "backbone.stem/Conv",
    "image_decoder.bottleneck/Conv",
    "color_decoder.0/MatMul",
    "color_decoder.1/MatMul",
    "fusion/Conv",
)


def run(model: onnx.ModelProto, gray: np.ndarray) -> np.ndarray:
    """The graph in ONNX Runtime, as it stands."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"gray": gray})[0])


def _recipe(model: onnx.ModelProto, default: str, **parts: dict[str, str]) -> Recipe:
    return Recipe("small", SIZE, network_digest(model), default, **parts)


def _types(model: onnx.ModelProto, key: str) -> set[int]:
    """Types of the float tensors that the node of a key reads and gives."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    types |= {t.name: t.data_type for t in inferred.initializer}
    path, _, operator = key.partition("/")
    node = next(n for n in inferred.node if n.op_type == operator and any(f"'{path}'" in e.value for e in n.metadata_props))
    return {types[name] for name in (*node.input, *node.output)}


def test_int8_is_symmetric_per_channel_and_leaves_biases_alone(model: onnx.ModelProto, calibration: Calibration) -> None:
    applied = apply_recipe(model, _recipe(model, "int8"), calibration)
    graph = applied.model.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    dequantized = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
    products = [n for n in graph.node if n.op_type in ("Conv", "MatMul")]
    assert len(products) == len(PRODUCTS)
    for node in products:
        weight = dequantized[node.input[1]]
        codes, scales, zeros = (constants[name] for name in weight.input)
        axis = weight.attribute[0].i
        assert codes.dtype == np.int8 and scales.shape == zeros.shape == (codes.shape[axis],)
        assert axis == (0 if node.op_type == "Conv" else 1)
        assert not zeros.any()
        if len(node.input) > 2:
            assert constants[node.input[2]].dtype == np.float32
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[2]] == 0 and constants[node.input[2]].dtype == np.int8
    assert {key for key, form in applied.formats.items() if form == "int8"} == set(PRODUCTS)
    assert applied.label == "int8+fp32"
    onnx.checker.check_model(applied.model, full_check=True)


def test_one_int8_product_computes_what_the_definition_says(
    model: onnx.ModelProto, network: nn.Module, calibration: Calibration, photos: CalibrationPhotos
) -> None:
    recipe = _recipe(model, "fp32", nodes={"fusion/Conv": "int8"})
    weight = calibration.weights["fusion/Conv"]
    seen: list[Tensor] = []
    hook = network.fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(torch.from_numpy(photos.gray[:1]))
    hook.remove()
    read = next(key for key in calibration.saturation if "/Add" in key)  # what the fusion reads is a sum
    scale = np.float32(calibration.saturation[read] / 127)
    x = np.clip(np.rint(seen[0].numpy() / scale), -128, 127) * scale
    matrix = weight.codes[:, :, 0, 0] * weight.scales[:, None]
    bias = network.fusion.bias.detach().numpy() + weight.bias
    expected = 20 * (np.einsum("oc,nchw->nohw", matrix, x) + bias[:, None, None])
    found = run(apply_recipe(model, recipe, calibration).model, photos.gray[:1])
    assert np.abs(found - expected).max() < 1e-3
    assert np.abs(found - run(model, photos.gray[:1])).max() > 1e-3  # or nothing was rounded


def test_the_bias_keeps_the_mean_of_every_channel(
    model: onnx.ModelProto, calibration: Calibration, photos: CalibrationPhotos
) -> None:
    recipe = _recipe(model, "fp32", nodes={"fusion/Conv": "int8"})
    coarse = replace(calibration, weights=dict(calibration.weights))
    found, reference = (
        np.concatenate([run(graph, photo[None]) for photo in photos.gray])
        for graph in (apply_recipe(model, recipe, coarse).model, model)
    )
    spread = (found - reference).std(axis=(0, 2, 3))
    assert (np.abs((found - reference).mean(axis=(0, 2, 3))) < 0.2 * spread).all()


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_an_int8_graph_runs_in_int8(
    engine: str, model: onnx.ModelProto, calibration: Calibration, photos: CalibrationPhotos
) -> None:
    pytest.importorskip("onnxruntime" if engine == "ort" else "openvino")
    from icf_deploy.runtimes import registry
    from icf_deploy.runtimes.base import Graph, Target

    applied = apply_recipe(model, _recipe(model, "int8"), calibration)
    data = applied.model.SerializeToString()
    graph = Graph(data, hashlib.sha256(data).hexdigest(), SIZE, 1, applied.label, "small")
    runtime = registry.get(engine)
    with runtime.open(runtime.build(graph, Target(threads=1))) as session:
        ab = session.run(photos.gray[:2])
        formats = session.formats
    assert formats.get("int8", 0) > 0
    reference = np.concatenate([run(model, photo[None]) for photo in photos.gray[:2]])
    assert 0 < np.abs(ab - reference).max() < 0.1 * np.abs(reference).max()


def test_tensorrt_takes_the_int8_graph(model: onnx.ModelProto, calibration: Calibration) -> None:
    pytest.importorskip("tensorrt_rtx")
    from icf_deploy.runtimes.base import Graph
    from icf_deploy.runtimes.trt import build_ahead

    applied = apply_recipe(model, _recipe(model, "int8"), calibration)
    data = applied.model.SerializeToString()
    graph = Graph(data, hashlib.sha256(data).hexdigest(), SIZE, 1, applied.label, "small")
    assert build_ahead(graph, ["sm86"])["sm86"]


@pytest.mark.parametrize(("form", "element"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_a_block_computes_in_the_type_that_was_asked_for_and_the_rest_in_float32(
    form: str, element: int, model: onnx.ModelProto, calibration: Calibration
) -> None:
    applied = apply_recipe(model, _recipe(model, "fp32", blocks={"image_decoder.coarse": form}), calibration)
    onnx.checker.check_model(applied.model, full_check=True)
    assert _types(applied.model, "image_decoder.bottleneck/Conv") == {element}
    assert _types(applied.model, "backbone.stem/Conv") == {TensorProto.FLOAT}
    assert applied.formats["image_decoder.bottleneck/Conv"] == form
    for value in (*applied.model.graph.input, *applied.model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [value.name for value in applied.model.graph.output] == ["ab"]


def test_fp16_throughout_gives_what_pytorch_gives_in_half_precision(
    model: onnx.ModelProto, network: nn.Module, calibration: Calibration, photos: CalibrationPhotos
) -> None:
    from onnx.reference import ReferenceEvaluator

    applied = apply_recipe(model, _recipe(model, "fp16"), calibration)
    assert applied.label == "fp16" and not applied.kept
    found = np.asarray(ReferenceEvaluator(applied.model).run(None, {"gray": photos.gray[:1]})[0])
    with torch.no_grad():
        wide = network(torch.from_numpy(photos.gray[:1])).numpy()
        half = type(network)().half()
        half.load_state_dict(network.state_dict())
        expected = half.eval()(torch.from_numpy(photos.gray[:1]).half()).float().numpy()
    assert np.abs(found - expected).max() < 4 * np.abs(expected - wide).max()
    assert 0 < np.abs(found - wide).max() < 0.05


class Loud(nn.Module):
    """A layer whose output, up to 120000, no fp16 number holds, though its weights are within; and one that brings it back."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, bias=False))
        self.fusion = nn.Conv2d(4, 2, 1, bias=False)
        nn.init.constant_(self.backbone[0].weight, 100.0)
        nn.init.constant_(self.backbone[0].bias, 100.0)
        nn.init.constant_(self.backbone[1].weight, 150.0)
        nn.init.constant_(self.fusion.weight, 1e-4)

    def forward(self, gray: Tensor) -> Tensor:
        ab: Tensor = self.fusion(torch.relu(self.backbone(gray)))
        return ab


def test_a_layer_that_overflows_fp16_is_named_and_kept_wide(photos: CalibrationPhotos) -> None:
    from onnx.reference import ReferenceEvaluator

    torch.manual_seed(0)
    loud = Loud().eval()
    with torch.no_grad():
        assert not torch.isfinite(loud.half()(torch.from_numpy(photos.gray[:1]).half())).all()  # the oracle
    loud = loud.float()
    graph = to_onnx(loud, (torch.zeros(2, 1, *SIZE),))
    calibration = calibrate(graph, photos)
    applied = apply_recipe(graph, _recipe(graph, "fp16"), calibration)
    assert set(applied.kept) == {"backbone.1/Conv", "backbone.1/Relu", "fusion/Conv"}
    assert "gives values up to 1.2e+05; fp16 ends at 65504" in applied.kept["backbone.1/Conv"]
    assert applied.formats["backbone.0/Conv"] == "fp16"
    found = np.asarray(ReferenceEvaluator(applied.model).run(None, {"gray": photos.gray[:1]})[0])
    with torch.no_grad():
        assert np.allclose(found, loud(torch.from_numpy(photos.gray[:1])).numpy(), rtol=1e-3)


def test_fp8_stores_weights_in_fp8_with_a_scale_per_channel(
    model: onnx.ModelProto, network: nn.Module, calibration: Calibration
) -> None:
    applied = apply_recipe(model, _recipe(model, "fp32", nodes={"fusion/Conv": "fp8"}), calibration)
    onnx.checker.check_model(applied.model, full_check=True)
    codes = next(t for t in applied.model.graph.initializer if t.data_type == TensorProto.FLOAT8E4M3FN and len(t.dims) == 4)
    scales = next(t for t in applied.model.graph.initializer if t.name == codes.name.replace("_codes", "_scales"))
    values = numpy_helper.to_array(codes).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    weight = network.fusion.weight.detach().numpy()
    restored = values * numpy_helper.to_array(scales).reshape(-1, 1, 1, 1)
    assert np.abs(restored - weight).max() <= np.abs(weight).max() * 2**-4
    assert applied.label == "fp8+fp32"


def test_a_recipe_or_calibration_of_another_network_is_refused(
    model: onnx.ModelProto, network: nn.Module, calibration: Calibration
) -> None:
    torch.manual_seed(9)
    other = to_onnx(type(network)().eval(), (torch.zeros(2, 1, *SIZE),))
    with pytest.raises(ArtefactError, match="recipe is for another network"):
        apply_recipe(other, _recipe(model, "int8"), calibration)
    with pytest.raises(ArtefactError, match="calibration is of another network"):
        apply_recipe(other, _recipe(other, "int8"), calibration)
    with pytest.raises(ArtefactError, match=r"does not have: 'fusion/Con'; did you mean fusion/Conv\?"):
        apply_recipe(model, _recipe(model, "fp32", nodes={"fusion/Con": "int8"}), calibration)


def test_int8_without_a_calibration_is_a_usage_error(model: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="asks for int8, whose ranges come from photos"):
        apply_recipe(model, _recipe(model, "int8"))


def test_keys_and_digest_survive_a_re_export_and_other_weights_change_the_digest(
    network: nn.Module, model: onnx.ModelProto
) -> None:
    again = to_onnx(network, (torch.zeros(2, 1, *SIZE),))
    for number, node in enumerate(again.graph.node):
        node.name = f"renamed_{number}"
    assert network_digest(again) == network_digest(model)
    recipe = _recipe(model, "fp32", nodes={"fusion/Conv": "bf16"})
    assert apply_recipe(again, recipe).formats["fusion/Conv"] == "bf16"
    torch.manual_seed(9)
    assert network_digest(to_onnx(type(network)().eval(), (torch.zeros(2, 1, *SIZE),))) != network_digest(model)
