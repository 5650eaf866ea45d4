"""LPIPS where it is installed: the distance of two pictures to a trained eye. It is never needed.

Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric" (2018), AlexNet, version 0.1, through the
authors' package `lpips`, which brings torchvision and fetches AlexNet's weights at its first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]
Distance: TypeAlias = Callable[[ByteArray, ByteArray], float]
_HALF_PEAK = 127.5  # codes 0..255 become -1..1


@dataclass(frozen=True)
class Perceptual:
    """How far apart two uint8 RGB pictures [H,W,3] look, or None and the reason why that cannot be said here."""

    distance: Distance | None
    reason: str = ""


def perceptual() -> Perceptual:
    """Load LPIPS; what keeps it from working, an import or a download, is given as the reason, in one line."""
    try:
        lpips = importlib.import_module("lpips")
        import torch
    except (ImportError, RuntimeError, OSError) as error:  # torchvision for another torch fails with RuntimeError
        return Perceptual(None, f"the package lpips cannot be loaded ({_line(error)})")
    try:
        network = lpips.LPIPS(net="alex", version="0.1", verbose=False).eval()
    except (RuntimeError, OSError) as error:  # the weights of AlexNet come over the network
        return Perceptual(None, f"the weights of AlexNet cannot be had ({_line(error)})")

    def distance(picture: ByteArray, reference: ByteArray) -> float:
        first, second = (
            torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], np.float32) / np.float32(_HALF_PEAK) - 1)
            for rgb in (picture, reference)
        )
        with torch.inference_mode():
            return float(network(first, second))

    return Perceptual(distance)


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
