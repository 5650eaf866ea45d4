"""CIELAB and sRGB on batches of tensors: exact for targets, differentiable for losses.

Formulas and constants are those of icf_deploy.imaging.color; a test holds the two against each other.
All tensors are float32; light is linear RGB [N,3,H,W] in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from icf_deploy.imaging.color import (
    A_PER_F,
    B_PER_F,
    F_BLACK,
    F_PER_L,
    F_TOE,
    LIGHT_OF_CODE,
    LIGHT_TOE,
    RELATIVE_XYZ_TO_RGB,
    RGB_TO_RELATIVE_XYZ,
    TOE_SLOPE,
    XYZ_TOE,
)
from icf_deploy.training.crops import Batch, Jitter
from icf_deploy.training.damage import damage_gray

LIGHT_TO_RELATIVE_XYZ = torch.tensor(RGB_TO_RELATIVE_XYZ, dtype=torch.float32)
RELATIVE_XYZ_TO_LIGHT = torch.tensor(RELATIVE_XYZ_TO_RGB, dtype=torch.float32)
_CODE_TO_LIGHT = torch.from_numpy(LIGHT_OF_CODE)


@dataclass(frozen=True)
class Pair:
    """What a network learns from: gray [N,1,H,W] in 0..1, and L [N,1,H,W] and ab [N,2,H,W] in CIELAB units."""

    gray: Tensor
    l: Tensor  # noqa: E741 - CIELAB's own name
    ab: Tensor


def light_of_codes(rgb: Tensor) -> Tensor:
    """uint8 RGB [N,H,W,3] -> linear light [N,3,H,W], through a table of the 256 codes."""
    return _CODE_TO_LIGHT.to(rgb.device)[rgb.int()].permute(0, 3, 1, 2).contiguous()


def encode(light: Tensor) -> Tensor:
    """Linear light -> sRGB-encoded values, odd-symmetric below 0 and continued above 1 as in IEC 61966-2-2.

    Nothing is clamped: a colour outside the gamut keeps a gradient that leads back into it.
    """
    size = light.abs()
    curved = 1.055 * size.clamp_min(LIGHT_TOE).pow(1 / 2.4) - 0.055
    return torch.where(size <= LIGHT_TOE, 12.92 * light, curved * light.sign())


def lab_of_light(light: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Linear light in 0..1 -> (relative luminance Y, L, ab)."""
    xyz = _mix(light, LIGHT_TO_RELATIVE_XYZ)
    f = torch.where(xyz > XYZ_TOE, xyz.clamp_min(XYZ_TOE).pow(1 / 3), (xyz - XYZ_TOE) / TOE_SLOPE + F_TOE)
    fx, fy, fz = f.unbind(1)
    ab = torch.stack((A_PER_F * (fx - fy), B_PER_F * (fy - fz)), 1)
    return xyz[:, 1:2], (fy.unsqueeze(1) - F_BLACK) / F_PER_L, ab


def rgb_of_lab(l: Tensor, ab: Tensor) -> Tensor:  # noqa: E741
    """CIELAB L [N,1,H,W] and ab [N,2,H,W] -> sRGB-encoded RGB [N,3,H,W], unclamped and differentiable everywhere."""
    fy = l * F_PER_L + F_BLACK
    f = torch.cat((fy + ab[:, :1] / A_PER_F, fy, fy - ab[:, 1:] / B_PER_F), 1)
    xyz = torch.where(f > F_TOE, f**3, (f - F_TOE) * TOE_SLOPE + XYZ_TOE)
    return encode(_mix(xyz, RELATIVE_XYZ_TO_LIGHT))


def codes_of_lab(l: Tensor, ab: Tensor) -> Tensor:  # noqa: E741
    """As rgb_of_lab, clipped and rounded to the 256 codes (kept as float32), as a photo file would hold them."""
    return (rgb_of_lab(l, ab).clamp(0, 1) * 255).round()


def pair_of_light(light: Tensor) -> Pair:
    """Linear light -> gray, L and ab; gray is the sRGB code of the gray that has the photo's L."""
    y, l, ab = lab_of_light(light)  # noqa: E741
    return Pair(encode(y), l, ab)


def jittered(light: Tensor, jitter: Jitter) -> Tensor:
    """Apply gains, contrast and saturation to linear light [N,3,H,W]; the result is clamped to 0..1."""
    gains, exponent, saturation = (
        torch.from_numpy(values).to(light.device).view(len(light), -1, 1, 1)
        for values in (jitter.gains, jitter.exponent, jitter.saturation)
    )
    # The tiny floor keeps the power finite in slope; it is far below one code.
    light = (light * gains).clamp_min(1e-6).pow(exponent)
    luminance = (light * LIGHT_TO_RELATIVE_XYZ[1].to(light.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return luminance.lerp(light, saturation.expand_as(light)).clamp(0, 1)


def pair_of_batch(batch: Batch, device: torch.device) -> Pair:
    """A batch of crops -> gray (damaged where the batch says so), L and ab of the undamaged crop, on `device`."""
    pair = pair_of_light(jittered(light_of_codes(torch.from_numpy(batch.rgb).to(device)), batch.jitter))
    if not batch.damage.any():
        return pair
    gray = torch.from_numpy(damage_gray(pair.gray.cpu().numpy(), batch.damage)).to(device)
    return Pair(gray, pair.l, pair.ab)


def _mix(planes: Tensor, matrix: Tensor) -> Tensor:
    """Multiply the 3 planes of [N,3,H,W] by a 3x3 matrix, in float32 also under autocast."""
    with torch.autocast(planes.device.type, enabled=False):
        return torch.nn.functional.conv2d(planes, matrix.to(planes.device).view(3, 3, 1, 1))
