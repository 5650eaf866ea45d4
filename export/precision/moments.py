"""First and second moments of what a product reads, gathered photo by photo: the data that rounding its weights needs.

A product computes y = W x for many vectors x: a token, or the pixels under a convolution's window with zeros beyond the border.
Its rounding error is (Q - W) x, whose mean and variance over photos follow from the mean and covariance of x alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

FloatArray = npt.NDArray[np.float32]
Moment = npt.NDArray[np.float64]

# Longest x whose covariance is gathered. Beyond it (3x3 convolutions of DDColor's decoder) the matrix alone would take
# hundreds of megabytes and its factorization minutes; such layers average over so many weights that they need it least.
LONGEST = 2560
MOST_VECTORS = 4096  # of one photo; neighbouring pixels say the same, and products with W are cheap only for few


@dataclass(frozen=True)
class Window:
    """How a product reads its input. groups: independent products side by side, each with x of `length` numbers."""

    groups: int
    length: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    image: bool = True  # [N,C,H,W]; else the last axis is x


class Moments:
    """Running sums. `mean` [groups, length] and `covariance` [groups, length, length], about the mean."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self._count = 0
        self._origin: FloatArray | None = None  # the first photo's mean: sums about it do not cancel
        self._sum: Moment = np.zeros((window.groups, window.length))
        self._squares: Moment = np.zeros((window.groups, window.length, window.length))

    def add(self, x: FloatArray) -> None:
        """Take in one activation, float32 [1,C,H,W], or [...,C] for a product of tokens."""
        vectors = _vectors(x, self.window)
        if self._origin is None:
            self._origin = vectors.mean(axis=2, keepdims=True)
        vectors -= self._origin
        self._count += vectors.shape[2]
        self._sum += vectors.sum(axis=2, dtype=np.float64)
        self._squares += vectors @ vectors.transpose(0, 2, 1)

    @property
    def mean(self) -> Moment:
        """Of x; float64 [groups, length]."""
        shift = self._sum / max(1, self._count)
        return shift if self._origin is None else shift + self._origin[:, :, 0]

    @property
    def covariance(self) -> Moment:
        """Of x; float64 [groups, length, length]."""
        shift = self._sum / max(1, self._count)
        found: Moment = self._squares / max(1, self._count) - shift[:, :, None] * shift[:, None, :]
        return found


def window_of(node: ir.Node) -> Window | None:
    """How a product with constant weights reads its input; None where its moments are not gathered."""
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    shape = tuple(weight.const_value.shape.numpy())
    if node.op_type != "Conv":
        transposed = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
        length = shape[1] if transposed else shape[-2]
        return Window(1, length, image=False) if len(shape) == 2 and length <= LONGEST else None  # noqa: PLR2004  # a matrix
    if len(shape) != 4 or any(n != 1 for n in node.attributes.get_ints("dilations", [1])):  # noqa: PLR2004  # out, in, rows, columns
        return None
    groups = node.attributes.get_int("group", 1)
    rows, columns = shape[2:]
    length = shape[1] * rows * columns
    if length > LONGEST or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    pads = node.attributes.get_ints("pads", [0, 0, 0, 0])
    strides = node.attributes.get_ints("strides", [1, 1])
    return Window(groups, length, (rows, columns), (strides[0], strides[1]), (pads[0], pads[1], pads[2], pads[3]))


def _vectors(x: FloatArray, window: Window) -> FloatArray:
    """Every x of an activation: [groups, length, count], thinned to about MOST_VECTORS."""
    if not window.image:
        tokens = x.reshape(-1, x.shape[-1])
        step = max(1, len(tokens) // MOST_VECTORS)
        return np.array(tokens[::step].T[None])
    top, left, bottom, right = window.pads
    padded = np.pad(x[0], ((0, 0), (top, bottom), (left, right)))
    views = np.lib.stride_tricks.sliding_window_view(padded, window.kernel, axis=(1, 2))
    views = views[:, :: window.strides[0], :: window.strides[1]]
    step = max(1, round((views.shape[1] * views.shape[2] / MOST_VECTORS) ** 0.5))
    views = views[:, ::step, ::step]  # a grid, border windows included
    channels, rows, columns = views.shape[:3]
    stacked = views.transpose(0, 3, 4, 1, 2).reshape(channels, -1, rows * columns)
    return np.array(stacked.reshape(window.groups, window.length, rows * columns), np.float32)
