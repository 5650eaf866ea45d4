"""Colour photos for training: found, decoded once, kept in memory, and split by source.

Rules: folders are walked recursively in sorted order; a photo is kept as uint8 RGB with its shorter side at most
CACHE_SHORT_SIDE; what cannot be decoded is skipped and named; what has hardly any colour is left out, since it would
teach the network to add none. Validation photos come from sources of their own: photos of one source look alike, and
a score on a training photo's sibling says nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from icf_deploy.errors import UsageError, WorkError

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
CACHE_SHORT_SIDE = 320  # pixels; 2,673 photos are 0.9 GB of RGB at this size
SMALLEST_SIDE = 32  # pixels; less is an icon, not a photo
LEAST_MEAN_CHROMA = 3.0  # CIELAB; below it a photo is gray or toned
CHROMA_MAP_SIDE = 16  # cells; enough to tell the colourful part of a photo from the rest
HOLDOUT_SHARE = (0.05, 0.08)  # of the photos, least and most, when no source is named
MOST_NAMES = 10  # of photos in a notice
_NUMBER = re.compile(r"_\d+$")

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Photo:
    """A decoded photo: uint8 RGB [H,W,3], its source, and its mean chroma in CHROMA_MAP_SIDE x CHROMA_MAP_SIDE cells."""

    name: str
    source: str
    rgb: Pixels
    chroma_map: npt.NDArray[np.float32]


@dataclass(frozen=True)
class PhotoSet:
    """What was found: usable photos, and by name the ones that could not be read or have no colour."""

    photos: tuple[Photo, ...]
    unreadable: tuple[str, ...] = ()
    colourless: tuple[str, ...] = ()
    teacher: str | None = None  # the checkpoints whose colours the photos have, by preset and SHA-256; None: their own

    def digest(self) -> str:
        """SHA-256 over names and pixels: two runs with the same digest saw the same photos."""
        digest = hashlib.sha256()
        for photo in self.photos:
            digest.update(f"{photo.name} {photo.rgb.shape}".encode())
            digest.update(photo.rgb.data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """Training and validation photos, the held-out sources, and a notice where sources had to be shared."""

    train: tuple[Photo, ...]
    validation: tuple[Photo, ...]
    holdout: tuple[str, ...]
    notice: str | None = None


def find_photos(folders: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return (name, path) of every photo file under `folders`, sorted; raise WorkError for a folder without any."""
    found: dict[Path, str] = {}
    for folder in folders:
        if not folder.is_dir():
            raise WorkError(f"{folder}: expected a folder of photos, found {'a file' if folder.exists() else 'nothing'}")
        paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file()]
        if not paths:
            raise WorkError(
                f"{folder}: no photos in it (looked for {', '.join(sorted(PHOTO_SUFFIXES))}); name another --photos"
            )
        for path in paths:
            found.setdefault(path, path.relative_to(folder).as_posix())
    return [(name, path) for path, name in found.items()]


def source_of(name: str) -> str:
    """Return the source of a photo: its name without suffix and without a trailing _NNNN; subfolders count as part of it."""
    return _NUMBER.sub("", Path(name).with_suffix("").as_posix())


def load_photos(
    folders: Sequence[Path], *, gray_too: bool = False, progress: Callable[[int, int], None] | None = None
) -> PhotoSet:
    """Decode every photo under `folders` once; progress(done, total) is called after each. gray_too: keep those without colour.

    Raises WorkError when there is no usable photo.
    """
    files = find_photos(folders)
    photos, unreadable, colourless = [], [], []
    for done, (name, path) in enumerate(files, start=1):
        rgb = _decode(path)
        if rgb is None:
            unreadable.append(name)
        else:
            photo = Photo(name, source_of(name), rgb, _chroma_map(rgb))
            if not gray_too and float(photo.chroma_map.mean()) < LEAST_MEAN_CHROMA:
                colourless.append(name)
            else:
                photos.append(photo)
        if progress:
            progress(done, len(files))
    if not photos:
        raise WorkError(
            f"{', '.join(map(str, folders))}: none of {len(files)} files is a colour photo "
            f"({len(unreadable)} unreadable, {len(colourless)} without colour); name another --photos"
        )
    return PhotoSet(tuple(photos), tuple(unreadable), tuple(colourless))


