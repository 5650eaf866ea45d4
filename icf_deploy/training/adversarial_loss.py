"""A discriminator of patches (Isola et al. 2017), with spectral normalization (Miyato et al. 2018) and hinge loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from icf_deploy.training.config import TrainConfig
from icf_deploy.training.learnt_loss import LearntLoss, Painted
from icf_deploy.training.losses import Truth

CHANNELS = 32
LEAK = 0.2  # slope of LeakyReLU below 0
BETAS = (0.0, 0.9)  # of its AdamW; Miyato et al. 2018
MIDDLE_L = 50.0  # L is mapped from 0..100 to -1..1
USUAL_AB = 20.0  # CIELAB units that become 1: about the deviation of photos' ab


def patch_discriminator() -> nn.Sequential:
    """L and ab [N,3,h,w], scaled to about -1..1 -> one logit for every 4x4 places [N,1,h/4,w/4], above 0 for a photo's own.

    A logit depends on 26x26 places.
    """
    return nn.Sequential(
        spectral_norm(nn.Conv2d(3, CHANNELS, 4, 2, 1)),
        nn.LeakyReLU(LEAK),
        spectral_norm(nn.Conv2d(CHANNELS, 2 * CHANNELS, 4, 2, 1)),
        nn.LeakyReLU(LEAK),
        spectral_norm(nn.Conv2d(2 * CHANNELS, 2 * CHANNELS, 3, 1, 1)),
        nn.LeakyReLU(LEAK),
        spectral_norm(nn.Conv2d(2 * CHANNELS, 1, 3, 1, 1)),
    )


class AdversarialLoss(LearntLoss):
    """A small network learns to tell the network's colours from a photo's own, patch by patch, with L before its eyes.

    The term is `adversarial_weight` times minus its mean logit on the network's colours, once the network is warmed up; the
    discriminator learns from the first step on. It is computed in float32 whatever the network's precision.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._discriminator = patch_discriminator().to(device)
        super().__init__(self._discriminator, config.discriminator_lr, BETAS)
        self._config = config

    def term(self, painted: Painted, truth: Truth, *, warmed_up: bool) -> Tensor:
        """As above."""
        if not warmed_up:
            return painted.ab.new_zeros(())
        self._discriminator.requires_grad_(False)
        loss: Tensor = -self._config.adversarial_weight * self._discriminator(_seen(truth.l, painted.ab)).mean()
        self._discriminator.requires_grad_(True)
        return loss

    def learn(self, painted: Painted, truth: Truth, factor: float) -> None:
        """Hinge loss: logits above 1 for the truth and below -1 for the network's colours are good enough."""
        both = torch.cat((_seen(truth.l, truth.ab), _seen(truth.l, painted.ab.detach())))
        true, made = self._discriminator(both).chunk(2)
        (F.relu(1 - true).mean() + F.relu(1 + made).mean()).backward()
        self._step(factor)


def _seen(l: Tensor, ab: Tensor) -> Tensor:  # noqa: E741 - CIELAB's own name
    """L and ab as the discriminator is given them."""
    return torch.cat((l / MIDDLE_L - 1, ab / USUAL_AB), 1)
