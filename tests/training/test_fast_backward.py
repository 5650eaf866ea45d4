from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from icf_deploy.training.fast_backward import FastBackward

SHAPES = [(kernel, stride, padding) for kernel in (3, 5) for stride in (1, 2) for padding in (0, kernel // 2)]


def gradients(
    kernel: int, stride: int, padding: int, dtype: torch.dtype, *, fast: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 17, 20).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(6, 1, kernel, kernel).to(dtype).requires_grad_()
    if fast:
        with FastBackward():
            y = F.conv2d(x, weight, None, stride, padding, 1, 6)
    else:
        y = F.conv2d(x, weight, None, stride, padding, 1, 6)
    y.backward(torch.randn(y.shape).to(dtype))
    assert x.grad is not None
    assert weight.grad is not None
    return y.detach().float(), x.grad.float(), weight.grad.float()


@pytest.mark.parametrize(("kernel", "stride", "padding"), SHAPES)
def test_a_depthwise_convolution_has_pytorchs_values_and_gradients(kernel: int, stride: int, padding: int) -> None:
    for fast, plain in zip(
        gradients(kernel, stride, padding, torch.float32, fast=True),
        gradients(kernel, stride, padding, torch.float32, fast=False),
        strict=True,
    ):
        torch.testing.assert_close(fast, plain, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding"), SHAPES)
def test_bfloat16_gradients_are_those_of_float32_within_its_rounding(kernel: int, stride: int, padding: int) -> None:
    for fast, plain in zip(
        gradients(kernel, stride, padding, torch.bfloat16, fast=True),
        gradients(kernel, stride, padding, torch.float32, fast=False),
        strict=True,
    ):
        assert float((fast - plain).norm() / plain.norm()) < 0.01


def test_float64_gradients_pass_pytorchs_own_check() -> None:
    x = torch.randn(1, 2, 9, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)

    def convolution(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        with FastBackward():
            return F.conv2d(x, weight, None, 2, 2, 1, 2)

    assert torch.autograd.gradcheck(convolution, (x, weight))


def test_a_network_of_other_layers_keeps_its_gradients() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),  # dense, with a bias
        nn.Conv2d(8, 8, 3, padding=1, groups=4),  # grouped, not depthwise
        nn.Conv2d(8, 8, 7, padding=3, groups=8),  # depthwise, of a size without a rule
        nn.Conv2d(8, 8, (3, 5), padding="same", groups=8, bias=False),  # not square
        nn.PixelShuffle(2),
    )
    x = torch.randn(2, 4, 8, 8)
    plain = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    with FastBackward():
        y = network(x)
    fast = torch.autograd.grad(y.square().sum(), list(network.parameters()))
    for first, second in zip(plain, fast, strict=True):
        torch.testing.assert_close(first, second)


def test_the_gradient_behind_pixel_shuffle_keeps_the_channels_last_format() -> None:
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    seen = []
    hidden = x * 1
    hidden.register_hook(lambda grad: seen.append(grad.is_contiguous(memory_format=torch.channels_last)))
    with FastBackward():
        F.pixel_shuffle(hidden, 2).square().sum().backward()
    assert seen == [True]


def test_autocast_reaches_a_depthwise_convolution() -> None:
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3, requires_grad=True)
    with FastBackward(), torch.autocast("cpu", torch.bfloat16):
        y = F.conv2d(x, weight, None, 1, 1, 1, 4)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
