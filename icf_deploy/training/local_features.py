"""What a colorizer without learned features can know of a pixel: the local features of the literature before deep networks.

| group | per | what | after |
|---|---|---|---|
| level | blur of 2, 8, 24 pixels | gray, blurred | Welsh, Ashikhmin & Mueller 2002: luminance |
| texture | window of 1.5, 4, 12 pixels | standard deviation of gray | Welsh et al. 2002: deviation of the neighbourhood |
| edges | scale of 1, 3 pixels | strength, and coherence times cos and sin of twice the angle, of the structure tensor | Gabor energies of Gupta et al. 2012 |
| patch | ring of 12, 40 pixels | blurred gray at 8 places around, less that at the centre | Irony et al. 2005, Charpiat et al. 2008: coarse patch |
| place | pixel | row, and distance from the middle column, both 0..1 | the usual location prior: sky is above |
| photo | photo | mean and standard deviation of gray | exposure and contrast of the whole |

Lengths are in pixels of a photo of SIZE; features stand on a grid of STRIDE. Needs neither torch nor scikit-learn.
"""  # noqa: E501 - a table

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

SIZE = (256, 256)  # pixels; what the networks see
STRIDE = 4  # pixels between two predictions: 4,096 a photo
LEVEL_BLURS = (2.0, 8.0, 24.0)  # sigma in pixels
TEXTURE_WINDOWS = (1.5, 4.0, 12.0)  # sigma in pixels
EDGE_SCALES = (1.0, 3.0)  # sigma in pixels of the blur before the gradient
EDGE_WINDOW = 6.0  # sigma in pixels over which gradients are gathered
PATCH_RINGS = ((4.0, 12), (12.0, 40))  # (blur sigma, distance of the eight places), in pixels
_AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx)
_STEADY = 1e-5  # squared gray per pixel: below a code per pixel there is no direction
GROUPS = {
    "level": len(LEVEL_BLURS),
    "texture": len(TEXTURE_WINDOWS),
    "edges": 3 * len(EDGE_SCALES),
    "patch": len(_AROUND) * len(PATCH_RINGS),
    "place": 2,
    "photo": 2,
}
FEATURES = sum(GROUPS.values())


def local_features(gray: FloatArray) -> FloatArray:
    """Gray [H,W] in 0..1 -> features [H / STRIDE, W / STRIDE, FEATURES], in the order of GROUPS, not yet scaled."""
    maps = [
        *(_blurred(gray, sigma) for sigma in LEVEL_BLURS),
        *(_deviation(gray, sigma) for sigma in TEXTURE_WINDOWS),
        *(plane for sigma in EDGE_SCALES for plane in _edges(gray, sigma)),
        *(plane for sigma, distance in PATCH_RINGS for plane in _ring(gray, sigma, distance)),
    ]
    grid = np.stack([plane[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE] for plane in maps], axis=2)
    rows, columns = grid.shape[:2]
    row = (np.arange(rows, dtype=np.float32) + 0.5) / rows
    off_middle = np.abs((np.arange(columns, dtype=np.float32) + 0.5) / columns * 2 - 1)
    whole = np.array([gray.mean(), gray.std()], np.float32)
    place = np.stack(np.broadcast_arrays(row[:, None], off_middle[None, :]), axis=2)
    return np.concatenate([grid, place, np.broadcast_to(whole, (rows, columns, 2))], axis=2).astype(np.float32)


def _blurred(plane: FloatArray, sigma: float) -> FloatArray:
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), np.float32)


def _deviation(gray: FloatArray, sigma: float) -> FloatArray:
    variance = _blurred(gray * gray, sigma) - _blurred(gray, sigma) ** 2
    return np.asarray(np.sqrt(np.maximum(variance, 0)), np.float32)


def _edges(gray: FloatArray, sigma: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Strength of the structure tensor, and its coherence along twice the edge's angle (Foerstner and Guelch 1987)."""
    smooth = _blurred(gray, sigma)
    across, down = (np.asarray(cv2.Sobel(smooth, cv2.CV_32F, dx, 1 - dx, scale=1 / 8), np.float32) for dx in (1, 0))
    xx, yy, xy = (_blurred(plane, EDGE_WINDOW) for plane in (across * across, down * down, across * down))
    energy = xx + yy
    return np.asarray(np.sqrt(energy), np.float32), (xx - yy) / (energy + _STEADY), 2 * xy / (energy + _STEADY)


def _ring(gray: FloatArray, sigma: float, distance: int) -> list[FloatArray]:
    """Blurred gray at eight places around every pixel, less that of the pixel; the photo's edge is repeated."""
    smooth = _blurred(gray, sigma)
    height, width = gray.shape
    wide = np.pad(smooth, distance, mode="edge")
    starts = [(distance * (1 + dy), distance * (1 + dx)) for dy, dx in _AROUND]
    return [wide[top : top + height, left : left + width] - smooth for top, left in starts]
