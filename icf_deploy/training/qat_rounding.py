"""The int8 form of a product as the exported graph has it, with gradients that training can follow.

Activations: symmetric, one step for the tensor, codes -128..127 as QuantizeLinear saturates. Weights: symmetric, one step per
output channel, codes -127..127. Rounding has the gradient of the identity (Bengio et al. 2013, "Estimating or propagating
gradients through stochastic neurons"); the magnitude at which an activation saturates is learned (Esser et al. 2020, "Learned
step size quantization", equations 2 and 3), and so is the step of a weight's channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icf_deploy.export.precision.clipping import STEPS
from icf_deploy.export.precision.weights import RoundedWeight

LOWEST = -128
# Adam moves a parameter by about its learning rate, whatever its gradient is. So codes move in steps of int8, logarithms of
# ranges and of weight steps in these units, and biases in this share of what one code times the largest input adds. Gain and
# bias of a channel of the first layers change all colours.
RANGE_UNIT = 0.1
GAIN_UNIT = 0.05
BIAS_UNIT = 0.05


class ActivationRange(nn.Module):
    """Rounds one tensor of the graph; products that read the same tensor share it.

    tensor: its key (`export.precision.calibration.tensor_keys`). start: magnitude at which int8 saturates before training.
    """

    start: Tensor

    def __init__(self, tensor: str, start: float) -> None:
        super().__init__()
        self.tensor = tensor
        self.register_buffer("start", torch.tensor(start, dtype=torch.float32))
        self.moved = nn.Parameter(torch.zeros(()))

    @property
    def top(self) -> Tensor:
        """The magnitude at which int8 saturates, positive; float32 []."""
        return self.start * torch.exp(RANGE_UNIT * self.moved)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out."""
        rounded: Tensor = _Round.apply(x, self.top)  # type: ignore[no-untyped-call]
        return rounded


class CodedWeight(nn.Module):
    """The codes and steps of a weight, and what is added to its product's bias.

    key: of its product. start: what they are before training. has_bias: whether the graph has a place for a shift of the bias.
    reach: largest magnitude of what the product reads.
    """

    codes: Tensor
    steps: Tensor
    shift: Tensor
    reach: Tensor

    def __init__(self, key: str, start: RoundedWeight, *, has_bias: bool, reach: float) -> None:
        super().__init__()
        self.key = key
        self.axis, self._shape = start.axis, start.codes.shape
        rows = np.moveaxis(start.codes, start.axis, 0)
        self.register_buffer("codes", torch.tensor(np.ascontiguousarray(rows), dtype=torch.float32))
        self.register_buffer("steps", torch.tensor(start.scales))
        self.register_buffer("shift", torch.tensor(start.bias))
        self.register_buffer("reach", torch.tensor(reach, dtype=torch.float32))
        self.moved = nn.Parameter(torch.zeros_like(self.codes))
        self.gain = nn.Parameter(torch.zeros_like(self.steps))
        self.moved_bias = nn.Parameter(torch.zeros_like(self.steps), requires_grad=has_bias)

    @property
    def scales(self) -> Tensor:
        """Steps of the output channels as trained, float32 [out]."""
        return self.steps * torch.exp(GAIN_UNIT * self.gain)

    @property
    def bias(self) -> Tensor:
        """What is added to the product's bias, float32 [out]."""
        return self.shift + self.moved_bias * (BIAS_UNIT * self.reach) * self.steps

    def forward(self) -> Tensor:
        """The rounded weight, float32 [out, ...]."""
        rounded: Tensor = _Codes.apply(self.codes + self.moved)  # type: ignore[no-untyped-call]
        return rounded * per_channel(self.scales, self.codes)

    @torch.no_grad()
    def rounded(self) -> RoundedWeight:
        """As the graph stores it."""
        codes: npt.NDArray[np.float32] = _codes(self.codes + self.moved).cpu().numpy()
        whole = np.moveaxis(codes, 0, self.axis).astype(np.int8)
        assert whole.shape == self._shape
        return RoundedWeight(np.ascontiguousarray(whole), self.scales.cpu().numpy(), self.axis, self.bias.cpu().numpy())


class RoundedProduct(nn.Module):
    """A convolution or linear layer whose input and weight are rounded, in the place of `layer`, which it was made from."""

    layer_bias: Tensor | None

    def __init__(self, layer: nn.Conv2d | nn.Linear, weight: CodedWeight, read: ActivationRange) -> None:
        super().__init__()
        self.read, self.weight = read, weight
        self.register_buffer("layer_bias", None if layer.bias is None else layer.bias.detach().clone())
        self._shape = layer.weight.shape
        # What SameConv2d pads at the bottom and right, which a plain convolution cannot.
        self._pad: tuple[int, ...] | None = getattr(layer, "explicit_padding", None)
        self._window: Any = (
            (layer.stride, layer.padding, layer.dilation, layer.groups) if isinstance(layer, nn.Conv2d) else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives for a rounded input and rounded weights."""
        weight = self.weight().reshape(self._shape)
        bias = self.weight.bias if self.layer_bias is None else self.layer_bias + self.weight.bias
        x = self.read(x)
        if self._window is None:
            return F.linear(x, weight, bias)
        if self._pad is not None:
            x = F.pad(x, self._pad)
        # The bias comes behind: `FastBackward` is for convolutions without one.
        return F.conv2d(x, weight, None, *self._window) + bias[:, None, None]


def per_channel(values: Tensor, weight: Tensor) -> Tensor:
    """Values [out] in the shape that multiplies a weight [out, ...]."""
    return values.reshape(-1, *(1,) * (weight.dim() - 1))


def _codes(values: Tensor) -> Tensor:
    codes: Tensor = values.round().clamp_(-STEPS, STEPS)
    return codes


class _Codes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values.abs() <= STEPS + 0.5)
        return _codes(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        passed: Tensor = grad * inside
        return passed


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, top: Tensor) -> Tensor:
        step = top / STEPS
        scaled = x / step
        ctx.save_for_backward(scaled)
        return scaled.round().clamp_(LOWEST, STEPS).mul_(step)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (scaled,) = ctx.saved_tensors
        inside = scaled.clamp(LOWEST, STEPS) == scaled
        passed = grad * inside
        # d(step * code)/d(step): code - scaled inside, the code where it saturates.
        moved = scaled.round().clamp_(LOWEST, STEPS).sub_(scaled * inside)
        return passed, torch.dot(grad.flatten(), moved.flatten()) / STEPS