def split_by_source(photos: Sequence[Photo], holdout: Iterable[str] = ()) -> Split:
    """Hold out whole sources: those that match `holdout` (names or patterns), else 5 to 8 % of the photos.

    The choice without names depends on the source names alone. Where no choice of sources fits (all photos of one source,
    say), photos are held out by their file name's hash and the notice says so.
    """
    wanted = tuple(holdout)
    counts = Counter(photo.source for photo in photos)
    chosen = _matching(wanted, counts) if wanted else _default_sources(counts)
    if not chosen:
        return _split_by_name(photos)
    train = tuple(photo for photo in photos if photo.source not in chosen)
    if not train:
        raise UsageError(f"--holdout {' '.join(wanted)} leaves no photo to train on")
    return Split(train, tuple(photo for photo in photos if photo.source in chosen), tuple(sorted(chosen)))


def recoloured(photo: Photo, rgb: Pixels) -> Photo:
    """Return the photo with other colours, uint8 RGB of the same size."""
    return Photo(photo.name, photo.source, rgb, _chroma_map(rgb))


def left_out(found: PhotoSet) -> list[str]:
    """Say in a line each how many photos could not be read or have no colour, and which."""
    lines = []
    for names, one, many in (
        (found.unreadable, "could not be read and is left out", "could not be read and are left out"),
        (found.colourless, "has no colour and is left out", "have no colour and are left out"),
    ):
        if names:
            more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            what = f"1 photo {one}" if len(names) == 1 else f"{len(names)} photos {many}"
            lines.append(f"{what}: {', '.join(names[:MOST_NAMES])}{more}")
    return lines


def spread(photos: Sequence[Photo], most: int) -> tuple[Photo, ...]:
    """Return at most `most` photos, evenly spread over the sequence."""
    if len(photos) <= most:
        return tuple(photos)
    return tuple(photos[i] for i in np.linspace(0, len(photos) - 1, most).round().astype(int))


def _decode(path: Path) -> Pixels | None:
    try:
        encoded = np.fromfile(path, dtype=np.uint8)
        bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except (OSError, cv2.error):
        return None
    if bgr is None or min(bgr.shape[:2]) < SMALLEST_SIDE:
        return None
    height, width = bgr.shape[:2]
    scale = CACHE_SHORT_SIDE / min(height, width)
    if scale < 1:
        bgr = cv2.resize(bgr, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(bgr[:, :, ::-1])


def _chroma_map(rgb: Pixels) -> npt.NDArray[np.float32]:
    """Chroma of area-averaged cells; OpenCV's Lab is exact enough to choose crops by (not to train on)."""
    small = cv2.resize(rgb, (4 * CHROMA_MAP_SIDE, 4 * CHROMA_MAP_SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    return np.asarray(cv2.resize(chroma, (CHROMA_MAP_SIDE, CHROMA_MAP_SIDE), interpolation=cv2.INTER_AREA), np.float32)


def _matching(wanted: tuple[str, ...], counts: Counter[str]) -> set[str]:
    chosen: set[str] = set()
    for pattern in wanted:
        matched = {source for source in counts if fnmatchcase(source, pattern)}
        if not matched:
            listing = ", ".join(f"{source} ({n})" for source, n in counts.most_common(20))
            raise UsageError(f"--holdout {pattern}: no such source; the photos have {listing}")
        chosen |= matched
    return chosen


def _hash_order(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _default_sources(counts: Counter[str]) -> set[str]:
    total = sum(counts.values())
    least, most = (share * total for share in HOLDOUT_SHARE)
    chosen: set[str] = set()
    held = 0
    for source in sorted(counts, key=_hash_order):
        if held < least and held + counts[source] <= most:
            chosen.add(source)
            held += counts[source]
    return chosen


def _split_by_name(photos: Sequence[Photo]) -> Split:
    if len(photos) < 2:  # noqa: PLR2004
        raise WorkError("one photo is not enough: training needs at least one photo and validation another")
    ranked = sorted(photos, key=lambda photo: _hash_order(photo.name))
    held = max(1, round(HOLDOUT_SHARE[0] * len(photos)))
    names = {photo.name for photo in ranked[:held]}
    sources = len({photo.source for photo in photos})
    notice = (
        f"{sources} source(s) in {len(photos)} photos: none can be held out as a whole, so {held} of them are held out by "
        "file name; validation shares sources with training and will look too good"
    )
    train = tuple(photo for photo in photos if photo.name not in names)
    return Split(train, tuple(photo for photo in photos if photo.name in names), (), notice)
