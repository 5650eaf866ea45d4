"""Classes of colour beside the palette, after Zhang et al. 2016."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icf_deploy.training.color_classes import annealed_mean, class_centres, class_shares, class_weights, memberships
from icf_deploy.training.config import TrainConfig
from icf_deploy.training.learnt_loss import LearntLoss, Painted
from icf_deploy.training.losses import Truth
from icf_deploy.training.photos import Photo

POOLING = 2  # the classes' grid has a place for 8x8 pixels of a photo: features have one for 4x4


class ClassLoss(LearntLoss):
    """A 1x1 convolution guesses the class of colour of every place from the features that the palette is applied to.

    The term is `class_weight` times how far (Kullback-Leibler) that is from the truth's classes, rare ones weighing more,
    plus `annealed_weight` times the Huber distance of the network's ab from the annealed mean of the guess: of several
    likely colours the likeliest, where a loss on ab asks for something between them. The guess learns from the first alone.
    By default the annealed mean has no weight: drawn to it (weight 1, 300 steps), the network had 0.5 dB over gray at 60 % of
    the true colourfulness on 259 held-out photos, and without 1.0. Features that tell classes apart are what is left of it.
    """

    def __init__(self, channels: int, photos: Sequence[Photo], config: TrainConfig, device: torch.device) -> None:
        centres = class_centres()
        self._head = nn.Conv2d(channels, len(centres), 1).to(device)
        for parameter in self._head.parameters():  # it begins with every class as likely
            nn.init.zeros_(parameter)
        super().__init__(self._head, config.lr)
        self._centres = centres.to(device)
        self._weights = class_weights(class_shares(photos)).to(device)
        self._config = config

    def term(self, painted: Painted, truth: Truth, *, warmed_up: bool) -> Tensor:
        """As above; the annealed mean counts once the network is `warmed_up`."""
        config = self._config
        guess = self._head(F.avg_pool2d(painted.features, POOLING)).permute(0, 2, 3, 1).log_softmax(-1)
        index, share = memberships(_pooled(truth.ab, guess.shape[1]), self._centres)
        wrong = (share * (share.log() - guess.gather(-1, index))).sum(-1)
        loss: Tensor = config.class_weight * (self._weights[index[..., 0]] * wrong).mean()
        if config.annealed_weight and warmed_up:
            wanted = annealed_mean(guess.detach(), self._centres)
            distance = F.smooth_l1_loss(_pooled(painted.ab, guess.shape[1]), wanted, beta=config.huber_beta)
            loss = loss + config.annealed_weight * distance
        return loss

    def learn(self, painted: Painted, truth: Truth, factor: float) -> None:
        """The backward pass through `term` was for the guess, too."""
        self._step(factor)


def _pooled(ab: Tensor, height: int) -> Tensor:
    """[N,2,h,w] -> [N,height,w',2], area-averaged."""
    return F.avg_pool2d(ab, ab.shape[2] // height).permute(0, 2, 3, 1)
