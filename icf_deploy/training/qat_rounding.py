"""Rounding to int8 as the exported graph does it, with gradients that training can follow.

Activations: symmetric, one step for the tensor, codes -128..127 as QuantizeLinear saturates. Weights: symmetric, one step per
output channel, codes -127..127. Rounding has the gradient of the identity (Bengio et al. 2013, "Estimating or propagating
gradients through stochastic neurons"); the magnitude at which an activation saturates is learned (Esser et al. 2020, "Learned
step size quantization", equations 2 and 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icf_deploy.export.precision.clipping import STEPS
from icf_deploy.export.precision.weights import BIAS_STEPS, SMALLEST_SCALE

LOWEST = -128
# Adam moves a parameter by about its learning rate, whatever its gradient is. So weights are measured in int8 steps of their
# channel, biases in what such a step does to the largest input, and ranges in this share of themselves.
RANGE_UNIT = 0.1


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
        self.rounds = True

    @property
    def top(self) -> Tensor:
        """The magnitude at which int8 saturates, positive; float32 []."""
        return self.start * torch.exp(RANGE_UNIT * self.moved)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out."""
        if not self.rounds:
            return x
        rounded: Tensor = _Round.apply(x, self.top)  # type: ignore[no-untyped-call]
        return rounded


@dataclass(frozen=True)
class Source:
    """Where the weight of a lowered layer comes from: the checkpoint's, and the factor of each output channel on it."""

    weight: Tensor
    fold: Tensor
    trains_bias: bool


class RoundedProduct(nn.Module):
    """A convolution or linear layer whose input and weight are rounded.

    path: of the layer in the lowered network. source: what is trained; None: nothing, the layer keeps its weight and bias.
    `moved` and `moved_bias` are the parameters, in the units that stand above.
    """

    start: Tensor
    start_bias: Tensor | None
    unit: Tensor
    unit_bias: Tensor
    fold: Tensor

    def __init__(self, path: str, layer: nn.Conv2d | nn.Linear, source: Source | None, read: ActivationRange) -> None:
        super().__init__()
        self.path = path
        self.read = read
        self.trains = source is not None
        source = source or Source(layer.weight, torch.ones(len(layer.weight)), trains_bias=False)
        self.trains_bias = source.trains_bias and layer.bias is not None
        self.register_buffer("start", source.weight.detach().clone())
        self.register_buffer("fold", source.fold.clone())
        unit = source.weight.detach().abs().flatten(1).amax(1) / STEPS
        self.register_buffer("unit", unit)
        self.register_buffer("unit_bias", unit * source.fold.abs() * float(read.start))
        self.register_buffer("start_bias", None if layer.bias is None else layer.bias.detach().clone())
        self.moved = nn.Parameter(torch.zeros_like(self.start), requires_grad=self.trains)
        self.moved_bias = nn.Parameter(torch.zeros_like(unit), requires_grad=self.trains_bias)
        # What SameConv2d pads at the bottom and right, which a plain convolution cannot.
        self._pad: tuple[int, ...] | None = getattr(layer, "explicit_padding", None)
        self._window: Any = (
            (layer.stride, layer.padding, layer.dilation, layer.groups) if isinstance(layer, nn.Conv2d) else None
        )

    @property
    def weight(self) -> Tensor:
        """The checkpoint's weight as trained, [out, ...]."""
        return self.start + self.moved * per_channel(self.unit, self.start) if self.trains else self.start

    @property
    def bias(self) -> Tensor | None:
        """The bias of the lowered network as trained, [out]."""
        if self.start_bias is None or not self.trains_bias:
            return self.start_bias
        return self.start_bias + self.moved_bias * self.unit_bias

    def lowered_weight(self) -> Tensor:
        """The weight of the lowered network, not rounded; [out, ...]."""
        return self.weight * per_channel(self.fold, self.start)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives for a rounded input and rounded weights."""
        weight, bias = self.lowered_weight(), self.bias
        if self.read.rounds:
            weight = rounded_weight(weight, None if bias is None else least_range(bias, self.read.top))
        x = self.read(x)
        if self._window is None:
            return F.linear(x, weight, bias)
        if self._pad is not None:
            x = F.pad(x, self._pad)
        # The bias comes behind: `FastBackward` is for convolutions without one.
        y = F.conv2d(x, weight, None, *self._window)
        return y if bias is None else y + bias[:, None, None]


@contextmanager
def unrounded(network: nn.Module) -> Iterator[None]:
    """Within it, `network` computes what the float32 graph of its weights does."""
    reads = [module for module in network.modules() if isinstance(module, ActivationRange)]
    for read in reads:
        read.rounds = False
    try:
        yield
    finally:
        for read in reads:
            read.rounds = True


def least_range(bias: Tensor, top: Tensor) -> Tensor:
    """As `export.precision.weights.least_range`."""
    return bias.detach().abs() * (STEPS**2 / BIAS_STEPS) / top.detach()


def rounded_weight(weight: Tensor, least: Tensor | None = None) -> Tensor:
    """Weight [out, ...] in int8 steps; nothing saturates, so the gradient is the identity's.

    least: range of a channel, [out], below which its bias would not fit.
    """
    with torch.no_grad():
        largest = weight.abs().flatten(1).amax(1).clamp_min(SMALLEST_SCALE)
        if least is not None:
            largest = torch.maximum(largest, least)
        step = per_channel(largest / STEPS, weight)
        wrong = (weight / step).round_().clamp_(-STEPS, STEPS) * step - weight
    return weight + wrong


def per_channel(values: Tensor, weight: Tensor) -> Tensor:
    """Values [out] in the shape that multiplies a weight [out, ...]."""
    return values.reshape(-1, *(1,) * (weight.dim() - 1))


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
