"""Which nodes fp16 cannot hold, by the magnitudes that calibration saw: they stay in float32, with the reason.

fp16 ends at 65504, and what lies beyond becomes infinite. bf16 has float32's range, so nothing is guarded there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from icf_deploy.export.precision.calibration import Calibration
from icf_deploy.export.precision.nodes import is_constant, is_float

FP16_LARGEST = 65504.0
HEADROOM = 2.0  # a photo that was not calibrated on may go this far beyond those that were
# They square what they read: TensorRT computes them in the type that the graph says.
SQUARING = ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "ReduceL2", "ReduceSumSquare")


def overflows(node: ir.Node, tensors: Mapping[ir.Value, str], calibration: Calibration) -> str | None:
    """Why a node cannot compute in fp16; None where it can."""
    for value in (*node.inputs, *node.outputs):
        if value is None or not is_float(value):
            continue
        largest = _largest(value, tensors, calibration)
        if largest * HEADROOM > FP16_LARGEST:
            role = "weights" if is_constant(value) else "reads" if value in node.inputs else "gives"
            return f"{role} values up to {largest:.3g}; fp16 ends at {FP16_LARGEST:g}, with a headroom of {HEADROOM:g}"
    source = node.inputs[0] if node.inputs else None
    if node.op_type in SQUARING and source is not None:
        largest = _largest(source, tensors, calibration)
        if (largest * HEADROOM) ** 2 > FP16_LARGEST:
            return f"squares values up to {largest:.3g}; fp16 ends at {FP16_LARGEST:g}, with a headroom of {HEADROOM:g}"
    return None


def _largest(value: ir.Value, tensors: Mapping[ir.Value, str], calibration: Calibration) -> float:
    if not is_constant(value):
        return float(calibration.largest.get(tensors.get(value, ""), np.inf))
    array = value.const_value.numpy() if value.const_value is not None else np.zeros(0)
    return float(np.abs(array).max()) if array.size else 0.0
