"""Image in, image out, on top of any engine: what an application embeds."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from icf_deploy.errors import ArtefactError, UsageError, WorkError
from icf_deploy.imaging.codec import Photo, PhotoLike, read_photo
from icf_deploy.imaging.color import fy_of_pixels, gray_of_fy
from icf_deploy.imaging.merge import merge_rows
from icf_deploy.imaging.parity import original_input, original_output
from icf_deploy.imaging.resample import shrink_to_grid
from icf_deploy.imaging.strips import in_bands, strips
from icf_deploy.runtimes.cores import thread_count

if TYPE_CHECKING:
    from icf_deploy.imaging.color import ByteArray, FloatArray
    from icf_deploy.runtimes.base import Session

MAX_SATURATION = 10.0  # times the network's own chroma; every colour is at the edge of the gamut long before
KEPT_PIXELS = 8_000_000  # up to here the L of a colour photo is kept (4 bytes a pixel) instead of computed twice
_GRAY_NDIM = 4


@dataclass(frozen=True)
class BundleInfo:
    """Which bundle a colorizer came from. digest: hex SHA-256 of its manifest."""

    path: Path
    preset: str
    digest: str


class Colorizer:
    """Colours photos with one open session. Several threads may use it at once.

    The network sees the photo's CIELAB L, stretched to its own size: L is averaged over the area of each new pixel, not the
    colours, so that a colour photo and its black-and-white print give the same result. The photo keeps its own L at full
    resolution; the network's ab is upsampled bicubically; what sRGB cannot show loses chroma, not hue.

    size: (H, W) of the network's input. stride: H / h of its output. owns_session: whether `close` closes the session.
    threads: how many work on one photo before and after the engine; None is one per physical core.
    engine: name of the engine, for messages. Raises ArtefactError where the session has other shapes.
    """

    def __init__(
        self,
        session: Session,
        *,
        size: tuple[int, int],
        stride: int,
        owns_session: bool = True,
        threads: int | None = None,
        engine: str = "",
        bundle: BundleInfo | None = None,
    ) -> None:
        expected = (size[0] // stride, size[1] // stride)
        if tuple(session.size) != tuple(size) or tuple(session.output_size) != expected:
            raise ArtefactError(
                f"the engine does not fit: expected gray {size} and ab {expected}, "
                f"found {tuple(session.size)} and {tuple(session.output_size)}. Build it again for this bundle"
            )
        self.size = (int(size[0]), int(size[1]))
        self.output_size = expected
        self.stride = stride
        self.engine = engine
        self.bundle = bundle
        self._session = session
        self._owns_session = owns_session
        self._threads = thread_count(threads)
        self._idle = threading.Condition()
        self._busy = 0
        self._closed = False

    def colorize(self, photo: PhotoLike, *, parity: bool = False, saturation: float = 1.0) -> Image.Image:
        """Colour one photo; the result has its size (upright, by EXIF) and its transparency. A colour photo counts as its L.

        photo: a path, bytes of a file, an open binary file, a PIL image, or an array as `colorize_array` takes it.
        parity: do exactly what the original DDColor does before and after the network.
        saturation: factor for the chroma; 0 gives gray, 1 what the network says.
        Returns an RGB image, RGBA if the photo has transparency. Raises PhotoError for a photo that cannot be read,
        UsageError for wrong arguments, WorkError where the engine gives something that is no number.
        """
        return _image_of(*self._coloured(photo, parity, saturation))

    def colorize_array(self, photo: PhotoLike, *, parity: bool = False, saturation: float = 1.0) -> ByteArray:
        """As `colorize`, to a uint8 RGB array [H,W,3] without transparency: without the two copies that PIL needs.

        Arrays: uint8 or uint16 [H,W] gray, [H,W,3] RGB or [H,W,4] RGBA, or bool [H,W]; channels in the order R, G, B.
        """
        return self._coloured(photo, parity, saturation)[0]

    def predict_ab(self, gray: FloatArray) -> FloatArray:
        """gray: float32 [N,1,H,W] in 0..1, sRGB-encoded gray of L -> ab: float32 [N,2,h,w] in CIELAB units.

        Raises UsageError for another type, shape or range, WorkError where the engine gives something that is no number.
        """
        _require_gray(gray, self.size)
        with self._in_use():
            ab = np.asarray(self._session.run(np.ascontiguousarray(gray)), np.float32)
        expected = (gray.shape[0], 2, *self.output_size)
        if ab.shape != expected:
            raise ArtefactError(f"{self._who()} gave ab of shape {ab.shape}, expected {expected}: build it again")
        if not np.isfinite(ab).all():
            bad = 1 - np.isfinite(ab).mean()
            raise WorkError(
                f"{self._who()} gave values that are no numbers ({bad:.1%} of its ab). Choose another engine or format; "
                f"`icf-deploy check` shows which ones are right here"
            )
        return ab

    def close(self) -> None:
        """Wait for the calls of other threads to end, then free the engine. Calling it twice does nothing."""
        with self._idle:
            if self._closed:
                return
            self._closed = True
            self._idle.wait_for(lambda: self._busy == 0)
        if self._owns_session:
            self._session.close()

    def __enter__(self) -> Colorizer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Colorizer {self.engine or type(self._session).__name__} {self.size[0]}x{self.size[1]} {state}>"

    def _coloured(self, source: PhotoLike, parity: bool, saturation: float) -> tuple[ByteArray, Photo]:
        if not (isinstance(saturation, (int, float)) and math.isfinite(saturation) and 0 <= saturation <= MAX_SATURATION):
            raise UsageError(f"saturation is a number from 0 to {MAX_SATURATION:g}, found {saturation!r}")
        self._require_open()
        photo = read_photo(source)
        if parity:
            lightness, gray = original_input(photo.pixels, self.size)
            return original_output(lightness, self._ab_of(gray, saturation)), photo
        fy = _Lightness(photo, self._threads)
        gray = gray_of_fy(shrink_to_grid(fy.rows, photo.size, self.size, self._threads))
        return merge_rows(fy.rows, photo.size, self._ab_of(gray, saturation), self._threads), photo

    def _ab_of(self, gray: FloatArray, saturation: float) -> FloatArray:
        ab: FloatArray = self.predict_ab(gray[None, None])[0]
        return ab if saturation == 1 else np.multiply(ab, np.float32(saturation))

    def _who(self) -> str:
        return f"engine {self.engine}" if self.engine else "the engine"

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError("this colorizer is closed: open another one with icf_deploy.load()")

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with self._idle:
            self._require_open()
            self._busy += 1
        try:
            yield
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()


class _Lightness:
    """fy of a photo, strip by strip; kept, while that takes little memory, because it is needed twice."""

    def __init__(self, photo: Photo, threads: int) -> None:
        self._pixels = photo.pixels
        self._kept: FloatArray | None = None
        height, width = photo.size
        # For gray it is one look into a table, and no slower than reading it back from memory.
        if photo.pixels.shape[2:] and height * width <= KEPT_PIXELS:
            kept = np.empty((height, width), np.float32)

            def work(first: int, last: int) -> None:
                for top, bottom in strips(first, last, width):
                    kept[top:bottom] = fy_of_pixels(photo.pixels[top:bottom])

            in_bands(work, photo.size, threads)
            self._kept = kept

    def rows(self, top: int, bottom: int) -> FloatArray:
        """float32 [bottom - top, width]."""
        return fy_of_pixels(self._pixels[top:bottom]) if self._kept is None else self._kept[top:bottom]


def _require_gray(gray: FloatArray, size: tuple[int, int]) -> None:
    if not isinstance(gray, np.ndarray) or gray.dtype != np.float32:
        found = gray.dtype if isinstance(gray, np.ndarray) else type(gray).__name__
        raise UsageError(f"gray is a float32 array, found {found}: use gray.astype(numpy.float32)")
    if gray.ndim != _GRAY_NDIM or gray.shape[0] < 1 or gray.shape[1:] != (1, *size):
        raise UsageError(f"gray has shape [N, 1, {size[0]}, {size[1]}], found {list(gray.shape)}")
    low, high = float(gray.min()), float(gray.max())
    if not (low >= 0 and high <= 1):  # NaN is refused, too
        raise UsageError(f"gray is in 0..1, found {low:g} to {high:g}: divide 8-bit values by 255")


def _image_of(rgb: ByteArray, photo: Photo) -> Image.Image:
    """The coloured pixels as a PIL image, with the photo's transparency."""
    if photo.alpha is None:
        return Image.fromarray(rgb)
    rgba = cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA)
    cv2.insertChannel(photo.alpha, rgba, 3)
    return Image.fromarray(np.asarray(rgba, np.uint8))
