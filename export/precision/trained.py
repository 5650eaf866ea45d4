"""What `train --qat` leaves in a checkpoint: the ranges of activations that its weights were trained with.

Such weights were fitted to being rounded to the nearest, at those ranges. A graph that is to compute what was trained takes
both as they are; ranges and roundings found afterwards would be others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from icf_deploy.errors import CheckpointError
from icf_deploy.export.precision.calibration import Calibration, tensor_keys
from icf_deploy.export.precision.nodes import is_product, node_keys
from icf_deploy.export.precision.weights import round_weight

METADATA = "qat"  # its name in a checkpoint's metadata


@dataclass(frozen=True)
class TrainedRanges:
    """size: (H, W) that it was trained at. ranges: by tensor key, the magnitude at which int8 saturates. wide: keys of the
    products that stayed in float32.
    """

    size: tuple[int, int]
    ranges: Mapping[str, float]
    wide: tuple[str, ...] = ()

    def to_text(self) -> str:
        """For a checkpoint's metadata."""
        return json.dumps({"size": list(self.size), "ranges": dict(sorted(self.ranges.items())), "wide": list(self.wide)})

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> TrainedRanges | None:
        """From a checkpoint's metadata; None where it was not trained for int8. CheckpointError for what is not readable."""
        text = metadata.get(METADATA)
        if text is None:
            return None
        try:
            found = json.loads(text)
            height, width = (int(side) for side in found["size"])
            ranges = {str(key): float(top) for key, top in found["ranges"].items()}
            wide = tuple(str(key) for key in found["wide"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the checkpoint's metadata {METADATA!r} are not what `train --qat` writes: {error}"
            ) from error
        wrong = [key for key, top in ranges.items() if not 0 < top < float("inf")]
        if wrong:
            raise CheckpointError(f"the checkpoint's metadata {METADATA!r} have no positive range for {wrong[0]}")
        return cls((height, width), ranges, wide)


def as_trained(model: onnx.ModelProto, calibration: Calibration, trained: TrainedRanges) -> Calibration:
    """`calibration` of a float32 graph with the trained ranges, and weights rounded to the nearest.

    The noise of such a product becomes unknown: it was trained to be borne. A product that reads a tensor which training did
    not see (at another size the last expansion can be cut differently) keeps what calibration found.
    """
    graph = ir.from_proto(model).graph
    keys, tensors = node_keys(graph), tensor_keys(graph)
    weights, noise = dict(calibration.weights), dict(calibration.noise)
    for node, key in keys.items():
        top = trained.ranges.get(tensors[_read(node)]) if is_product(node) else None
        if top is not None:
            weights[key] = round_weight(node, None, has_bias=False, top=top)
            noise[key] = math.inf
    saturation = {key: trained.ranges.get(key, top) for key, top in calibration.saturation.items()}
    return replace(calibration, saturation=saturation, weights=weights, noise=noise)


def _read(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value
