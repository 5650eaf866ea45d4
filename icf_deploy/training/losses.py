"""Losses, by name. Each compares predicted with true ab on the network's own grid and is computed in float32.

To those named in LEARNT_LOSSES a term is added that has parts of its own (`learnt_loss`); here they are `vivid`.
L comes from the photo and is never predicted, so an error is an error of chroma alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from icf_deploy.errors import UsageError
from icf_deploy.training.color import rgb_of_lab
from icf_deploy.training.config import FLOAT_LOSS, LEARNT_LOSSES, TrainConfig
from icf_deploy.training.feature_loss import feature_distance

SSIM_SIGMA = 1.5  # pixels; Wang et al. 2004
SSIM_WINDOW = 11  # pixels
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for values in 0..1
CHROMA_PER_WEIGHT = 15.0  # vivid: chroma that adds 1 to a pixel's weight
LARGEST_WEIGHT = 5.0  # vivid: so that a few neon pixels do not own the gradient
USUAL_CHROMA = 20.0  # vivid: mean chroma of a crop that counts once
LEAST_CHROMA = 5.0  # vivid: added to a crop's mean chroma, so that gray ones do not own the gradient
DISTANCE_BEND = 1.0  # CIELAB units; about what the eye can tell apart
MEAN_SHARE = 0.37  # Hasler and Suesstrunk 2003, M(1): share of the mean chroma beside its spread


@dataclass(frozen=True)
class Truth:
    """The true L [N,1,h,w] and ab [N,2,h,w] of a batch, area-averaged to the network's output grid."""

    l: Tensor  # noqa: E741 - CIELAB's own name
    ab: Tensor


Loss = Callable[[Tensor, Truth, TrainConfig], Tensor]


def huber(ab: Tensor, truth: Truth, config: TrainConfig) -> Tensor:
    """Huber loss on ab: square below `huber_beta`, linear above. Tends to the median colour: safe and pale."""
    return F.smooth_l1_loss(ab, truth.ab, beta=config.huber_beta)


def vivid(ab: Tensor, truth: Truth, config: TrainConfig) -> Tensor:
    """Huber loss that does not wash colours out.

    A pixel weighs 1 + true chroma / 15 (at most 5), the target's chroma is `chroma_boost` times the true one, and
    `colourfulness_weight` times the colourfulness that a prediction lacks is added. A crop's error is divided by its mean true
    chroma to the power of `crop_balance`: in dB a loud guess for a pale photo costs more than it can win in a colourful one.
    Scale the output down (gain) to taste.
    """
    target = truth.ab * config.chroma_boost
    chroma = truth.ab.norm(dim=1, keepdim=True)
    weight = (1 + chroma / CHROMA_PER_WEIGHT).clamp_max(LARGEST_WEIGHT)
    weight = weight * (USUAL_CHROMA / (chroma.mean(dim=(2, 3), keepdim=True) + LEAST_CHROMA)) ** config.crop_balance
    error = F.smooth_l1_loss(ab, target, beta=config.huber_beta, reduction="none")
    missing = (ab_colourfulness(target) - ab_colourfulness(ab)).clamp_min(0)
    loss: Tensor = (weight * error).mean() + config.colourfulness_weight * missing.mean()
    return loss


def paper(ab: Tensor, truth: Truth, config: TrainConfig) -> Tensor:
    """The paper's loss: `mse_weight` * MSE + `ssim_weight` * (1 - SSIM), on RGB in 0..1 with the true L."""
    predicted, true = rgb_of_lab(truth.l, ab), rgb_of_lab(truth.l, truth.ab)
    return config.mse_weight * F.mse_loss(predicted, true) + config.ssim_weight * (1 - ssim(predicted, true))


def perceptual(ab: Tensor, truth: Truth, config: TrainConfig) -> Tensor:
    """`vivid` plus `perceptual_weight` times the distance between backbone features of both pictures (`feature_loss`)."""
    predicted, true = (rgb_of_lab(truth.l, colours).clamp(0, 1) for colours in (ab, truth.ab))
    return vivid(ab, truth, config) + config.perceptual_weight * feature_distance(predicted, true)


def distance(ab: Tensor, truth: Truth, _: TrainConfig) -> Tensor:
    """Mean distance in ab, square below DISTANCE_BEND: a few crops in which int8 goes far astray do not own the gradient.

    For `--qat`, whose truth is the float network's ab.
    """
    return ((ab - truth.ab).square().sum(1) + DISTANCE_BEND**2).sqrt().mean() - DISTANCE_BEND


LOSSES: dict[str, Loss] = {
    "vivid": vivid,
    "huber": huber,
    "paper": paper,
    "perceptual": perceptual,
    FLOAT_LOSS: distance,
    **dict.fromkeys(LEARNT_LOSSES, vivid),
}


def loss_of_name(name: str) -> Loss:
    """Return the loss of that name; UsageError lists the names there are."""
    try:
        return LOSSES[name]
    except KeyError:
        raise UsageError(f"--loss {name}: unknown; there are {', '.join(LOSSES)}") from None


def ab_colourfulness(ab: Tensor) -> Tensor:
    """Colourfulness of each photo in CIELAB, [N]: spread plus 0.37 of the mean's distance from gray (H. and S.'s M(1))."""
    spread = (ab.var(dim=(2, 3), correction=0).sum(1) + 1e-6).sqrt()
    return spread + MEAN_SHARE * (ab.mean(dim=(2, 3)).square().sum(1) + 1e-6).sqrt()


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean SSIM of [N,C,H,W] in 0..1 over channels and pixels (Wang et al. 2004; Gaussian window, valid region)."""
    size = min(SSIM_WINDOW, first.shape[2], first.shape[3])
    taps = torch.exp(-((torch.arange(size, device=first.device) - (size - 1) / 2) ** 2) / (2 * SSIM_SIGMA**2))
    taps = taps / taps.sum()
    planes = torch.cat((first, second, first * first, second * second, first * second)).flatten(0, 1).unsqueeze(1)
    blurred = F.conv2d(F.conv2d(planes, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))
    mean1, mean2, square1, square2, product = blurred.chunk(5)
    var1, var2, covariance = square1 - mean1**2, square2 - mean2**2, product - mean1 * mean2
    luminance = (2 * mean1 * mean2 + SSIM_C1) / (mean1**2 + mean2**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var1 + var2 + SSIM_C2)
    return (luminance * structure).mean()
