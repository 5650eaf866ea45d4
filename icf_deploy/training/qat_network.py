"""The network that `train --qat` trains: the lowered one, rounded where its int8 graph rounds.

1. The graph that export would write tells which products there are and which tensor each reads; the layer at a product's path
   is replaced by one that rounds. Products that read one tensor share its range, as they share its Q/DQ pair.
2. A weight is trained where the lowered one is the checkpoint's times a factor per output channel (a BatchNorm or a layer scale
   that was folded in): it can go back. Others, and all that is no product, keep their values; their rounding is seen, and what
   is trained makes good for it.
3. A bias is trained with its weight, and goes back into the BatchNorm behind it or into the layer's own bias.
4. Products that see the photo itself stay in float32: 8 bits of a gray sky are bands, which no training takes away, and they
   are a hundredth of the work.

Lowering is for one size, so training is too: the size that the graph will have.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from icf_deploy.errors import ArtefactError, WorkError
from icf_deploy.export.graph import example_gray, to_onnx
from icf_deploy.export.lowering import lower, lower_graph
from icf_deploy.export.lowering.lean_fusion import PaletteFusion
from icf_deploy.export.precision.calibration import ranges as calibrated_ranges
from icf_deploy.export.precision.calibration import tensor_keys
from icf_deploy.export.precision.nodes import is_product, node_keys
from icf_deploy.export.precision.photos import packaged_photos
from icf_deploy.export.precision.trained import TrainedRanges
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.training.qat_rounding import ActivationRange, RoundedProduct, Source, rounded_weight

EXACT = 1e-5  # of the largest: float32 rounding of folds that were made in float64
RESTORED = 1e-4  # of the largest: the same, after weights went to the checkpoint and through the folds again

Layer = nn.Conv2d | nn.Linear
# torch.export's name for the first layers of a ModuleList, which have the same numbers there and in the list.
_HEAD = re.compile(r"\.slice\(None, -?\d+, None\)")


@dataclass(frozen=True)
class Product:
    """A product of the graph: its key, the path of its layer, and the key of the tensor that it reads.

    sees_photo: no other product stands before it.
    """

    key: str
    path: str
    tensor: str
    sees_photo: bool


@dataclass(frozen=True)
class FakeQuantized:
    """rounded: what is trained. wide: the same lowered network without rounding, never trained. original: what was lowered.

    unrounded: keys of the products that stay in float32.
    """

    rounded: ColorizationNetwork
    wide: ColorizationNetwork
    original: ColorizationNetwork
    size: tuple[int, int]
    unrounded: tuple[str, ...]

    def restored(self, trained: ColorizationNetwork) -> tuple[ColorizationNetwork, TrainedRanges]:
        """What `trained`, a copy of `rounded`, has learned: a network of the checkpoint's form, and the ranges.

        Raises WorkError where lowering that network again does not give what was trained.
        """
        network = copy.deepcopy(self.original)
        products = [module for module in trained.modules() if isinstance(module, RoundedProduct)]
        with torch.no_grad():
            for product in products:
                self._put_back(network, product)
        again = lower(network, self.size).network
        for product in products:
            _require_same(product, _layer(again, product.path))
        ranges = {
            module.tensor: float(module.top.detach()) for module in trained.modules() if isinstance(module, ActivationRange)
        }
        return network, TrainedRanges(self.size, ranges, self.unrounded)

    def _put_back(self, network: ColorizationNetwork, product: RoundedProduct) -> None:
        if not product.trains:
            return
        _layer(network, product.path).weight.copy_(product.weight)
        before = _layer(self.wide, product.path).bias
        holder = _bias_holder(network, product.path)
        after = product.bias
        if product.trains_bias and holder is not None and before is not None and after is not None:
            moved = after - before
            assert holder.bias is not None
            holder.bias.add_(moved if isinstance(holder, nn.BatchNorm2d) else moved / product.fold)


def fake_quantized(
    network: ColorizationNetwork, size: tuple[int, int], ranges: Mapping[str, float] | None = None
) -> FakeQuantized:
    """Round the lowered form of `network` for gray of `size` (H, W); the network itself is left alone.

    ranges: of activations, by tensor key; None: calibrated on the packaged photos. Raises ArtefactError for a graph with a
    product that is no layer's, and for ranges that lack a tensor.
    """
    original = copy.deepcopy(network).eval().requires_grad_(False)
    wide = lower(original, size).network
    model = lower_graph(to_onnx(wide, (example_gray(size),))).model
    found = products_of(model)
    products = [product for product in found if not product.sees_photo]
    if ranges is None:
        ranges = calibrated_ranges(model, packaged_photos(size))
    missing = [product.tensor for product in products if product.tensor not in ranges]
    if missing:
        raise ArtefactError(f"the ranges are of another network or size: none for {missing[0]}")
    reads = {product.tensor: ActivationRange(product.tensor, ranges[product.tensor]) for product in products}
    rounded = copy.deepcopy(wide)
    replaced: set[str] = set()
    for product in products:
        if product.path in replaced:
            raise ArtefactError(f"--qat cannot round {product.key}: {product.path} does two products")
        replaced.add(product.path)
        _round(rounded, original, product, reads[product.tensor])
    unrounded = tuple(product.key for product in found if product.sees_photo)
    return FakeQuantized(rounded.eval(), wide, original, size, unrounded)


def products_of(model: onnx.ModelProto) -> tuple[Product, ...]:
    """Every product with constant weights of a graph, in its order."""
    graph = ir.from_proto(model).graph
    tensors = tensor_keys(graph)
    found = []
    behind: set[ir.Value] = set()  # what comes out of a product, or of something that does
    for node, key in node_keys(graph).items():
        is_behind = any(value in behind for value in node.inputs if value is not None)
        if is_product(node):
            value = node.inputs[0]
            assert value is not None
            found.append(Product(key, _HEAD.sub("", key.partition("/")[0]), tensors[value], not is_behind))
        if is_behind or is_product(node):
            behind.update(node.outputs)
    return tuple(found)


def _round(rounded: ColorizationNetwork, original: ColorizationNetwork, product: Product, read: ActivationRange) -> None:
    """Put a layer that rounds in the place of a product's."""
    module = rounded.get_submodule(product.path)
    if isinstance(module, PaletteFusion):  # it multiplies the embeddings with its mix itself
        with torch.no_grad():
            module.mix.copy_(rounded_weight(module.mix))
        rounded.color_decoder.register_forward_hook(ReadBehind(read))
        module.read = read  # so that its range is among the parameters
        return
    if not isinstance(module, nn.Conv2d | nn.Linear):
        raise ArtefactError(f"--qat cannot round {product.key}: {product.path} is a {type(module).__name__}, not a layer")
    source = _source(original, product.path, module)
    parent, _, name = product.path.rpartition(".")
    setattr(rounded.get_submodule(parent), name, RoundedProduct(product.path, module, source, read))


