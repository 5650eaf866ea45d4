"""Photos of a folder as a yardstick needs them: the gray that a network is given, and the photo's own colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from icf_deploy.errors import PhotoError
from icf_deploy.imaging.codec import read_photo
from icf_deploy.imaging.color import fy_of_pixels, gray_of_fy, lab_of_pixels
from icf_deploy.imaging.resample import shrink_to_grid

FloatArray = npt.NDArray[np.float32]
Tell = Callable[[int, int, str], None]
"""tell(done, total, file): how far reading has come."""

# What a folder is searched for; the content decides what a file is.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"}
)
MEMORY_LIMIT = 2**30  # bytes of gray, colours and reference together: 2,000 photos at 256x256 and stride 2
FLOAT_BYTES = 4
# Mean chroma in CIELAB units below which a photo counts as gray: JPEG leaves about 0.3 in a black-and-white print that was
# saved in colour, and a foggy colour photo has 3.
GRAY_CHROMA = 1.0
NAMED = 3  # files that an error names


@dataclass(frozen=True, eq=False)
class ColourPhotos:
    """gray: float32 [N,1,H,W] in 0..1; truth: of each photo its own ab, float32 [2,h,w], None for a gray one.

    skipped: (file, reason) of what could not be read. left_out: how many more photos the folder holds than fit into memory.
    """

    names: tuple[str, ...]
    gray: FloatArray
    truth: tuple[FloatArray | None, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    left_out: int = 0

    @property
    def colourless(self) -> tuple[str, ...]:
        """Names of the photos that have no colours to compare with."""
        return tuple(name for name, ab in zip(self.names, self.truth, strict=True) if ab is None)


def read_colour_photos(
    folder: Path, size: tuple[int, int], grid: tuple[int, int], *, limit: int = MEMORY_LIMIT, tell: Tell | None = None
) -> ColourPhotos:
    """The photos in a folder and below it, by name; evenly spread over the names where not all fit into `limit` bytes.

    size: (H, W) of the network's gray, to which a photo is stretched; grid: (h, w) of its ab, onto which the photo's own ab is
    averaged by area. A file that cannot be read is skipped and named. PhotoError for a folder that is not there, or in which
    no photo can be read.
    """
    files = _files(folder)
    each = FLOAT_BYTES * (size[0] * size[1] + 2 * 2 * grid[0] * grid[1])  # gray, own ab, and the reference's
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(len(files), max(1, limit // each))).astype(int))]
    names: list[str] = []
    gray: list[FloatArray] = []
    truth: list[FloatArray | None] = []
    skipped: list[tuple[str, str]] = []
    for number, path in enumerate(chosen):
        name = path.relative_to(folder).as_posix()
        if tell is not None:
            tell(number, len(chosen), f"reading {name}")
        try:
            pixels = read_photo(path).pixels
        except PhotoError as error:
            skipped.append((name, str(error)))
            continue
        names.append(name)
        gray.append(_gray(pixels, size))
        truth.append(own_colours(pixels, grid))
    if not names:
        shown = "; ".join(reason for _, reason in skipped[:NAMED])
        raise PhotoError(f"{folder}: none of its {len(skipped)} photos can be read: {shown}")
    return ColourPhotos(tuple(names), np.stack(gray), tuple(truth), tuple(skipped), len(files) - len(chosen))


def own_colours(pixels: npt.NDArray[np.uint8], grid: tuple[int, int]) -> FloatArray | None:
    """The ab of uint8 RGB [H,W,3], averaged over the area of each value of `grid` (h, w): float32 [2,h,w].

    None for a gray photo, also one that was saved in colour.
    """
    if pixels.ndim == 2:  # noqa: PLR2004 - [H,W]
        return None
    size = (pixels.shape[0], pixels.shape[1])
    ab: FloatArray = np.stack([shrink_to_grid(_rows_of(pixels, plane), size, grid) for plane in range(2)])
    return None if float(np.hypot(*ab).mean()) < GRAY_CHROMA else ab


def _rows_of(pixels: npt.NDArray[np.uint8], plane: int) -> Callable[[int, int], FloatArray]:
    """Rows of a (plane 0) or b (plane 1), from top to bottom."""
    return lambda top, bottom: lab_of_pixels(pixels[top:bottom])[1][plane]


def _gray(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> FloatArray:
    """What `colorize` gives the network for this photo: float32 [1,H,W]."""
    source = (pixels.shape[0], pixels.shape[1])
    return gray_of_fy(shrink_to_grid(lambda top, bottom: fy_of_pixels(pixels[top:bottom]), source, size))[None]


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise PhotoError(f"{folder} is no folder: --photos takes a folder with photos in it")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise PhotoError(
            f"{folder} holds no photo (looked for {', '.join(sorted(SUFFIXES))}): name another folder with --photos"
        )
    return found
