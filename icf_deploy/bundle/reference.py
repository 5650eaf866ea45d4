"""The reference set: a few gray photos and the ab that PyTorch in float32 gives for them, so that drift needs no PyTorch.

reference.npz holds two arrays and no pickle: `gray` uint8 [N,1,H,W], where float32 gray = code / 255, and `ab` float32
[N,2,h,w]. They are stored without compression, so that a small file cannot unfold into a large array.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icf_deploy.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    import zipfile

CODES = np.float32(255)  # gray is stored as 8-bit codes, so that both sides compute from the very same float32 values
CODE_TOLERANCE = 1e-3  # of one code: float32 rounding of code / 255 stays far below
NPY_VERSION = (1, 0)
NPY_MAGIC = b"\x93NUMPY\x01\x00"  # and a header length of two bytes follows
SHOWN = 100  # characters of a found header that a message repeats
STORED = 0  # zipfile.ZIP_STORED
OVERHEAD_LIMIT = 4096  # bytes of the file beside its two arrays; NumPy's own files need 780


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """gray: float32 [N,1,H,W] in 0..1, multiples of 1/255; ab: float32 [N,2,h,w] in CIELAB units; one name per photo."""

    names: tuple[str, ...]
    gray: npt.NDArray[np.float32]
    ab: npt.NDArray[np.float32]


def encode_reference(reference: ReferenceSet) -> bytes:
    """The bytes of reference.npz, the same for the same set. UsageError for a set that would not survive the round trip."""
    import zipfile

    codes = np.rint(reference.gray * CODES)
    if not np.allclose(codes, reference.gray * CODES, rtol=0, atol=CODE_TOLERANCE) or codes.min() < 0 or codes.max() > CODES:
        raise UsageError("the reference set's gray must be multiples of 1/255 in 0..1: round it before ab is computed from it")
    if not np.isfinite(reference.ab).all():
        raise UsageError("the reference set's ab holds NaN or infinity: the network gives no colour for these photos")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in (("gray", codes.astype(np.uint8)), ("ab", reference.ab.astype("<f4"))):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), version=NPY_VERSION, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())  # ZipInfo's fixed date keeps the bytes the same
    return stream.getvalue()


def decode_reference(data: bytes, names: tuple[str, ...], size: tuple[int, int], stride: int, place: str) -> ReferenceSet:
    """The set in `data`, whose shapes must be those that the manifest implies. IntegrityError, which begins with `place`."""
    import zipfile  # here and not above: opening a bundle to colour a photo does not need it

    height, width = size
    require_plausible_length(len(data), len(names), size, stride, place)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            gray = _read_array(archive, "gray", np.dtype(np.uint8), (len(names), 1, height, width))
            ab = _read_array(archive, "ab", np.dtype("<f4"), (len(names), 2, height // stride, width // stride))
    except (zipfile.BadZipFile, struct.error, KeyError, ValueError, EOFError, OSError, RuntimeError) as error:
        raise IntegrityError(f"{place} is not a reference set: {error}") from error
    if not np.isfinite(ab).all():
        raise IntegrityError(f"{place}: ab holds NaN or infinity")
    return ReferenceSet(names, gray.astype(np.float32) / CODES, ab.astype(np.float32))


def require_plausible_length(length: int, photos: int, size: tuple[int, int], stride: int, place: str) -> None:
    """IntegrityError where a reference set of `length` bytes holds more than its arrays: it isn't worth reading then."""
    height, width = size
    payload = photos * (height * width + 2 * (height // stride) * (width // stride) * np.dtype(np.float32).itemsize)
    if length > payload + OVERHEAD_LIMIT:
        raise IntegrityError(f"{place}: {photos} photos of {height}x{width} take {payload} bytes, found {length}")


def _read_array(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> npt.NDArray[np.generic]:
    """One array, whose .npy header must be exactly the one of `dtype` and `shape`. ValueError otherwise.

    NumPy's own reader evaluates the header as Python source and believes its shape; here both are known beforehand.
    """
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != STORED:
        raise ValueError(f"{name} is compressed")
    expected = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape}, }}"
    length = int(np.prod(shape)) * dtype.itemsize
    with archive.open(info) as member:
        if member.read(len(NPY_MAGIC)) != NPY_MAGIC:
            raise ValueError(f"{name} is no .npy file of version 1.0")
        header = member.read(int.from_bytes(member.read(2), "little")).decode("latin-1").rstrip()
        if header != expected:
            raise ValueError(f"{name}: expected {expected}, found {header[:SHOWN]}")
        body = member.read(length + 1)
    if len(body) != length:
        raise ValueError(f"{name}: expected {length} bytes, found {len(body)}")
    return np.frombuffer(body, dtype).reshape(shape)
