"""What moves the weights: AdamW with a learning rate per part, warm-up and cosine decay, and averaged weights.

The averaged network is the one that is validated and saved. Its BatchNorm statistics are copied from the trained
network, which averages them already.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import nn

from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.training.config import TrainConfig

WARMUP_SHARE = 0.1  # of a run, at most: a short run would otherwise never reach its peak
EMA_WARMUP = 10  # steps; decay is at most (1 + step) / (EMA_WARMUP + step), so early weights are soon forgotten


def optimizer_for(network: ColorizationNetwork, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over backbone, colour decoder and the rest, each split into weights (decayed) and norms and biases (not)."""
    peaks = {id(parameter): config.backbone_lr for parameter in network.backbone.parameters()}
    peaks |= {id(parameter): config.color_lr for parameter in network.color_decoder.parameters()}
    if config.qat:  # the ranges of activations are its only scalars
        peaks |= {id(parameter): config.range_lr for parameter in network.parameters() if parameter.ndim == 0}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            groups.setdefault((peaks.get(id(parameter), config.lr), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak": peak,
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for (peak, decayed), parameters in groups.items()
        ],
        lr=config.lr,
        fused=True,
    )


def warmup_steps(total: int, warmup: int) -> int:
    """Steps of a run of `total` over which the learning rate rises: `warmup`, or what a short run can spare."""
    return min(warmup, math.ceil(WARMUP_SHARE * total))


def learning_rate_factor(step: int, total: int, warmup: int) -> float:
    """Factor on the peak learning rate at 0-based `step` of `total`: linear rise, then half a cosine that ends at 0."""
    rise = warmup_steps(total, warmup)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's rate to `factor` times its own peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


class AveragedNetwork:
    """Exponential moving average of a network's parameters; buffers are copied."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._pairs = _pairs(self.network.parameters(), network.parameters())
        self._buffers = _pairs(self.network.buffers(), network.buffers())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after 0-based `step`."""
        decay = min(self._decay, (1 + step) / (EMA_WARMUP + step))
        torch._foreach_lerp_(*self._pairs, 1 - decay)
        for mine, theirs in zip(*self._buffers, strict=True):
            mine.copy_(theirs)


def _pairs(mine: Iterable[torch.Tensor], theirs: Iterable[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [tensor.detach() for tensor in mine], [tensor.detach() for tensor in theirs]
