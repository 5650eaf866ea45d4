"""Colours as classes (Zhang et al. 2016): bins of the ab plane, soft membership, and weights for rare ones.

The paper counts 313 bins of 10 units. Those that an sRGB colour (D65) falls into are counted here, and they are fewer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from icf_deploy.training.color import light_of_codes, pair_of_light
from icf_deploy.training.crops import scaled
from icf_deploy.training.photos import Photo

BIN = 10.0  # CIELAB units, the side of a class
NEIGHBOURS = 5  # classes among which a colour is shared
SIGMA = 5.0  # CIELAB units, of the Gaussian by which it is shared
UNIFORM_SHARE = 0.5  # lambda: how much of an even distribution is mixed with that of the photos
TEMPERATURE = 0.38  # of the annealed mean: 1 is the mean, towards 0 the likeliest class
CODES = 256
CELLS = 16  # a photo's side, in cells that count once each: what a crop has at the classes' grid
_CELL = 4  # pixels, over which ab is averaged
_CHUNK = 64  # photos; bounds memory


@functools.cache
def class_centres() -> Tensor:
    """ab of every class, float32 [Q,2]: the multiples of BIN that are the nearest one of some 8-bit sRGB colour.

    Whatever ab a colour has, a colour on the cube's surface has it too, with another L.
    """
    first, second = (plane.flatten() for plane in np.meshgrid(np.arange(CODES), np.arange(CODES)))
    bins = set()
    for end in (0, CODES - 1):
        for axis in range(3):
            face = np.insert(np.stack((first, second), 1), axis, end, axis=1).astype(np.uint8)
            ab = pair_of_light(light_of_codes(torch.from_numpy(face)[None, None])).ab.view(2, -1).T
            bins |= {tuple(found) for found in (ab / BIN).round().unique(dim=0).tolist()}
    return torch.tensor(sorted(bins)) * BIN


def memberships(ab: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """ab [...,2] -> the NEIGHBOURS nearest classes [...,5], nearest first, and the share of each [...,5], of sum 1."""
    distance = torch.cdist(ab.reshape(-1, 2), centres)
    nearest = distance.topk(NEIGHBOURS, dim=1, largest=False)
    shares = (-nearest.values.square() / (2 * SIGMA**2)).softmax(1)
    shape = (*ab.shape[:-1], NEIGHBOURS)
    return nearest.indices.view(shape), shares.view(shape)


def class_shares(photos: Sequence[Photo]) -> Tensor:
    """How much of the photos each class has, float64 [Q] of sum 1. Every photo counts the same, by CELLS x CELLS cells."""
    centres = class_centres()
    total = torch.zeros(len(centres), dtype=torch.float64)
    for first in range(0, len(photos), _CHUNK):
        rgb = np.stack([scaled(photo.rgb, CELLS * _CELL, CELLS * _CELL) for photo in photos[first : first + _CHUNK]])
        ab = F.avg_pool2d(pair_of_light(light_of_codes(torch.from_numpy(rgb))).ab, _CELL)
        index, share = memberships(ab.permute(0, 2, 3, 1), centres)
        total += torch.bincount(index.flatten(), share.flatten().double(), len(centres))
    return total / total.sum()


def class_weights(shares: Tensor) -> Tensor:
    """Weight of each class, float32 [Q]: the inverse of its share, mixed with an even one; expected value over `shares` 1."""
    weights = 1 / ((1 - UNIFORM_SHARE) * shares + UNIFORM_SHARE / len(shares))
    return (weights / (weights * shares).sum()).float()


def annealed_mean(log_probabilities: Tensor, centres: Tensor) -> Tensor:
    """Log-probabilities of the classes [...,Q] -> ab [...,2]: their mean at TEMPERATURE."""
    return (log_probabilities / TEMPERATURE).softmax(-1) @ centres
