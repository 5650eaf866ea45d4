"""What happens to photos before they reach a colorizer, in fixed severities and with fixed seeds.

Each corruption takes the gray of a photo and gives the gray that a user would hand in. A draw depends on the photo's name, the
kind and the severity alone, so every network and every run gets the same scratches. Lengths are shares of the photo's shorter
side, so a photo is hurt alike at every size.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from icf_deploy.imaging.color import light_of_srgb, srgb_of_light

ByteArray = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Draws: TypeAlias = np.random.Generator

PEAK = 255  # code of white
MIDDLE = 127.5  # code around which contrast is lowered
SEVERITIES = ("mild", "medium", "strong")
UNDEREXPOSED_STOPS = (-1.0, -2.0, -3.0)
OVEREXPOSED_STOPS = (0.5, 1.0, 1.5)
CONTRAST = (0.6, 0.4, 0.25)  # of the original one
NOISE_SIGMA = (8.0, 16.0, 32.0)  # codes
BLUR_SIGMA = (0.004, 0.008, 0.016)  # of the shorter side: 1, 2 and 4 of 256 pixels
JPEG_QUALITY = (40, 20, 8)  # of 100
FADED_RANGE = ((30, 230), (60, 210), (90, 190))  # codes that black and white have faded to
FADED_UNEVENNESS = (0.05, 0.1, 0.2)  # of the range, from one edge of the print to the other
FADED_GRAIN = (3.0, 5.0, 8.0)  # codes, sigma
SCRATCHES = (5, 15, 40)  # lines from top to bottom, more or less
SPECKS = (20, 60, 200)  # of dust and lost emulsion
LINE_WIDTH, SPECK_RADIUS = 0.004, 0.008  # of the shorter side, at most
CARD_AREA = (0.05, 0.15, 0.3)  # of the photo, that an occluding card covers
CARD_CODE = 128  # its gray


@dataclass(frozen=True)
class Corrupted:
    """gray: uint8 [H,W]. covered: bool [H,W], where something else than the photo is seen, which is gray in truth."""

    gray: ByteArray
    covered: Mask


Corruption: TypeAlias = Callable[[ByteArray, int, Draws], ByteArray]


def corrupt(gray: ByteArray, kind: str, severity: int, name: str) -> Corrupted:
    """Apply the corruption `kind` of KINDS to uint8 gray [H,W]; severity: index of SEVERITIES; name: the photo's."""
    draws = np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(kind.encode()), severity])
    if kind == OCCLUSION:
        return _occluded(gray, severity, draws)
    return Corrupted(CORRUPTIONS[kind](gray, severity, draws), np.zeros(gray.shape, bool))


def _exposed(stops: tuple[float, ...]) -> Corruption:
    def expose(gray: ByteArray, severity: int, _: Draws) -> ByteArray:
        codes = np.arange(PEAK + 1) / PEAK
        light = np.minimum(light_of_srgb(codes) * 2 ** stops[severity], 1.0)
        return np.asarray(_bytes(srgb_of_light(light) * PEAK)[gray], np.uint8)

    return expose


def _flat(gray: ByteArray, severity: int, _: Draws) -> ByteArray:
    return _bytes(MIDDLE + (gray - MIDDLE) * CONTRAST[severity])


def _noisy(gray: ByteArray, severity: int, draws: Draws) -> ByteArray:
    return _bytes(gray + draws.normal(0, NOISE_SIGMA[severity], gray.shape))


def _blurred(gray: ByteArray, severity: int, _: Draws) -> ByteArray:
    sigma = BLUR_SIGMA[severity] * min(gray.shape)
    return np.asarray(cv2.GaussianBlur(gray, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), np.uint8)


def _jpeg(gray: ByteArray, severity: int, _: Draws) -> ByteArray:
    _done, encoded = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY[severity]])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)


def _faded(gray: ByteArray, severity: int, draws: Draws) -> ByteArray:
    """Black grows light and white dark, more towards one edge, and the paper's grain shows."""
    black, white = FADED_RANGE[severity]
    angle = draws.uniform(0, 2 * math.pi)
    rows, columns = (np.linspace(-0.5, 0.5, n) for n in gray.shape)
    slope = rows[:, None] * math.sin(angle) + columns[None, :] * math.cos(angle)
    faded = black + gray / PEAK * (white - black) + slope * FADED_UNEVENNESS[severity] * (white - black)
    return _bytes(faded + draws.normal(0, FADED_GRAIN[severity], gray.shape))


def _scratched(gray: ByteArray, severity: int, draws: Draws) -> ByteArray:
    """Lines that wander from top to bottom, and specks; most are white, as lost emulsion is, the others dark."""
    height, width = gray.shape
    side = min(height, width)
    scratched = gray.copy()
    for _ in range(SCRATCHES[severity]):
        top, bottom = np.sort(draws.uniform(-0.3, 1.3, 2)) * height
        rows = np.linspace(top, bottom, 8)
        columns = draws.uniform(0, width) + np.cumsum(draws.normal(0, 0.01 * width, len(rows)))
        line = np.stack([columns, rows], axis=1).round().astype(np.int32)
        thick = max(1, round(draws.uniform(0, LINE_WIDTH) * side))
        cv2.polylines(scratched, [line[:, None]], False, _ink(draws), thick, cv2.LINE_AA)
    for _ in range(SPECKS[severity]):
        centre = int(draws.integers(width)), int(draws.integers(height))
        radius = max(1, round(draws.uniform(0, SPECK_RADIUS) * side))
        cv2.circle(scratched, centre, radius, _ink(draws), cv2.FILLED, cv2.LINE_AA)
    return np.asarray(scratched, np.uint8)


def _ink(draws: Draws) -> int:
    return int(draws.integers(215, 256) if draws.random() < 0.8 else draws.integers(0, 40))  # noqa: PLR2004


def _occluded(gray: ByteArray, severity: int, draws: Draws) -> Corrupted:
    """A gray card somewhere before the photo."""
    height, width = gray.shape
    share = math.sqrt(CARD_AREA[severity])
    tall, wide = round(height * share), round(width * share)
    top, left = int(draws.integers(height - tall + 1)), int(draws.integers(width - wide + 1))
    covered = np.zeros(gray.shape, bool)
    covered[top : top + tall, left : left + wide] = True
    return Corrupted(np.where(covered, np.uint8(CARD_CODE), gray), covered)


def _bytes(codes: npt.NDArray[np.floating]) -> ByteArray:
    return np.asarray(np.clip(np.rint(codes), 0, PEAK), np.uint8)


OCCLUSION = "occluded"
CORRUPTIONS: Mapping[str, Corruption] = {
    "underexposed": _exposed(UNDEREXPOSED_STOPS),
    "overexposed": _exposed(OVEREXPOSED_STOPS),
    "low contrast": _flat,
    "noisy": _noisy,
    "blurred": _blurred,
    "JPEG": _jpeg,
    "faded print": _faded,
    "scratched print": _scratched,
}
KINDS = (*CORRUPTIONS, OCCLUSION)
