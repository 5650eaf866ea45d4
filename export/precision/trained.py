"""What `train --qat` leaves in a checkpoint: the network's int8 form, trained, beside weights in float32 that did not move.

| in the checkpoint | what |
|---|---|
| metadata `qat` | JSON: size, range of each activation by its tensor's key, keys of the products that stay wide |
| tensor `extra:qat:KEY:codes` | int8, as the graph stores the weight of product KEY |
| tensors `...:scales`, `...:bias` | float32, one for each output channel; the bias is what is added to the float32 graph's |

Codes, steps and ranges were fitted to each other, so a graph takes all of them as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from icf_deploy.errors import CheckpointError
from icf_deploy.export.precision.calibration import Calibration, tensor_keys
from icf_deploy.export.precision.clipping import STEPS
from icf_deploy.export.precision.nodes import is_product, node_keys
from icf_deploy.export.precision.weights import RoundedWeight, output_axis
from icf_deploy.network.checkpoint import EXTRA_PREFIX, checkpoint_metadata

if TYPE_CHECKING:
    from torch import Tensor

METADATA = "qat"  # its name in a checkpoint's metadata
# Training moves a weight by a few codes. Codes further from the float32 weights than this share of them are another layer's.
SAME_WEIGHT = 0.3
PARTS = ("codes", "scales", "bias")


@dataclass(frozen=True)
class TrainedInt8:
    """size: (H, W) that it was trained at. ranges: by tensor key, the magnitude at which int8 saturates. weights: by product.

    wide: keys of the products that stay in float32.
    """

    size: tuple[int, int]
    ranges: Mapping[str, float]
    weights: Mapping[str, RoundedWeight]
    wide: tuple[str, ...] = ()

    def to_metadata(self) -> dict[str, str]:
        """For a checkpoint, beside `to_tensors`."""
        axes = {key: weight.axis for key, weight in sorted(self.weights.items())}
        facts = {"size": list(self.size), "ranges": dict(sorted(self.ranges.items())), "axes": axes, "wide": list(self.wide)}
        return {METADATA: json.dumps(facts)}

    def to_tensors(self) -> dict[str, Tensor]:
        """For a checkpoint, by name."""
        import torch

        return {
            _name(key, part): torch.from_numpy(np.ascontiguousarray(getattr(weight, part)))
            for key, weight in self.weights.items()
            for part in PARTS
        }

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all of it."""
        whole = hashlib.sha256(self.to_metadata()[METADATA].encode())
        for _, weight in sorted(self.weights.items()):
            for part in PARTS:
                whole.update(np.ascontiguousarray(getattr(weight, part)).tobytes())
        return whole.hexdigest()

    @classmethod
    def of_checkpoint(cls, data: bytes) -> TrainedInt8 | None:
        """From the bytes of a checkpoint that loads; None where it was not trained for int8.

        Raises CheckpointError for an int8 form that is not whole.
        """
        text = checkpoint_metadata(data).get(METADATA)
        if text is None:
            return None
        try:
            found = json.loads(text)
            height, width = (int(side) for side in found["size"])
            ranges = {str(key): float(top) for key, top in found["ranges"].items()}
            wide = tuple(str(key) for key in found["wide"])
            axes = {str(key): int(axis) for key, axis in found["axes"].items()}
            weights = _weights(data, axes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint's {METADATA!r} is not what `train --qat` writes: {error}") from error
        wrong = [key for key, top in ranges.items() if not 0 < top < math.inf]
        if wrong:
            raise CheckpointError(f"the checkpoint's {METADATA!r} has no positive range for {wrong[0]}")
        return cls((height, width), ranges, weights, wide)


def _name(key: str, part: str) -> str:
    return f"{EXTRA_PREFIX}{METADATA}:{key}:{part}"


def _weights(data: bytes, axes: Mapping[str, int]) -> dict[str, RoundedWeight]:
    """Raises KeyError for a tensor that is missing, ValueError for one of another form."""
    from safetensors.numpy import load

    tensors = load(data)
    found = {}
    for key, axis in axes.items():
        codes, scales, bias = (tensors[_name(key, part)] for part in PARTS)
        rows = (codes.shape[axis],) if 0 <= axis < codes.ndim else None
        if codes.dtype != np.int8 or any(x.dtype != np.float32 or x.shape != rows for x in (scales, bias)):
            raise ValueError(f"the tensors of {key} are of another form")
        if not (np.isfinite(bias).all() and np.isfinite(scales).all() and (scales > 0).all() and (codes >= -STEPS).all()):
            raise ValueError(f"the tensors of {key} hold no int8 weight")
        found[key] = RoundedWeight(codes, scales, axis, bias)
    return found


def as_trained(model: onnx.ModelProto, calibration: Calibration, trained: TrainedInt8) -> Calibration:
    """`calibration` of a float32 graph with what was trained in the place of what was calibrated.

    calibration: of 8-bit weights. The noise of such a product becomes unknown: it was trained to be borne. A product that
    training did not see (at another size, or kept from a rewrite) keeps what calibration found, and so does a tensor that only
    such products read.
    """
    graph = ir.from_proto(model).graph
    keys, tensors = node_keys(graph), tensor_keys(graph)
    weights, noise, saturation = dict(calibration.weights), dict(calibration.noise), dict(calibration.saturation)
    for node, key in keys.items():
        if not is_product(node) or key not in trained.weights or not _is_of(node, trained.weights[key]):
            continue
        tensor = tensors[_read(node)]
        if tensor in trained.ranges:
            weights[key], noise[key], saturation[tensor] = trained.weights[key], math.inf, trained.ranges[tensor]
    return replace(calibration, saturation=saturation, weights=weights, noise=noise)


def _is_of(node: ir.Node, weight: RoundedWeight) -> bool:
    """Whether an int8 weight is that of a product, and not of one that another rewrite made at the same place."""
    value = node.inputs[1]
    assert value is not None and value.const_value is not None
    original: np.ndarray[Any, Any] = value.const_value.numpy()
    if original.shape != weight.codes.shape or output_axis(node) != weight.axis:
        return False
    steps = weight.scales.reshape([-1 if axis == weight.axis else 1 for axis in range(original.ndim)])
    return bool(np.linalg.norm(weight.codes * steps - original) <= SAME_WEIGHT * np.linalg.norm(original))


def _read(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value
