"""How a photo is brought to the network and its ab back, for scoring: protocol "256" and protocol "full".

| protocol | scored at | what stands for |
|---|---|---|
| 256 | the network's input size, to which the photo is stretched by area averages | the literature's tables |
| full | the photo's own size, through everything that `colorize` does | what a user gets |

In both the photo's own L is kept, ab is upsampled bicubically, and colours outside sRGB lose chroma.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from icf_deploy.errors import PhotoError, UsageError
from icf_deploy.imaging.codec import read_photo
from icf_deploy.imaging.color import F_BLACK, F_PER_L, gray_of_fy, lab_of_pixels
from icf_deploy.imaging.merge import merge_rows
from icf_deploy.imaging.resample import shrink_to_grid
from icf_deploy.training.photos import find_photos

PROTOCOLS = ("256", "full")

ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Predict: TypeAlias = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class EvaluationPhoto:
    """A colour photo: its name for tables, and uint8 RGB [H,W,3]."""

    name: str
    rgb: ByteArray


@dataclass(frozen=True)
class Prepared:
    """A photo at the size at which it is scored, and the network's ab for it.

    rgb: uint8 [H,W,3]. lightness: float32 [H,W]. ab: the true one, float32 [2,H,W]. predicted: float32 [2,h,w].
    """

    name: str
    rgb: ByteArray
    lightness: FloatArray
    ab: FloatArray
    predicted: FloatArray

    def picture(self, gain: float) -> ByteArray:
        """Return the coloured photo with the predicted chroma times `gain`: uint8 RGB [H,W,3]; 0 is no colour."""
        return self.picture_of(self.predicted * np.float32(gain))

    def picture_of(self, ab: FloatArray) -> ByteArray:
        """Return the photo's L with an ab of any size: uint8 RGB [H,W,3]."""
        height, width = self.lightness.shape
        fy = _fy(self.lightness)
        return merge_rows(lambda top, bottom: fy[top:bottom], (height, width), ab)


def protocol_in_words(protocol: str, size: tuple[int, int]) -> str:
    """Say what a protocol does; UsageError for one that does not exist."""
    if protocol == "256":
        return (
            f"photo stretched to {size[0]}x{size[1]} by area averages and scored there, true L kept, ab upsampled bicubically"
        )
    if protocol == "full":
        return f"network input {size[0]}x{size[1]}, scored at the photo's own size, true L kept, ab upsampled bicubically"
    raise UsageError(f"--protocol {protocol}: unknown; there are {', '.join(PROTOCOLS)}")


def prepare(photo: EvaluationPhoto, predict: Predict, size: tuple[int, int], stride: int, protocol: str) -> Prepared:
    """Bring a photo to the size at which it is scored and let the network colour its L.

    Raises UsageError where `predict` gives another shape than size and stride say.
    """
    rgb = _stretched(photo.rgb, size) if protocol == "256" else photo.rgb
    lightness, ab = lab_of_pixels(rgb)
    fy = _fy(lightness)
    height, width = lightness.shape
    gray = gray_of_fy(shrink_to_grid(lambda top, bottom: fy[top:bottom], (height, width), size))
    predicted = np.asarray(predict(gray[None, None]), np.float32)
    expected = (1, 2, size[0] // stride, size[1] // stride)
    if predicted.shape != expected:
        raise UsageError(f"the prediction has shape {list(predicted.shape)}, expected {list(expected)}: check size and stride")
    return Prepared(photo.name, rgb, lightness, ab, predicted[0])


class PhotoFolder:
    """Colour photos of folders, read one at a time; `skipped` names what was left out on the way, and why."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._files = find_photos(folders)
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[EvaluationPhoto]:
        for name, path in self._files:
            try:
                pixels = read_photo(path).pixels
            except PhotoError as error:
                self.skipped[name] = str(error)
                continue
            if pixels.ndim == 2 or not np.ptp(pixels, axis=2).any():  # noqa: PLR2004 - one plane
                self.skipped[name] = "gray: there is no colour to compare with"
                continue
            yield EvaluationPhoto(name, pixels)


def _fy(lightness: FloatArray) -> FloatArray:
    fy: FloatArray = lightness * np.float32(F_PER_L) + np.float32(F_BLACK)
    return fy


def _stretched(rgb: ByteArray, size: tuple[int, int]) -> ByteArray:
    shrinks = rgb.shape[0] >= size[0] and rgb.shape[1] >= size[1]
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, (size[1], size[0]), interpolation=kind), np.uint8)
