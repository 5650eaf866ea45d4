"""A small network with known weights, as an ONNX graph, as a PyTorch module, and as arithmetic in float64."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from icf_deploy.runtimes.base import Engine, FloatArray, Graph, Target

SIZE = (64, 96)  # not square, so that a swapped H and W shows
STRIDE = 2
HIDDEN = 8


class SmallNetwork(nn.Module):
    """3x3 convolution with stride 2, ReLU, 1x1 convolution: gray -> ab in the range of real colours."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.first = nn.Conv2d(1, HIDDEN, 3, stride=STRIDE, padding=1)
        self.last = nn.Conv2d(HIDDEN, 2, 1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.last.weight.data *= 10
        self.preset, self.stride = "small", STRIDE

    def forward(self, gray: torch.Tensor) -> torch.Tensor:
        ab: torch.Tensor = self.last(torch.relu(self.first(gray)))
        return ab

    def expected(self, gray: FloatArray) -> npt.NDArray[np.float64]:
        """The same in float64, by PyTorch's own convolution: what every engine has to give."""
        network = SmallNetwork().double()
        with torch.inference_mode():
            return network(torch.from_numpy(gray.copy()).double()).numpy()


def onnx_bytes(nodes: Sequence[onnx.NodeProto], initializers: Sequence[onnx.TensorProto], *, channels: int = 2) -> bytes:
    """An ONNX model from gray [batch,1,H,W] to ab [batch,channels,h,w]."""
    height, width = SIZE
    gray = helper.make_tensor_value_info("gray", TensorProto.FLOAT, ["batch", 1, height, width])
    output = ["batch", channels, height // STRIDE, width // STRIDE]
    ab = helper.make_tensor_value_info("ab", TensorProto.FLOAT, output)
    graph = helper.make_graph(list(nodes), "small", [gray], [ab], list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def _weights(network: SmallNetwork, element: int = TensorProto.FLOAT) -> list[onnx.TensorProto]:
    # As raw bytes: OpenVINO's reader takes the other way to write bf16, bit patterns in int32_data, for plain numbers.
    kind = helper.tensor_dtype_to_np_dtype(element)
    arrays = {name.replace(".", "_"): value.detach().numpy().astype(kind) for name, value in network.named_parameters()}
    return [helper.make_tensor(name, element, value.shape, value.tobytes(), raw=True) for name, value in arrays.items()]


def _convolutions(source: str, target: str) -> list[onnx.NodeProto]:
    first = helper.make_node("Conv", [source, "first_weight", "first_bias"], ["x"], strides=[STRIDE] * 2, pads=[1] * 4)
    last = helper.make_node("Conv", ["y", "last_weight", "last_bias"], [target])
    return [first, helper.make_node("Relu", ["x"], ["y"]), last]


def fp32_bytes() -> bytes:
    return onnx_bytes(_convolutions("gray", "ab"), _weights(SmallNetwork()))


def low_bytes(element: int) -> bytes:
    """The whole network in another float type, with Casts around it."""
    before = helper.make_node("Cast", ["gray"], ["low"], to=element)
    after = helper.make_node("Cast", ["low_ab"], ["ab"], to=TensorProto.FLOAT)
    return onnx_bytes([before, *_convolutions("low", "low_ab"), after], _weights(SmallNetwork(), element))


def int8_bytes() -> bytes:
    """Symmetric int8 with zero point 0 around both convolutions, per-channel weights, no bias Q/DQ."""
    network = SmallNetwork()
    initializers = [numpy_helper.from_array(np.int8(0), "zero")]
    nodes = []

    def quantized(value: str, scale: float) -> str:
        initializers.append(numpy_helper.from_array(np.float32(scale), f"{value}_scale"))
        nodes.append(helper.make_node("QuantizeLinear", [value, f"{value}_scale", "zero"], [f"{value}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{value}_q", f"{value}_scale", "zero"], [f"{value}_dq"]))
        return f"{value}_dq"

    def convolution(source: str, module: nn.Conv2d, name: str, target: str) -> None:
        weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()  # type: ignore[union-attr]
        scales = (np.abs(weight).reshape(len(weight), -1).max(1) / 127).astype(np.float32)
        codes = np.rint(weight / scales[:, None, None, None]).astype(np.int8)
        initializers.append(numpy_helper.from_array(codes, f"{name}_codes"))
        initializers.append(numpy_helper.from_array(scales, f"{name}_scales"))
        initializers.append(numpy_helper.from_array(np.zeros(len(weight), np.int8), f"{name}_zeros"))
        initializers.append(numpy_helper.from_array(bias, f"{name}_bias"))
        inputs = [f"{name}_codes", f"{name}_scales", f"{name}_zeros"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_weight"], axis=0))
        kernel = {"strides": list(module.stride), "pads": list(module.padding) * 2}
        nodes.append(helper.make_node("Conv", [source, f"{name}_weight", f"{name}_bias"], [target], **kernel))

    gray = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16)
    largest = float(torch.relu(network.first(gray)).max().detach()) * 1.5
    convolution(quantized("gray", 1 / 127), network.first, "first", "x")
    nodes.append(helper.make_node("Relu", [quantized("x", largest / 127)], ["y"]))
    convolution(quantized("y", largest / 127), network.last, "last", "z")
    nodes.append(helper.make_node("Identity", [quantized("z", 1.0)], ["ab"]))
    return onnx_bytes(nodes, initializers)


def graph_of(data: bytes, recipe: str = "fp32") -> Graph:
    return Graph(data, hashlib.sha256(data).hexdigest(), SIZE, STRIDE, recipe, "small")


@dataclass(frozen=True)
class Small:
    """What the tests take from this file."""

    size: tuple[int, int]
    stride: int
    network: SmallNetwork
    graph: Callable[..., Graph]
    fp32: Callable[[], bytes]
    low: Callable[[int], bytes]
    int8: Callable[[], bytes]
    onnx: Callable[..., bytes]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test starts with an empty cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ICF_DEPLOY_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def small() -> Small:
    return Small(SIZE, STRIDE, SmallNetwork(), graph_of, fp32_bytes, low_bytes, int8_bytes, onnx_bytes)


@pytest.fixture(scope="session")
def gray(photo: Callable[[str], npt.NDArray[np.uint8]]) -> FloatArray:
    """float32 [3,1,64,96] in 0..1: three different photos."""
    height, width = SIZE
    pictures = [photo(name)[:height, :width].mean(-1) for name in ("astronaut", "coffee", "china")]
    return (np.stack(pictures)[:, None] / 255).astype(np.float32)


@pytest.fixture
def engine_of() -> Callable[..., Engine]:
    """engine_of(runtime, graph, device="cpu") -> Engine on one thread."""

    def build(runtime: object, graph: Graph, device: str = "cpu") -> Engine:
        engine: Engine = runtime.build(graph, Target(device, threads=1))  # type: ignore[attr-defined]
        return engine

    return build
