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

from icf_deploy.errors import PhotoError, UsageError, WorkError
from icf_deploy.imaging.codec import read_photo
from icf_deploy.imaging.color import F_BLACK, F_PER_L, gray_of_fy, lab_of_pixels
from icf_deploy.imaging.merge import merge_rows
from icf_deploy.imaging.resample import shrink_to_grid
from icf_deploy.training.photos import find_photos

PROTOCOLS = ("256", "full")
SKIPPED_NAMED = 3  # photos in the message that none is left

ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Predict: TypeAlias = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class Candidate:
    """What is scored: gray float32 [N,1,H,W] in 0..1 -> ab float32 [N,2,H/stride,W/stride], (H, W), and the stride."""

    predict: Predict
    size: tuple[int, int]
    stride: int

    def colours(self, lightness: FloatArray) -> FloatArray:
        """L float32 [h,w] of a photo of any size -> the ab that is predicted for it, float32 [2,H/stride,W/stride].

        Raises UsageError where another shape comes out than size and stride say.
        """
        predicted = np.asarray(self.predict(gray_for(lightness, self.size)), np.float32)
        expected = (1, 2, self.size[0] // self.stride, self.size[1] // self.stride)
        if predicted.shape != expected:
            raise UsageError(
                f"the prediction has shape {list(predicted.shape)}, expected {list(expected)}: check size and stride"
            )
        field: FloatArray = predicted[0]
        return field


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
    rgb = at_scored_size(photo.rgb, size, protocol)
    lightness, ab = lab_of_pixels(rgb)
    return Prepared(photo.name, rgb, lightness, ab, Candidate(predict, size, stride).colours(lightness))


def at_scored_size(rgb: ByteArray, size: tuple[int, int], protocol: str) -> ByteArray:
    """uint8 RGB [h,w,3] -> the same stretched to size = (H, W) under protocol 256, and as it is under full."""
    if protocol != "256":
        return rgb
    shrinks = rgb.shape[0] >= size[0] and rgb.shape[1] >= size[1]
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, (size[1], size[0]), interpolation=kind), np.uint8)


def gray_for(lightness: FloatArray, size: tuple[int, int]) -> FloatArray:
    """L float32 [h,w] -> what a network of size = (H, W) is given: gray float32 [1,1,H,W] in 0..1."""
    fy = _fy(lightness)
    height, width = lightness.shape
    return gray_of_fy(shrink_to_grid(lambda top, bottom: fy[top:bottom], (height, width), size))[None, None]


class PhotoFolder:
    """Colour photos of folders, read one at a time; `skipped` names what was left out on the way, and why."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._files = find_photos(folders)
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[EvaluationPhoto]:
        """Yield the photos that have colour; raise WorkError at the end where none was one."""
        usable = 0
        for name, path in self._files:
            try:
                pixels = read_photo(path).pixels
            except PhotoError as error:
                self.skipped[name] = str(error)
                continue
            if pixels.ndim == 2 or not np.ptp(pixels, axis=2).any():  # noqa: PLR2004 - one plane
                self.skipped[name] = "gray: there is no colour to compare with"
                continue
            usable += 1
            yield EvaluationPhoto(name, pixels)
        if not usable:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(self.skipped.items())[:SKIPPED_NAMED])
            raise WorkError(
                f"{', '.join(map(str, self._folders))}: none of {len(self)} files is a colour photo ({reasons}); "
                "name another --photos"
            )


def _fy(lightness: FloatArray) -> FloatArray:
    fy: FloatArray = lightness * np.float32(F_PER_L) + np.float32(F_BLACK)
    return fy
