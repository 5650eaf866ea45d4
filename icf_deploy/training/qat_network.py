"""The network that `train --qat` trains: the lowered one, rounded where its int8 graph rounds.

1. The graph that export would write tells which products there are and which tensor each reads; the layer at a product's path
   is replaced by one that rounds. Products that read one tensor share its range, as they share its Q/DQ pair.
2. It starts as export would round it: calibrated ranges, codes of learned rounding, corrected biases.
3. What is trained belongs to the int8 graph alone: ranges, codes, steps of weights, shifts of biases. The weights in float32
   stay as they are: the float32 graph that drift is measured by does not move, and nothing has to go back through the folds.
4. Products that see the photo itself stay in float32: 8 bits of a gray sky are bands, which no training takes away, and they
   are a hundredth of the work. So do those that int8 destroys (`export.precision.int8`), and those that the user names.

Lowering is for one size, so training is too: the size that the graph will have.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from icf_deploy.errors import ArtefactError, UsageError
from icf_deploy.export.graph import example_gray, to_onnx
from icf_deploy.export.lowering import lower, lower_graph
from icf_deploy.export.lowering.lean_fusion import PaletteFusion
from icf_deploy.export.precision.biases import takes_bias
from icf_deploy.export.precision.blocks import BLOCKS, block_of
from icf_deploy.export.precision.calibration import Calibration, tensor_keys
from icf_deploy.export.precision.int8 import NOISE_LIMIT
from icf_deploy.export.precision.nodes import is_product, node_keys
from icf_deploy.export.precision.photos import packaged_photos
from icf_deploy.export.precision.scale_cache import calibrated
from icf_deploy.export.precision.trained import TrainedInt8
from icf_deploy.export.precision.weights import output_axis
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.training.qat_rounding import ActivationRange, CodedWeight, RoundedProduct

SAME = 1e-5  # of the largest: the graph's weight of a product is its layer's
NAMED = 4  # products that an error names

# torch.export's name for the first layers of a ModuleList, which have the same numbers there and in the list.
_HEAD = re.compile(r"\.slice\(None, -?\d+, None\)")


@dataclass(frozen=True)
class Product:
    """A product of the graph: its key, the path of its layer, and the key of the tensor that it reads.

    sees_photo: no other product stands before it. weight: float32, as the graph stores it. has_place: for a shift of its bias.
    """

    key: str
    path: str
    tensor: str
    sees_photo: bool
    weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    has_place: bool


@dataclass(frozen=True)
class FakeQuantized:
    """rounded: what is trained. wide: the same lowered network without rounding, never trained. left: keys of wide products.

    model, calibration: of the wide network's graph; where training starts.
    """

    rounded: ColorizationNetwork
    wide: ColorizationNetwork
    size: tuple[int, int]
    left: tuple[str, ...]
    model: onnx.ModelProto
    calibration: Calibration

    def trained(self, network: ColorizationNetwork) -> TrainedInt8:
        """The int8 form that `network`, a copy of `rounded`, has learned."""
        ranges = {
            module.tensor: float(module.top.detach()) for module in network.modules() if isinstance(module, ActivationRange)
        }
        weights = {module.key: module.rounded() for module in network.modules() if isinstance(module, CodedWeight)}
        return TrainedInt8(self.size, ranges, weights, self.left)


def fake_quantized(
    network: ColorizationNetwork,
    size: tuple[int, int],
    *,
    leave: Collection[str] = (),
) -> FakeQuantized:
    """Round the lowered form of `network` for gray of `size` (H, W); the network itself is left alone.

    leave: keys of products, and names of blocks, that stay in float32. It starts as calibrated on the packaged photos. Raises
    UsageError for a name that is neither, ArtefactError for a graph with a product that is no layer's.
    """
    original = copy.deepcopy(network).eval().requires_grad_(False)
    wide = lower(original, size).network
    model = lower_graph(to_onnx(wide, (example_gray(size),))).model
    calibration = calibrated(model, packaged_photos(size))
    found = products_of(model)
    left = left_wide(found, leave, calibration.noise)
    products = [product for product in found if product.key not in left]
    reads = {product.tensor: ActivationRange(product.tensor, calibration.saturation[product.tensor]) for product in products}
    rounded = copy.deepcopy(wide).requires_grad_(False)
    replaced: set[str] = set()
    for product in products:
        if product.path in replaced:
            raise ArtefactError(f"--qat cannot round {product.key}: {product.path} does two products")
        replaced.add(product.path)
        start = calibration.weights[product.key]
        reach = calibration.saturation[product.tensor]
        coded = CodedWeight(product.key, start, has_bias=product.has_place, reach=reach)
        _round(rounded, product, coded, reads[product.tensor])
    in_order = tuple(product.key for product in found if product.key in left)
    return FakeQuantized(rounded.eval(), wide, size, in_order, model, calibration)


def products_of(model: onnx.ModelProto) -> tuple[Product, ...]:
    """Every product with constant weights of a graph, in its order."""
    graph = ir.from_proto(model).graph
    tensors = tensor_keys(graph)
    found = []
    behind: set[ir.Value] = set()  # what comes out of a product, or of something that does
    for node, key in node_keys(graph).items():
        is_behind = any(value in behind for value in node.inputs if value is not None)
        if is_product(node):
            value, weight = node.inputs[0], node.inputs[1]
            assert value is not None and weight is not None and weight.const_value is not None
            path = _HEAD.sub("", key.partition("/")[0])
            array = weight.const_value.numpy()
            channels = array.shape[output_axis(node)]
            found.append(Product(key, path, tensors[value], not is_behind, array, takes_bias(node, channels)))
        if is_behind or is_product(node):
            behind.update(node.outputs)
    return tuple(found)


def left_wide(found: Collection[Product], leave: Collection[str], noise: Mapping[str, float]) -> set[str]:
    """Keys of the products that stay in float32. leave, errors: as `fake_quantized`; noise: of a `Calibration`."""
    keys = [product.key for product in found]
    unknown = [name for name in leave if name not in keys and name not in BLOCKS]
    if unknown:
        raise UsageError(
            f"--wide {unknown[0]}: no product or block of this network; blocks are {', '.join(BLOCKS)}, products "
            f"{', '.join(keys[:NAMED])}, ... (a recipe names them all)"
        )
    named = {key for key in keys if key in leave or block_of(key) in leave}
    destroyed = {key for key in keys if NOISE_LIMIT < noise[key] < np.inf}
    return named | destroyed | {product.key for product in found if product.sees_photo}


def _round(rounded: ColorizationNetwork, product: Product, coded: CodedWeight, read: ActivationRange) -> None:
    """Put a layer that rounds in the place of a product's."""
    module = rounded.get_submodule(product.path)
    if isinstance(module, PaletteFusion):  # it multiplies the embeddings with its mix itself, so the mix keeps its codes
        _require_weight(product, module.mix, coded)
        coded.requires_grad_(False)
        with torch.no_grad():
            module.mix.copy_(coded().reshape(module.mix.shape))
        rounded.color_decoder.register_forward_hook(ReadBehind(read))
        module.read, module.coded = read, coded  # so that they are among the network's modules
        return
    if not isinstance(module, nn.Conv2d | nn.Linear):
        raise ArtefactError(f"--qat cannot round {product.key}: {product.path} is a {type(module).__name__}, not a layer")
    _require_weight(product, module.weight, coded)
    parent, _, name = product.path.rpartition(".")
    setattr(rounded.get_submodule(parent), name, RoundedProduct(module, coded, read))


def _require_weight(product: Product, weight: Tensor, coded: CodedWeight) -> None:
    """ArtefactError unless the graph's weight is the layer's."""
    rows = np.moveaxis(product.weight, coded.axis, 0).reshape(weight.shape)
    if not np.allclose(rows, weight.detach().numpy(), rtol=0, atol=SAME * float(np.abs(rows).max())):
        raise ArtefactError(f"--qat cannot round {product.key}: its weight is not that of {product.path}")


class ReadBehind:
    """A forward hook that rounds what a module gives."""

    def __init__(self, read: ActivationRange) -> None:
        self._read = read

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        """What the module gave, rounded."""
        rounded: Tensor = self._read(output)
        return rounded
