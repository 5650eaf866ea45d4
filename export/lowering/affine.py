"""Per-channel affine maps x -> scale * x + shift, read off normalizations and folded into the linear layers beside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Linear = nn.Linear | nn.Conv2d


def is_frozen(norm: nn.Module) -> bool:
    """Whether a module is a BatchNorm that uses its stored statistics, so that it is an affine map per channel."""
    return isinstance(norm, nn.BatchNorm2d) and not norm.training and norm.running_mean is not None


def batch_norm_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """scale and shift [C] of a frozen BatchNorm: scale = weight / sqrt(var + eps), shift = bias - scale * mean."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach()
    shift = -scale * norm.running_mean
    if norm.bias is not None:
        shift = shift + norm.bias.detach()
    return scale, shift


def takes_affine_input(layer: nn.Module) -> bool:
    """Whether an affine map of the input can be folded in: linear, one group, and no padding that the shift would miss.

    The exact classes: a subclass may pad in its own way.
    """
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and tuple(layer.padding) == (0, 0)
    return type(layer) is nn.Linear


def fold_input(layer: Linear, scale: Tensor, shift: Tensor) -> None:
    """layer(scale * x + shift) becomes layer(x): W'[o,i] = W[o,i] scale[i], b' = b + sum_i W[o,i] shift[i], in place."""
    weight = layer.weight.detach()
    per_input = (1, -1, *(1,) * (weight.dim() - 2))
    moved = (weight * shift.reshape(per_input)).flatten(1).sum(1)
    _set(layer, weight * scale.reshape(per_input), moved if layer.bias is None else layer.bias.detach() + moved)


def fold_output(layer: Linear, scale: Tensor, shift: Tensor | None = None) -> None:
    """scale * layer(x) + shift becomes layer(x): W'[o] = scale[o] W[o], b' = scale b + shift, in place."""
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach() * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    _set(layer, weight * scale.reshape(-1, *(1,) * (weight.dim() - 1)), bias)


def add_bias(layer: Linear, bias: Tensor) -> None:
    """Add `bias` [C'] to what the layer gives, in place."""
    _set(layer, layer.weight.detach(), bias if layer.bias is None else layer.bias.detach() + bias)


def drop_bias(layer: Linear) -> Tensor | None:
    """Take the bias away and return it; None where there was none."""
    bias = None if layer.bias is None else layer.bias.detach()
    layer.register_parameter("bias", None)
    return bias


def pointwise(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """A 1x1 convolution with this weight [C',C] and bias [C']."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None, device="meta")
    _set(conv, weight[:, :, None, None].contiguous(), bias)
    return conv


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer with this weight [C',C] and bias [C']."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    _set(layer, weight.contiguous(), bias)
    return layer


def _set(layer: Linear, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight.detach())
    layer.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach()))
