"""Perceptual distance by features of the ImageNet backbone: what a network that knows things sees in the coloured picture.

After Johnson et al. 2016, with EfficientNet-Lite0 in the place of VGG-16, and channels normalized as in LPIPS (Zhang et al.
2018): only the direction of a place's feature counts. The features are frozen; the RGB stem is the pretrained one.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from icf_deploy.network.backbones.efficientnet_lite import (
    STEM_CHANNELS,
    EfficientNetLite0,
    SameConv2d,
    lite0_state_from_imagenet,
)
from icf_deploy.network.presets import imagenet_weights

LEVELS = 3  # skips that are compared: at 1/2, 1/4 and 1/8 of the picture's side
_LEAST_NORM = 1e-6


def feature_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance between the normalized features of two sRGB pictures [N,3,H,W] in 0..1; sides multiples of 8."""
    features = _features(str(first.device))
    total = torch.zeros((), device=first.device)
    with torch.no_grad():
        wanted = [_normalized(level) for level in _levels(features, second)]
    for level, target in zip(_levels(features, first), wanted, strict=True):
        total = total + (_normalized(level) - target).square().sum(1).mean()
    return total / LEVELS


def _levels(features: EfficientNetLite0, rgb: Tensor) -> tuple[Tensor, ...]:
    with torch.autocast(rgb.device.type, enabled=False):
        return features.first(rgb, LEVELS)


def _normalized(level: Tensor) -> Tensor:
    return level / (level.square().sum(1, keepdim=True) + _LEAST_NORM).sqrt()


@functools.cache
def _features(device: str) -> EfficientNetLite0:
    weights = imagenet_weights()
    features = EfficientNetLite0()
    features.stem[0] = SameConv2d(3, STEM_CHANNELS, 3, 2)
    state = lite0_state_from_imagenet(weights)
    state["stem.0.weight"] = weights["_conv_stem.weight"]
    features.load_state_dict(state, strict=True)
    return features.eval().requires_grad_(False).to(device)
