"""A loss that learns beside the network: parts of its own, their optimiser, their place in the state of a run.

It adds a term to the loss of the same name in `losses`. Its parts are kept in the state file, so that a run can be resumed
exactly, and never reach the checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icf_deploy.training.losses import Truth
from icf_deploy.training.optimisation import set_learning_rate


@dataclass(frozen=True)
class Painted:
    """What the network made of a batch, in float32: ab [N,2,h,w], and the features [N,C,H/4,W/4] that it was painted from."""

    ab: Tensor
    features: Tensor


class LearntLoss(ABC):
    """In every step the trainer asks for the `term`, goes backward through it, moves the network, and then calls `learn`.

    parts: what is learnt. lr: its peak learning rate, which rises and falls with that of the network.
    """

    def __init__(self, parts: nn.Module, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self._parts = parts
        self._optimizer = torch.optim.AdamW(
            [{"params": list(parts.parameters()), "peak": lr}], lr=lr, betas=betas, weight_decay=0
        )

    @abstractmethod
    def term(self, painted: Painted, truth: Truth, *, warmed_up: bool) -> Tensor:
        """What is added to the network's loss. warmed_up: the network's learning rate has reached its peak."""

    @abstractmethod
    def learn(self, painted: Painted, truth: Truth, factor: float) -> None:
        """Move the parts, after a backward pass through `term`, at `factor` times the peak learning rate."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on: tensors and numbers."""
        return {"parts": self._parts.state_dict(), "optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self._parts.load_state_dict(state["parts"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _step(self, factor: float) -> None:
        set_learning_rate(self._optimizer, factor)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
