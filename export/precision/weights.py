"""Weights in int8: symmetric, one scale for each output channel, and what their rounding asks of the bias.

On x86 processors without VNNI products of 8-bit numbers are added up in pairs in 16 bits (VPMADDUBSW), where 2 x 255 x 127
does not fit: it saturates. 2 x 255 x 63 fits, so weights of 7 bits are safe there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from icf_deploy.export.precision.biases import bias_of
from icf_deploy.export.precision.moments import Moments
from icf_deploy.export.precision.rounding import STEPS, nearest, round_together

SMALLEST_SCALE = 2.0**-30  # of a channel without weights or bias; its codes are zero whatever it is
# ONNX Runtime adds the bias in int32, in steps of the input's step times the weight's. In a channel whose weights are zero or
# next to it (BatchNorm leaves such behind where nothing comes through), those steps would be too small for the bias to fit.
BIAS_STEPS = 2.0**30
LARGEST_CODE = {8: STEPS, 7: 63}  # of a weight, by its bits; the smallest is its negative
WEIGHT_BITS = 8


@dataclass(frozen=True)
class RoundedWeight:
    """codes: int8, of the weight's shape. scales: float32 [channels of `axis`]. bias: float32 [channels], to add to the bias.

    The bias makes good what rounding the weights does to the mean of every output channel over the photos (Nagel et al. 2019,
    "Data-free quantization", section 4.2, with the measured mean in the place of the assumed one); zeros where there is none.
    """

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    axis: int
    bias: npt.NDArray[np.float32]


def output_axis(node: ir.Node) -> int:
    """Axis of the output channels in the weight of a product."""
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    if node.op_type == "Conv" or (node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1):
        return 0
    return len(weight.const_value.shape) - 1


def least_range(bias: npt.NDArray[np.float32], top: float, bits: int = WEIGHT_BITS) -> npt.NDArray[np.float64]:
    """The smallest magnitude of weights, [channels], at which a bias fits. top: at which the input's int8 form ends."""
    fits: npt.NDArray[np.float64] = np.abs(bias.astype(np.float64)) * STEPS * LARGEST_CODE[bits] / (BIAS_STEPS * top)
    return np.maximum(fits, SMALLEST_SCALE)


def round_weight(
    node: ir.Node, moments: Moments | None, *, has_bias: bool, top: float, bits: int = WEIGHT_BITS
) -> RoundedWeight:
    """The weight of a product in int8.

    moments: of what it reads; None rounds every weight to the nearest. has_bias: whether a bias can take up a shift of the
    mean; where not, the mean counts as part of the error that rounding keeps small. top: as in `least_range`. bits: one of
    LARGEST_CODE.
    """
    weight_value = node.inputs[1]
    assert weight_value is not None and weight_value.const_value is not None
    weight = weight_value.const_value.numpy().astype(np.float64)
    axis = output_axis(node)
    rows = np.moveaxis(weight, axis, 0)
    flat = rows.reshape(rows.shape[0], -1)
    limit = LARGEST_CODE[bits]
    least = least_range(bias_of(node, len(flat)), top, bits)
    scales = (np.maximum(np.abs(flat).max(axis=1), least) / limit).astype(np.float32)
    bias = np.zeros(len(flat), np.float32)
    if moments is None:
        codes = nearest(flat, scales.astype(np.float64), limit)
    else:
        window, covariance = moments.window, moments.covariance
        if not has_bias:
            covariance = covariance + moments.mean[:, :, None] * moments.mean[:, None, :]
        grouped = flat.reshape(window.groups, -1, window.length)
        steps = scales.astype(np.float64).reshape(window.groups, -1)
        found = round_together(grouped, steps, covariance, limit)
        if has_bias:
            bias = np.einsum("gol,gl->go", grouped - found * steps[:, :, None], moments.mean).ravel().astype(np.float32)
        codes = found.reshape(flat.shape)
    whole = np.moveaxis(codes.reshape(rows.shape), 0, axis)
    return RoundedWeight(np.ascontiguousarray(whole.astype(np.int8)), scales, axis, bias)
