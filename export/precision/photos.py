"""The photos that a network is calibrated on: a folder of the user's, or the gray ones in the package. Never random numbers.

Each counts twice: as it is, and out of focus. In a smooth sky or wall all pixels are rounded alike, nothing averages out, and
int8 drifts several times as far as in texture; a handful of photos has too little of that to choose ranges and formats by.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from icf_deploy.errors import PhotoError, WorkError
from icf_deploy.export.reference import reference_gray
from icf_deploy.imaging.codec import read_photo
from icf_deploy.imaging.color import fy_of_pixels, gray_of_fy
from icf_deploy.imaging.resample import shrink_to_grid

FloatArray = npt.NDArray[np.float32]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
FEWEST = 4  # photos; the ranges of fewer are those of their motifs
MOST = 128  # photos; 64 MB of gray at 256x256 with both views, and ranges hardly move from some tens on
FOCUS = 64  # the longer side over the standard deviation of the blur: 4 pixels at 256
NAMED = 3  # how many files an error names
PREPROCESSING = (
    "gray of CIELAB L, area average to the graph's size, float32 0..1; both views; 1"  # its number moves with the code
)


@dataclass(frozen=True)
class CalibrationPhotos:
    """gray: float32 [N,1,H,W] in 0..1, with every photo's second view. skipped: (file, reason) of what could not be read.

    names: of the views. source: in words.
    """

    names: tuple[str, ...]
    gray: FloatArray
    source: str
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the pixels and of how they were prepared."""
        return hashlib.sha256(PREPROCESSING.encode() + str(self.gray.shape).encode() + self.gray.tobytes()).hexdigest()


def packaged_photos(size: tuple[int, int]) -> CalibrationPhotos:
    """The photos that come with icf-deploy, stretched to `size` (H, W). Licences: data/photos/ATTRIBUTION.md."""
    names, gray = reference_gray(size)
    return CalibrationPhotos(*_with_views(list(names), gray), "the packaged photos")


def require_folder(folder: Path) -> None:
    """Raise the WorkError of `photos_of` before any work: reads as many photos as are needed, and no more."""
    found, skipped = 0, []
    for path in _chosen(folder):
        try:
            read_photo(path)
            found += 1
        except (PhotoError, OSError) as error:
            skipped.append((path.name, str(error)))
        if found == FEWEST:
            return
    raise _too_few(folder, found, skipped)


def photos_of(folder: Path, size: tuple[int, int]) -> CalibrationPhotos:
    """The photos in a folder and below it, at most MOST of them evenly spread over their sorted names.

    A file that is no photo is skipped and named. WorkError for a folder that is not there, or has fewer than FEWEST photos.
    """
    names, stack, skipped = [], [], []
    for path in _chosen(folder):
        try:
            stack.append(_gray(path, size))
            names.append(path.name)
        except (PhotoError, OSError) as error:
            skipped.append((path.name, str(error)))
    if len(stack) < FEWEST:
        raise _too_few(folder, len(stack), skipped)
    return CalibrationPhotos(*_with_views(names, np.stack(stack)), folder.name, tuple(skipped))


def _chosen(folder: Path) -> list[Path]:
    """At most MOST files of a folder that look like photos, evenly spread over their sorted names. WorkError for none."""
    if not folder.is_dir():
        raise WorkError(f"{folder}: there is no such folder of photos to calibrate on")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise WorkError(
            f"{folder}: no photos to calibrate on (looked for {', '.join(SUFFIXES)}); leave --photos out for the packaged ones"
        )
    return [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(MOST, len(files))).round().astype(int))]


def _too_few(folder: Path, found: int, skipped: list[tuple[str, str]]) -> WorkError:
    unread = f"; {len(skipped)} could not be read: {', '.join(name for name, _ in skipped[:NAMED])}" if skipped else ""
    return WorkError(
        f"{folder}: calibration needs at least {FEWEST} photos, found {found}{unread}. Add photos, or leave --photos "
        "out for the packaged ones"
    )


def _with_views(names: list[str], gray: FloatArray) -> tuple[tuple[str, ...], FloatArray]:
    """Every photo, then every photo out of focus."""
    sigma = max(gray.shape[2:]) / FOCUS
    smooth = np.stack([cv2.GaussianBlur(photo[0], (0, 0), sigma)[None] for photo in gray])
    return (*names, *(f"{name}, out of focus" for name in names)), np.concatenate([gray, smooth]).astype(np.float32)


def _gray(path: Path, size: tuple[int, int]) -> FloatArray:
    """What `colorize` gives the network for this photo: float32 [1,H,W]."""
    photo = read_photo(path)
    fy = fy_of_pixels(photo.pixels)
    return np.asarray(gray_of_fy(shrink_to_grid(lambda top, bottom: fy[top:bottom], photo.size, size, 1)), np.float32)[None]
