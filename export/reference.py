"""The reference set: packaged gray photos, and the ab that PyTorch in float32 gives for them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

import icf_deploy.data
from icf_deploy.bundle.reference import ReferenceSet
from icf_deploy.network.network import ColorizationNetwork

PHOTO_FOLDER = Path(str(icf_deploy.data.__file__)).parent / "photos"
GRAY_CODES = np.float32(255)


def reference_photos() -> dict[str, npt.NDArray[np.uint8]]:
    """The packaged photos by name: 8-bit sRGB gray of their CIELAB L, [H,W]. Licences: data/photos/ATTRIBUTION.md."""
    photos = {}
    for path in sorted(PHOTO_FOLDER.glob("*.jpg")):
        gray = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
        assert gray is not None, path
        photos[path.stem] = np.asarray(gray, np.uint8)
    return photos


def reference_gray(size: tuple[int, int]) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """Names, and gray float32 [N,1,H,W] in multiples of 1/255: the photos stretched to `size` (H, W)."""
    height, width = size
    photos = reference_photos()
    stack = []
    for gray in photos.values():
        shrinks = gray.shape[0] >= height and gray.shape[1] >= width
        stack.append(cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
    return tuple(photos), np.stack(stack)[:, None].astype(np.float32) / GRAY_CODES


def reference_set(network: ColorizationNetwork, size: tuple[int, int]) -> ReferenceSet:
    """What `network` gives for the packaged photos at `size`, in eager float32, one photo at a time."""
    names, gray = reference_gray(size)
    with torch.inference_mode():
        ab = [network(torch.from_numpy(photo[None])).numpy() for photo in gray]
    return ReferenceSet(names, gray, np.concatenate(ab).astype(np.float32))
