"""Layers that both families share: spectral-norm convolution, attention, the sine position, blurred pixel shuffle."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPECTRAL_NORM_EPS = 1e-12
POSITION_TEMPERATURE = 10000.0
POSITION_EPS = 1e-6


class SpectralNormConv2d(nn.Module):
    """Convolution whose weight is divided by an estimate of its largest singular value (Miyato et al. 2018).

    Keeps the tensors of PyTorch's legacy `spectral_norm`, which the official DDColor files carry: `weight_orig`,
    `weight_u`, `weight_v`. In evaluation the stored u and v are used as they are; in training one power iteration is made.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, padding: int = 0, bias: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, out_channels, kernel, bias=bias)
        self.padding = padding
        self.weight_orig = nn.Parameter(conv.weight.detach())
        self.bias = nn.Parameter(conv.bias.detach()) if conv.bias is not None else None
        self.register_buffer("weight_u", F.normalize(torch.randn(out_channels), dim=0, eps=SPECTRAL_NORM_EPS))
        self.register_buffer("weight_v", F.normalize(torch.randn(in_channels * kernel * kernel), dim=0, eps=SPECTRAL_NORM_EPS))
        for _ in range(15):  # so that a freshly built network, too, has weights of norm one
            self._power_iteration()

    @torch.no_grad()
    def _power_iteration(self) -> None:
        matrix = self.weight_orig.flatten(1)
        self.weight_v.copy_(F.normalize(matrix.T @ self.weight_u, dim=0, eps=SPECTRAL_NORM_EPS))
        self.weight_u.copy_(F.normalize(matrix @ self.weight_v, dim=0, eps=SPECTRAL_NORM_EPS))

    def effective_weight(self) -> Tensor:
        """weight_orig / (u^T W v), float32 [out,in,k,k]."""
        u, v = self.weight_u, self.weight_v
        if self.training:
            self._power_iteration()
            u, v = u.clone(), v.clone()  # a second call before the backward pass overwrites the buffers
        sigma = torch.dot(u, torch.mv(self.weight_orig.flatten(1), v))
        return self.weight_orig / sigma

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C',H',W']."""
        return F.conv2d(x, self.effective_weight(), self.bias, padding=self.padding)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention with the parameter names of `nn.MultiheadAttention`.

    Rows of `in_proj_weight` [3C,C]: query, key, value.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def _split(self, x: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        return x.reshape(batch, tokens, self.heads, channels // self.heads).transpose(1, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [N,Q,C], key and value [N,T,C] -> [N,Q,C]."""
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        q, k, v = (self._split(F.linear(x, w, b)) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        mixed: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return mixed


def sine_axis(length: int, channels: int) -> Tensor:
    """Sine position along one axis: float32 [length, channels] (as in DETR, normalized to 2 pi)."""
    place = torch.arange(1, length + 1, dtype=torch.float32) / (length + POSITION_EPS) * (2 * math.pi)
    k = torch.arange(channels)
    period = POSITION_TEMPERATURE ** (2 * torch.div(k, 2, rounding_mode="floor") / channels)
    angle = place[:, None] / period
    return torch.where(k % 2 == 0, angle.sin(), angle.cos())


def sine_position(height: int, width: int, channels: int) -> Tensor:
    """Position of every token of a height x width grid: float32 [1, height*width, channels], y-part before x-part."""
    y = sine_axis(height, channels // 2)[:, None, :].expand(-1, width, -1)
    x = sine_axis(width, channels // 2)[None, :, :].expand(height, -1, -1)
    return torch.cat([y, x], dim=-1).reshape(1, height * width, channels)


def blurred_pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """PixelShuffle, then a 2x2 mean over replicate padding on the left and top: [N,C*f*f,H,W] -> [N,C,H*f,W*f]."""
    x = F.pixel_shuffle(x, factor)
    return F.avg_pool2d(F.pad(x, (1, 0, 1, 0), mode="replicate"), 2, stride=1)
