"""The score that is watched while training: RGB PSNR over no colour, and colourfulness beside the true one.

Protocol: centre square of a held-out photo, area-averaged to 256x256; ab upsampled bicubically; true L kept; clipped and
rounded to 8-bit RGB; PSNR per photo, then the mean. icf_deploy.training.evaluate gives the full table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icf_deploy.training.color import codes_of_lab, light_of_codes, pair_of_light
from icf_deploy.training.crops import scaled
from icf_deploy.training.photos import Photo

VALIDATION_SIZE = 256  # pixels; the size at which the network is used
VALIDATION_BATCH = 8  # photos; bounds memory
GAINS = (0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.4)  # the curve that tells a loss's colour from its size
PROTOCOL = "centre square at {size}, 8-bit RGB, true L kept, ab upsampled bicubically, mean over photos"
SCORED_COLOURFULNESS = 0.6  # share of the true one at which runs are compared; below it dB come from adding little colour
_LEAST_ERROR = 1e-3  # squared 8-bit codes; keeps PSNR finite for a photo that is matched exactly


@dataclass(frozen=True)
class Point:
    """One point of the curve: gain on the predicted chroma, dB of RGB PSNR over no colour, share of the true colourfulness."""

    gain: float
    db_over_gray: float
    colourfulness: float


@dataclass(frozen=True)
class ValidationSet:
    """Held-out photos at one size: uint8 RGB [N,S,S,3]."""

    rgb: torch.Tensor

    @classmethod
    def of(cls, photos: Sequence[Photo], side: int = VALIDATION_SIZE) -> ValidationSet:
        """Cut the centre square of each photo and scale it to side x side."""
        return cls(torch.from_numpy(np.stack([_centre_square(photo, side) for photo in photos])))

    @property
    def protocol(self) -> str:
        """What is done with the photos, in words."""
        side = self.rgb.shape[1]
        return PROTOCOL.format(size=f"{side}x{side}")


@torch.no_grad()
def validate(network: nn.Module, photos: ValidationSet, *, gains: Sequence[float], device: torch.device) -> tuple[Point, ...]:
    """Score `network` (in eval mode) at each of `gains`."""
    over_gray = torch.zeros(len(gains), dtype=torch.float64)
    colour = torch.zeros(len(gains), dtype=torch.float64)
    true_colour = 0.0
    for rgb in torch.split(photos.rgb, VALIDATION_BATCH):
        pair = pair_of_light(light_of_codes(rgb.to(device)))
        true = rgb.to(device).permute(0, 3, 1, 2).float()
        ab = F.interpolate(network(pair.gray).float(), size=true.shape[2:], mode="bicubic", align_corners=False)
        gray = psnr(codes_of_lab(pair.l, torch.zeros_like(ab)), true)
        for index, gain in enumerate(gains):
            predicted = codes_of_lab(pair.l, ab * gain)
            over_gray[index] += (psnr(predicted, true) - gray).sum().cpu()
            colour[index] += colourfulness(predicted).sum().cpu()
        true_colour += float(colourfulness(true).sum())
    count = len(photos.rgb)
    return tuple(
        Point(float(gain), float(db) / count, float(share) / true_colour)
        for gain, db, share in zip(gains, over_gray, colour, strict=True)
    )


def score(curve: Sequence[Point]) -> float:
    """DB over gray where the curve, of rising gains, reaches SCORED_COLOURFULNESS; its end where it does not."""
    return float(
        np.interp(SCORED_COLOURFULNESS, [point.colourfulness for point in curve], [point.db_over_gray for point in curve])
    )


def psnr(predicted: Tensor, true: Tensor) -> Tensor:
    """RGB PSNR of each photo in dB, [N]; both are 8-bit codes [N,3,H,W]."""
    return 10 * torch.log10(255**2 / (predicted - true).square().mean(dim=(1, 2, 3)).clamp_min(_LEAST_ERROR))


def colourfulness(rgb: Tensor) -> Tensor:
    """Hasler and Suesstrunk's M(3) of each photo, [N], from 8-bit codes [N,3,H,W]; differences are signed, as published."""
    red, green, blue = rgb.unbind(1)
    opponents = torch.stack((red - green, (red + green) / 2 - blue), 1).flatten(2)
    return opponents.var(2, correction=0).sum(1).sqrt() + 0.3 * opponents.mean(2).square().sum(1).sqrt()


def _centre_square(photo: Photo, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    height, width = photo.rgb.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return scaled(photo.rgb[top : top + side, left : left + side], size, size)
