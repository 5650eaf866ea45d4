"""What the original DDColor does before and after its network, value for value.

Seven steps (inference of piddnad/DDColor, commit 2adb63f): float RGB; L of it by OpenCV's float conversion; the colour photo
resized bilinearly to the network's size; L of that one, with a = b = 0, back to RGB; the network; ab enlarged by nearest
neighbour; L and ab back to RGB, clipped channel by channel and rounded. It is here to compare with, not to look at.

OpenCV's conversion is the interpolated one, nothing keeps hue, and the whole photo is held as floats: 28 bytes a pixel.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

_MAX = 255.0
_TO_FLOAT = (np.arange(256) / _MAX).astype(np.float32)


def original_input(pixels: ByteArray, size: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """uint8 gray [H,W] or RGB [H,W,3] -> (L float32 [H,W] of the photo, gray float32 [*size] in 0..1 for the network)."""
    rgb = cv2.LUT(pixels if pixels.shape[2:] else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), _TO_FLOAT)
    lightness = cv2.extractChannel(cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab), 0)
    small = cv2.cvtColor(cv2.resize(rgb, (size[1], size[0])), cv2.COLOR_RGB2Lab)
    small[..., 1:] = 0
    gray = cv2.extractChannel(cv2.cvtColor(small, cv2.COLOR_Lab2RGB), 0)
    return np.asarray(lightness, np.float32), np.asarray(gray, np.float32)


def original_output(lightness: FloatArray, ab: FloatArray) -> ByteArray:
    """L float32 [H,W] and the network's ab float32 [2,h,w] -> uint8 RGB [H,W,3]."""
    height, width = lightness.shape
    rows, columns = _nearest(ab.shape[1], height), _nearest(ab.shape[2], width)
    lab = cv2.merge([lightness, *(np.ascontiguousarray(plane[rows][:, columns], np.float32) for plane in ab)])
    picture: ByteArray = np.rint(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB) * np.float32(_MAX)).astype(np.uint8)
    return picture


def _nearest(source: int, target: int) -> npt.NDArray[np.int64]:
    """Source pixel of each target pixel, with the float32 arithmetic of torch.nn.functional.interpolate(mode="nearest")."""
    scale = np.float32(source) / np.float32(target)
    index: npt.NDArray[np.int64] = np.floor(np.arange(target, dtype=np.float32) * scale).astype(np.int64)
    return np.minimum(index, source - 1, out=index)
