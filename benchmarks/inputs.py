"""What is fed to an engine: real photos in every scope. Zeros or noise would hide denormals and change power and caches."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from icf_deploy.errors import PhotoError, UsageError

if TYPE_CHECKING:
    from icf_deploy.benchmarks.candidate import Scope
    from icf_deploy.benchmarks.remote import Inputs
    from icf_deploy.benchmarks.wire import Array
    from icf_deploy.imaging.codec import PhotoLike
    from icf_deploy.runtimes.base import FloatArray

PHOTO_SIDE = 1024  # pixels; the photo of the scopes `image` and `file` has one megapixel
JPEG_QUALITY = 95
GRAY_RANK = 4  # [N,1,H,W]
MOST_PHOTOS = 32  # of a folder; every worker process holds them in memory


def reference_gray(bundle: Path | None = None) -> FloatArray:
    """The gray photos of a bundle's reference set, float32 [N,1,H,W] in 0..1; None is the shipped bundle."""
    from icf_deploy.bundle.opening import open_bundle

    return open_bundle(bundle).reference().gray


def read_gray(path: Path) -> FloatArray:
    """Gray photos from a .npy file, or from `gray` (else the first array) in a .npz: float32 [N,1,H,W] in 0..1.

    [H,W] and [N,H,W] are taken too; uint8 is divided by 255. Raises UsageError for anything else.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        array = loaded if isinstance(loaded, np.ndarray) else loaded["gray" if "gray" in loaded.files else loaded.files[0]]
    except (OSError, ValueError, IndexError) as error:
        raise UsageError(f"{path}: expected a .npy or .npz file with gray photos [N,1,H,W]; {error}") from error
    if array.ndim in (2, 3):
        array = array.reshape(-1, 1, *array.shape[-2:])
    if array.ndim != GRAY_RANK or array.shape[1] != 1 or min(array.shape) < 1:
        raise UsageError(f"{path}: expected gray photos [N,1,H,W], found {array.dtype} {list(array.shape)}")
    gray = (array / np.float32(255) if array.dtype == np.uint8 else array).astype(np.float32)
    if not (gray.min() >= 0 and gray.max() <= 1):
        raise UsageError(f"{path}: expected gray values in 0..1, found {gray.min():g} .. {gray.max():g}")
    return gray


def resized(gray: FloatArray, size: tuple[int, int]) -> FloatArray:
    """gray: float32 [N,1,H,W] in 0..1, at another size (H, W): averaged down, bicubic up, kept in 0..1."""
    if gray.shape[2:] == size:
        return gray
    smaller = size[0] * size[1] < gray.shape[2] * gray.shape[3]
    way = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    pictures = [cv2.resize(picture[0], (size[1], size[0]), interpolation=way) for picture in gray]
    return cast("FloatArray", np.clip(np.stack(pictures)[:, None], 0, 1).astype(np.float32))


def inputs_of(scope: Scope, gray: FloatArray, *, batch: int = 1, photos: Sequence[PhotoLike] | None = None) -> Inputs:
    """The inputs of a scope, made from `photos`, or where there are none from gray photos float32 [N,1,H,W].

    engine: batches float32 [batch,1,H,W]. image: uint8 pixels [H,W] or [H,W,3] of the photos, or gray at one megapixel.
    file: encoded photos as uint8 [bytes]: files as they are, everything else as JPEG. Raises PhotoError for a photo that
    cannot be read.
    """
    if scope == "engine":
        if photos is None:
            return lambda size: _batches(resized(gray, size), batch)
        pixels = [_pixels(photo) for photo in photos]
        return lambda size: _batches(np.stack([_gray_of(picture, size) for picture in pixels])[:, None], batch)
    if photos is None:
        pictures = _one_megapixel(gray)
        encoded = [_jpeg(picture) for picture in pictures] if scope == "file" else pictures
    else:
        encoded = [_encoded(photo) if scope == "file" else _pixels(photo) for photo in photos]
    return lambda _: encoded


def photos_in(folder: Path) -> list[Path]:
    """The first MOST_PHOTOS files of a folder that can be read as photos, by name. Raises PhotoError where there is none."""
    from icf_deploy.imaging.codec import read_photo

    found: list[Path] = []
    if not folder.is_dir():
        raise PhotoError(f"{folder} is no folder: --photos takes a folder with photos in it")
    for path in sorted(folder.iterdir()):
        if len(found) == MOST_PHOTOS:
            break
        if path.is_file() and not path.name.startswith("."):
            try:
                read_photo(path)
            except PhotoError:  # a folder may hold other things, too
                continue
            found.append(path)
    if not found:
        raise PhotoError(f"{folder} holds no photo that can be read")
    return found


def _pixels(photo: PhotoLike) -> Array:
    from icf_deploy.imaging.codec import read_photo

    return read_photo(photo).pixels


def _gray_of(pixels: Array, size: tuple[int, int]) -> FloatArray:
    """What the network sees of a photo, float32 [H,W] in 0..1: as `Colorizer` makes it."""
    from icf_deploy.imaging.color import fy_of_pixels, gray_of_fy
    from icf_deploy.imaging.resample import shrink_to_grid

    height, width = pixels.shape[:2]
    return gray_of_fy(shrink_to_grid(lambda top, bottom: fy_of_pixels(pixels[top:bottom]), (height, width), size, 1))


def _encoded(photo: PhotoLike) -> Array:
    """The bytes of a file, or a JPEG of what is none."""
    if isinstance(photo, bytes):
        return np.frombuffer(photo, np.uint8)
    return np.fromfile(photo, np.uint8) if isinstance(photo, str | os.PathLike) else _jpeg(_pixels(photo))


def _batches(gray: FloatArray, batch: int) -> list[Array]:
    """Every photo comes in turn; the last batch is filled up from the first photos."""
    count = math.ceil(len(gray) / batch) * batch
    order = np.arange(count) % len(gray)
    return [gray[order[start : start + batch]] for start in range(0, count, batch)]


def _one_megapixel(gray: FloatArray) -> list[Array]:
    return [np.rint(picture[0] * 255).astype(np.uint8) for picture in resized(gray, (PHOTO_SIDE, PHOTO_SIDE))]


def _jpeg(picture: Array) -> Array:
    """uint8 gray [H,W] or RGB [H,W,3] -> its JPEG file as uint8 [bytes]."""
    ordered = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)  # noqa: PLR2004 - [H,W]
    _, encoded = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return cast("Array", encoded).reshape(-1)
