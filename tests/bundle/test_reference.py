from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from icf_deploy.bundle.reference import ReferenceSet, decode_reference, encode_reference
from icf_deploy.errors import IntegrityError

NAMES = ("a", "b")
SIZE, STRIDE = (64, 96), 4
GRAY = np.arange(2 * 64 * 96, dtype=np.uint8).reshape(2, 1, 64, 96)
AB = np.linspace(-100, 100, 2 * 2 * 16 * 24, dtype=np.float32).reshape(2, 2, 16, 24)


def decode(data: bytes) -> ReferenceSet:
    return decode_reference(data, NAMES, SIZE, STRIDE, "edge.icf: reference.npz")


def npz(save: Callable[..., None] = np.savez, **arrays: npt.NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def test_every_8_bit_gray_comes_back_as_the_very_same_float32() -> None:
    gray = GRAY.astype(np.float32) / np.float32(255)
    read = decode(encode_reference(ReferenceSet(NAMES, gray, AB)))
    assert read.gray.dtype == np.float32
    assert read.gray.tobytes() == gray.tobytes()
    assert read.ab.tobytes() == AB.tobytes()


def test_the_file_is_a_plain_npz_that_numpy_reads_without_pickle() -> None:
    data = encode_reference(ReferenceSet(NAMES, GRAY.astype(np.float32) / np.float32(255), AB))
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["ab", "gray"]
        np.testing.assert_array_equal(arrays["gray"], GRAY)
        np.testing.assert_array_equal(arrays["ab"], AB)


def test_a_file_that_numpy_wrote_is_read_too() -> None:
    np.testing.assert_array_equal(decode(npz(gray=GRAY, ab=AB)).ab, AB)


class Explosive:
    """Unpickling it would call print."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("boom",)


def _with_member(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def _npy(header: str, body: bytes = b"") -> bytes:
    encoded = header.encode()
    return b"\x93NUMPY\x01\x00" + len(encoded).to_bytes(2, "little") + encoded + body


HOSTILE = {
    "empty": b"",
    "no zip": b"PK\x03\x04 and then nothing",
    "cut off": npz(gray=GRAY, ab=AB)[:-100],
    "without ab": npz(gray=GRAY),
    "pickled objects": npz(gray=np.array([Explosive()], dtype=object), ab=AB),
    "a pickle in place of an array": _with_member("gray.npy", pickle.dumps(Explosive())),
    "compressed": npz(np.savez_compressed, gray=GRAY, ab=AB),
    "another number of photos": npz(gray=GRAY[:1], ab=AB[:1]),
    "another size": npz(gray=GRAY[:, :, :32], ab=AB),
    "ab at another stride": npz(gray=GRAY, ab=AB.repeat(2, 2)),
    "gray as float": npz(gray=GRAY.astype(np.float32), ab=AB),
    "ab in double": npz(gray=GRAY, ab=AB.astype(np.float64)),
    "ab in the other byte order": npz(gray=GRAY, ab=AB.astype(">f4")),
    "columns first": npz(gray=np.asfortranarray(GRAY), ab=AB),
    "NaN": npz(gray=GRAY, ab=np.full_like(AB, np.nan)),
    "a header that promises petabytes": _with_member(
        "gray.npy", _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 1000000000, 1000000)}\n")
    ),
    "a header that nests": _with_member("gray.npy", _npy("(" * 3000 + "\n")),
    "a header without end": _with_member("gray.npy", _npy("{'descr': '|u1', " + " " * 60000 + "}\n")),
    "fewer bytes than the header says": _with_member(
        "gray.npy", _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 64, 96)}\n", b"123")
    ),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_or_wrong_file_is_refused_and_runs_nothing(data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(IntegrityError, match=r"^edge\.icf: reference\.npz"):
        decode(data)
    assert "boom" not in capsys.readouterr().out