class ReadBehind:
    """A forward hook that rounds what a module gives."""

    def __init__(self, read: ActivationRange) -> None:
        self._read = read

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        """What the module gave, rounded."""
        rounded: Tensor = self._read(output)
        return rounded


def _source(original: ColorizationNetwork, path: str, lowered: Layer) -> Source | None:
    """The checkpoint's weight of a layer with the factors that lowering put on it; None where it is not that."""
    layer = _find(original, path)
    if type(layer) is not type(lowered) or not isinstance(layer, nn.Conv2d | nn.Linear):
        return None
    if layer.weight.shape != lowered.weight.shape:
        return None
    # A channel without weights gets the factor 0, so its gradient is 0 and it stays without.
    mine, theirs = layer.weight.flatten(1).double(), lowered.weight.flatten(1).double()
    fold = (mine * theirs).sum(1) / mine.square().sum(1).clamp_min(torch.finfo(torch.float64).tiny)
    if not torch.allclose(mine * fold[:, None], theirs, rtol=0, atol=EXACT * float(theirs.abs().max())):
        return None
    return Source(layer.weight, fold.float(), trains_bias=_bias_holder(original, path) is not None)


def _bias_holder(network: ColorizationNetwork, path: str) -> nn.BatchNorm2d | Layer | None:
    """What the bias of a lowered layer came from: the BatchNorm behind it, else the layer itself; None without either."""
    parent, _, name = path.rpartition(".")
    chain = network.get_submodule(parent)
    if isinstance(chain, nn.Sequential) and int(name) + 1 < len(chain):
        behind = chain[int(name) + 1]
        if isinstance(behind, nn.BatchNorm2d):
            return behind
    layer = _layer(network, path)
    return None if layer.bias is None else layer


def _find(network: nn.Module, path: str) -> nn.Module | None:
    try:
        return network.get_submodule(path)
    except AttributeError:
        return None


def _layer(network: nn.Module, path: str) -> Layer:
    found = network.get_submodule(path)
    assert isinstance(found, nn.Conv2d | nn.Linear), path
    return found


def _require_same(product: RoundedProduct, lowered: Layer) -> None:
    """WorkError unless the restored network lowers to what was trained."""
    pairs = [(product.lowered_weight(), lowered.weight), (product.bias, lowered.bias)]
    for trained, found in pairs:
        if trained is None or found is None:
            same = trained is found
        else:
            same = bool((trained - found).abs().max() <= RESTORED * found.abs().max().clamp_min(RESTORED))
        if not same:
            raise WorkError(
                f"what was trained at {product.path} could not be put back into a checkpoint: this network is lowered in a way "
                "that --qat does not know"
            )
