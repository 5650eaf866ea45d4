"""Photos in, photos out: files, bytes, PIL images and arrays to 8-bit pixels, and 8-bit pixels to files.

Colour is taken as sRGB, arrays are in the order R, G, B. What is richer than that is reduced here: 16 bits and floats are
scaled to 8 bits (colour above 8 bits by Pillow, which keeps the high byte), CMYK goes through Pillow's plain conversion, ICC
profiles are not applied, and of an animation the first picture counts.
"""

from __future__ import annotations

import importlib
import os
import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from icf_deploy.errors import PhotoError, UsageError

ByteArray = npt.NDArray[np.uint8]
PhotoLike: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[np.generic]

MAX_PIXELS = 300_000_000  # 300 megapixels: above any camera of today; as RGB in Pillow 1.2 GB
ORIENTATION_TAG = 0x0112  # EXIF 2.32, 4.6.4
_UPRIGHT = {  # EXIF orientation -> what brings the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Only plain decoders: Pillow's EPS reader, for one, starts another program, and a photo must not be able to ask for that.
_FORMATS = {
    "JPEG": ("PIL.JpegImagePlugin", (b"\xff\xd8\xff",)),
    "PNG": ("PIL.PngImagePlugin", (b"\x89PNG",)),
    "TIFF": ("PIL.TiffImagePlugin", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    "WEBP": ("PIL.WebPImagePlugin", (b"RIFF",)),
    "GIF": ("PIL.GifImagePlugin", (b"GIF8",)),
    "BMP": ("PIL.BmpImagePlugin", (b"BM",)),
    "PPM": ("PIL.PpmImagePlugin", (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"Py")),
    "JPEG2000": ("PIL.Jpeg2KImagePlugin", (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
}
_HEAD_BYTES = 16
_BLOCK_PIXELS = 1 << 20  # pixels that Pillow converts at once
_BYTE_MAX = 255
_WORD_MAX = 65535
_WORD_PER_BYTE = 257  # 65535 / 255
_PLANES, _GRAY_ALPHA, _RGB, _RGBA = 2, 2, 3, 4
_opening = threading.Lock()


@dataclass(frozen=True)
class Photo:
    """A photo, upright. pixels: uint8 gray [H,W] or RGB [H,W,3]. alpha: uint8 [H,W] or None. name: for messages."""

    pixels: ByteArray
    alpha: ByteArray | None = None
    name: str = "photo"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def read_photo(source: PhotoLike) -> Photo:
    """Read a photo: a path, the bytes of a file, an open binary file, a PIL image or an array.

    Arrays: uint8 or uint16 [H,W] gray, [H,W,3] RGB, [H,W,4] RGBA, or bool [H,W]. The EXIF orientation is applied (not to
    arrays, which have none). Raises PhotoError, in one line that names the photo, for anything that is not a readable photo,
    and UsageError for an argument that could not be one.
    """
    if isinstance(source, np.ndarray):
        return _photo_of_array(source, "the array")
    if isinstance(source, Image.Image):
        name = os.fspath(getattr(source, "filename", "")) or "the image"
        return _decoded(source, str(name))
    if isinstance(source, bytes):
        return _photo_of_stream(BytesIO(source), f"photo of {len(source)} bytes")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            raise PhotoError(f"{path} is a folder: name the photos in it, e.g. {path / '*.jpg'}")
        try:
            with path.open("rb") as stream:
                return _photo_of_stream(stream, str(path))
        except FileNotFoundError:
            raise PhotoError(f"{path}: there is no such file") from None
        except (OSError, ValueError) as error:
            raise PhotoError(f"{path} cannot be read: {_reason(error)}") from error
    if hasattr(source, "read"):
        given = getattr(source, "name", None)
        return _photo_of_stream(source, given if isinstance(given, str) else "the open file")
    raise UsageError(
        f"a photo is a path, bytes, an open binary file, a PIL image or a NumPy array, not {type(source).__name__}"
    )


def _photo_of_stream(stream: BinaryIO, name: str) -> Photo:
    """Decode an open file; its formats are told apart by its first bytes, never by its name."""
    try:
        seekable = stream.seekable()
    except AttributeError:
        seekable = False
    if not seekable:
        stream = BytesIO(stream.read())
    stream.seek(0)
    head = stream.read(_HEAD_BYTES)
    if isinstance(head, str):
        raise UsageError(f'{name} was opened as text: open it with mode "rb"')
    if not head:
        raise PhotoError(f"{name} is empty (0 bytes)")
    stream.seek(0)
    known = next((key for key, (_, marks) in _FORMATS.items() if head.startswith(marks)), None)
    if known is None:
        found = "HEIC or AVIF: convert it first" if head[4:8] == b"ftyp" else f"one that begins with {head[:8]!r}"
        raise PhotoError(f"{name} is not a photo: expected a {', '.join(_FORMATS)} file, found {found}")
    importlib.import_module(_FORMATS[known][0])
    try:
        # Pillow warns above 89 megapixels and refuses above 179, by a limit of the whole process; ours is checked below.
        with _opening:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(stream, formats=[known])
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except Exception as error:
        raise PhotoError(f"{name} is not a {known} file that can be read: {_reason(error)}") from error
    with image:
        return _decoded(image, name)


def _decoded(image: Image.Image, name: str) -> Photo:
    """The pixels of a PIL image, once they are decoded, upright, and in 8 bits."""
    width, height = image.size
    _require_size(height, width, name)
    try:
        image.load()
        upright = _UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
        if upright is not None:
            image = image.transpose(upright)
        return _pixels_of_image(image, name)
    except (PhotoError, MemoryError):
        raise
    except Exception as error:  # hostile bytes make decoders raise anything: SyntaxError, struct.error, IndexError, ...
        raise PhotoError(f"{name} is damaged: {_reason(error)}") from error


def _pixels_of_image(image: Image.Image, name: str) -> Photo:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Photo(_bytes_of_deep(np.asarray(image), name), _alpha_of_key(image), name)
    if image.mode == "LAB":  # L is all that counts, and it is there already
        from icf_deploy.imaging.color import gray_of_l

        table = np.rint(gray_of_l(np.linspace(0, 100, _BYTE_MAX + 1, dtype=np.float32)) * _BYTE_MAX).astype(np.uint8)
        return Photo(table[_array_of(image.getchannel(0), "L")], None, name)
    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        both = _array_of(image, "LA" if gray else "RGBA")
        alpha = np.ascontiguousarray(both[..., -1])
        colours = np.ascontiguousarray(both[..., 0]) if gray else np.asarray(cv2.cvtColor(both, cv2.COLOR_RGBA2RGB), np.uint8)
        return Photo(colours, alpha, name)
    return Photo(_array_of(image, "L" if gray else "RGB"), None, name)


def _array_of(image: Image.Image, mode: str) -> ByteArray:
    """The image in `mode` as uint8 [H,W] or [H,W,C], in a quarter of the time that np.asarray takes.

    It goes block by block: Pillow converts and copies whole images, and makes two copies of them as bytes.
    """
    width, height = image.size
    channels = len(Image.new(mode, (1, 1)).getbands())
    array = np.empty((height, width) if channels == 1 else (height, width, channels), np.uint8)
    rows = max(1, _BLOCK_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        block = image if rows >= height else image.crop((0, top, width, bottom))
        block = block if block.mode == mode else block.convert(mode)
        array[top:bottom] = np.frombuffer(block.tobytes(), np.uint8).reshape(array[top:bottom].shape)
    return array


def _alpha_of_key(image: Image.Image) -> ByteArray | None:
    """A deep PNG may name one gray value that is transparent."""
    key = image.info.get("transparency")
    return None if not isinstance(key, int) else np.where(np.asarray(image) == key, 0, _BYTE_MAX).astype(np.uint8)


def _bytes_of_deep(values: npt.NDArray[np.generic], name: str) -> ByteArray:
    """Gray of more than 8 bits -> uint8. Integers are 0..65535, as Pillow reads every format; floats 0..1 or 0..255."""
    low, high = float(values.min()), float(values.max())  # NaN goes through both
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= _BYTE_MAX):
            raise PhotoError(f"{name} holds floats from {low:g} to {high:g}: expected 0 to 1, or 0 to 255")
        scale = _BYTE_MAX if high <= 1 else 1
        scaled: ByteArray = np.rint(values.astype(np.float32) * np.float32(scale)).astype(np.uint8)
        return scaled
    if low < 0 or high > _WORD_MAX:
        raise PhotoError(f"{name} holds integers from {low:.0f} to {high:.0f}: expected 0 to {_WORD_MAX}")
    table: ByteArray = ((np.arange(_WORD_MAX + 1) + _WORD_PER_BYTE // 2) // _WORD_PER_BYTE).astype(np.uint8)
    return table.take(values.astype(np.uint16))


def _photo_of_array(array: npt.NDArray[np.generic], name: str) -> Photo:
    deep = array.dtype.kind == "u" and array.dtype.itemsize == 2  # noqa: PLR2004 - uint16, of either byte order
    flat = array.ndim == _PLANES
    if not (flat or (array.ndim == _PLANES + 1 and array.shape[2] in (_RGB, _RGBA))) or not (
        array.dtype == np.uint8 or deep or (array.dtype == np.bool_ and flat)
    ):
        raise UsageError(
            f"a photo is uint8 or uint16 [H,W], [H,W,3] RGB or [H,W,4] RGBA, or bool [H,W]; "
            f"found {array.dtype} {list(array.shape)}"
        )
    _require_size(array.shape[0], array.shape[1], name)
    if deep:
        array = _bytes_of_deep(array, name)
    elif array.dtype == np.bool_:
        array = array * np.uint8(_BYTE_MAX)
    if flat:
        return Photo(np.ascontiguousarray(array, np.uint8), None, name)
    alpha = np.ascontiguousarray(array[..., _RGB], np.uint8) if array.shape[2] == _RGBA else None
    return Photo(np.ascontiguousarray(array[..., :_RGB], np.uint8), alpha, name)


def _require_size(height: int, width: int, name: str) -> None:
    if height * width == 0:
        raise PhotoError(f"{name} has no pixels: it is {width} x {height}")
    if height * width > MAX_PIXELS:
        raise PhotoError(
            f"{name} has {height * width / 1e6:.0f} megapixels ({width} x {height}); at most {MAX_PIXELS / 1e6:.0f} are read. "
            f"Scale it down first"
        )


def _reason(error: Exception) -> str:
    """One line that says what went wrong."""
    if isinstance(error, UnidentifiedImageError):
        return "its header is damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]
