"""A backward pass that is fast on CPUs: the same sums, asked for in a shape that the kernels like.

Measured with oneDNN 3.12 (torch 2.13, one core, bfloat16, channels-last): these three were half of a training step.

- Gradient of a depthwise convolution's input at stride 2 in bfloat16: 20 to 80 times the forward pass. Instead the output's
  gradient is spread with zeros and convolved with the flipped kernel at stride 1. (float32 has a fast kernel.)
- Gradient of a 5x5 depthwise kernel: 10 to 40 times the forward pass. Its taps are those of four 3x3 kernels on shifted inputs.
- pixel_shuffle hands back a gradient in another memory format, on which BatchNorm's backward pass takes 20 times as long;
  it is brought back into the format of the input.

`FastBackward` is a torch function mode, so the network's modules stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SMALL, _LARGE = 3, 5  # kernel sides that the rules above are about


class FastBackward(TorchFunctionMode):
    """Within it, F.conv2d of small square depthwise kernels and F.pixel_shuffle have the backward passes described above."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.conv2d and not kwargs:
            fast = _depthwise(*args)
            if fast is not None:
                return fast
        if func is F.pixel_shuffle and not kwargs:
            return func(_KeepFormat.apply(args[0]), *args[1:])  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _KeepFormat(torch.autograd.Function):
    """Identity whose gradient has the memory format of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.layout = _format_of(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=ctx.layout)


def _format_of(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def _depthwise(  # noqa: PLR0917 - the signature of F.conv2d
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """Return the convolution, or None where the rules of this module do not apply to it."""
    square = weight.shape[2] == weight.shape[3] and weight.shape[2] in (_SMALL, _LARGE)
    if groups == 1 or groups != x.shape[1] or weight.shape[:2] != (groups, 1) or not square or bias is not None:
        return None
    if isinstance(padding, str) or _pair(dilation) != (1, 1) or _pair(stride) not in ((1, 1), (2, 2)):
        return None
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x, weight = x.to(torch.get_autocast_dtype(kind)), weight.to(torch.get_autocast_dtype(kind))
    vertical, horizontal = _pair(padding)
    if vertical or horizontal:
        x = F.pad(x, (horizontal, horizontal, vertical, vertical))
    with torch.autocast(kind, enabled=False):
        result: Tensor = _Depthwise.apply(x, weight, _pair(stride)[0])  # type: ignore[no-untyped-call]
    return result


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution of an input that is already padded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return torch.conv2d(x, weight, None, stride, 0, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=_format_of(x))
        return _input_gradient(grad, x, weight, ctx.stride), _kernel_gradient(grad, x, weight, ctx.stride), None


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    side = weight.shape[2]
    if stride == 1 or grad.dtype == torch.float32:
        return _gradients(grad, x, weight, stride, (True, False))[0]
    count, channels, height, width = grad.shape
    size = (count, channels, x.shape[2] + side - 1, x.shape[3] + side - 1)
    spread = torch.empty(size, dtype=grad.dtype, device=grad.device, memory_format=_format_of(x)).zero_()
    first = side - 1
    spread[:, :, first : first + stride * height : stride, first : first + stride * width : stride] = grad
    return torch.conv2d(spread, weight.flip(2, 3), None, 1, 0, 1, channels)


def _kernel_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    if weight.shape[2] == _SMALL:
        return _gradients(grad, x, weight, stride, (False, True))[1]
    result = torch.empty_like(weight)
    part = weight[:, :, :_SMALL, :_SMALL].contiguous()
    rows, columns = (stride * (length - 1) + _SMALL for length in grad.shape[2:])
    for top in (0, _LARGE - _SMALL):
        for left in (0, _LARGE - _SMALL):
            shifted = x[:, :, top : top + rows, left : left + columns].contiguous(memory_format=_format_of(x))
            taps = _gradients(grad, shifted, part, stride, (False, True))[1]
            result[:, :, top : top + _SMALL, left : left + _SMALL] = taps
    return result


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, stride: int, wanted: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad, x, weight, [0], [stride, stride], [0, 0], [1, 1], False, [0, 0], len(weight), [*wanted, False]
    )
    return result[0], result[1]
