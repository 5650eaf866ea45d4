"""Writing a photo: complete or not at all, in the format that the name asks for, without throwing colour away."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from icf_deploy.errors import UsageError, WorkError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

JPEG_QUALITY = 95  # of 100; Pillow's advice is not to go higher
_BEHIND = (255, 255, 255)  # what shows through where a format has no transparency


@dataclass(frozen=True)
class Format:
    """One way to write a photo. name: Pillow's. max_side: pixels. alpha: whether it can be transparent."""

    name: str
    options: Mapping[str, Any]
    max_side: int
    alpha: bool = True


_PNG = Format("PNG", {"compress_level": 1}, 2**31 - 1)  # level 6 takes 4 times as long for 1 % less
# 4:4:4: the usual 4:2:0 keeps one colour per 4 pixels, and colours are what this program is for.
_JPEG = Format("JPEG", {"quality": JPEG_QUALITY, "subsampling": 0}, 65_500, alpha=False)
# Lossless, because lossy WebP is always 4:2:0; method 0 is faster than PNG, and its files are smaller.
_WEBP = Format("WEBP", {"lossless": True, "method": 0, "quality": 20}, 16_383)
_TIFF = Format("TIFF", {}, 2**31 - 1)  # uncompressed: every program reads it
FORMATS: Mapping[str, Format] = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".tif": _TIFF,
    ".tiff": _TIFF,
}


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Format:
    """What `write_photo` would refuse about `path`, before any work is done.

    Returns its format. Raises UsageError for a suffix that names none, WorkError where the file exists and `overwrite` is
    False, where `path` is a folder, and where its folder does not exist.
    """
    target = Path(path)
    chosen = FORMATS.get(target.suffix.lower())
    if chosen is None:
        found = f"found {target.suffix!r}" if target.suffix else "found no suffix"
        raise UsageError(f"{target}: the suffix says the format, one of {', '.join(FORMATS)}; {found}")
    if target.is_dir():
        raise WorkError(f"{target} is a folder: name a file to write")
    if not target.parent.is_dir():
        raise WorkError(f"{target} cannot be written: there is no folder {target.parent}")
    if not overwrite and os.path.lexists(target):
        raise WorkError(f"{target} exists: choose another name, or give --overwrite to replace it")
    return chosen


def write_photo(picture: Image.Image | npt.NDArray[np.uint8], path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a PIL image or a uint8 array ([H,W], [H,W,3] RGB, [H,W,4] RGBA); the suffix of `path` says the format.

    JPEG is written with quality 95 and full colour resolution, WebP lossless. JPEG has no transparency: what is transparent
    becomes white. The file appears complete, or not at all. Raises as `check_output`, and WorkError where the disk refuses.
    """
    chosen = check_output(path, overwrite=overwrite)
    target = Path(path)
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if max(image.size) > chosen.max_side:
        raise WorkError(
            f"{target}: a {chosen.name} file has at most {chosen.max_side} pixels a side, this photo is "
            f"{image.width} x {image.height}. Write it as .png"
        )
    if image.has_transparency_data and not chosen.alpha:
        image = _on_white(image)
    unfinished = target.with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        with unfinished.open("xb") as stream:
            image.save(stream, chosen.name, **chosen.options)
        check_output(target, overwrite=overwrite)  # another process may have written it meanwhile
        unfinished.replace(target)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise WorkError(f"{target} cannot be written: {reason}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _on_white(image: Image.Image) -> Image.Image:
    whole = image.convert("RGBA")
    behind = Image.new("RGBA", whole.size, (*_BEHIND, 255))
    return Image.alpha_composite(behind, whole).convert("RGB")
