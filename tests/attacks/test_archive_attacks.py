from __future__ import annotations

import io
import os
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import icf_deploy
from icf_deploy.bundle.archive import CENTRAL, END, LOCAL
from icf_deploy.bundle.packing import pack
from icf_deploy.bundle.store import open_bundle
from icf_deploy.errors import IcfError, IntegrityError

Refused = Callable[..., None]
Restate = Callable[..., None]
Files = dict[str, bytes]
GIB = 2**30


@pytest.fixture
def packed(victim: Path) -> Path:
    """The one-file form of a bundle that works."""
    return pack(open_bundle(victim), victim.with_name("packed.icf")).path


def contents(victim: Path) -> Files:
    files = ("manifest.json", "graphs/fp32.onnx", "reference.npz", "checkpoint.safetensors", "engines/fp32-sm86.engine")
    return {file: (victim / file).read_bytes() for file in files}


def write(path: Path, entries: list[tuple[zipfile.ZipInfo, bytes]], *, comment: bytes = b"") -> Path:
    """A zip file by Python's own writer, which does what it is told, twice the same name included."""
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in entries:
            archive.writestr(info, data)
        archive.comment = comment
    return path


def info(name: str, **attributes: int | bytes) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo("x")
    made.filename = name  # the constructor would cut it at a NUL and turn backslashes
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


def plain(files: Files) -> list[tuple[zipfile.ZipInfo, bytes]]:
    return [(info(name), data) for name, data in files.items()]


def test_the_archive_that_the_attacks_start_from_works(packed: Path, victim: Path, gray_photo: Path, tmp_path: Path) -> None:
    from icf_deploy.cli import run

    assert run(["verify", str(packed)]) == 0
    assert run(["colorize", str(gray_photo), "-o", str(tmp_path / "coloured.png"), "--bundle", str(packed)]) == 0
    assert open_bundle(write(victim.with_name("other.icf"), plain(contents(victim)))).verify()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_is_not_unfolded(method: int, victim: Path, refused: Refused) -> None:
    files = contents(victim) | {"graphs/fp32.onnx": bytes(20 * 2**20)}
    path = write(victim.with_name("bomb.icf"), [(info(name, compress_type=method), data) for name, data in files.items()])
    assert path.stat().st_size < 100_000
    refused(path, "is compressed, and a bundle's files are stored as they are")


def test_a_bomb_of_entries_that_share_their_bytes(victim: Path, refused: Refused) -> None:
    """As David Fifield's (2019): one kernel of data, many directory entries that point into it."""
    kernel = b"PK\x03\x04" * 5000
    names = ["manifest.json", *(f"graphs/g{i}.onnx" for i in range(200))]
    body, directory = b"", b""
    for name in names:
        shared = (20, 0, 0, 0, 33, 0, len(kernel), len(kernel), len(name), 0)
        directory += CENTRAL.pack(b"PK\x01\x02", 20, *shared, 0, 0, 0, 0, 0) + name.encode()
    first = (20, 0, 0, 0, 33, 0, len(kernel), len(kernel), len(names[0]), 0)
    body = LOCAL.pack(b"PK\x03\x04", *first) + names[0].encode() + kernel
    end = END.pack(b"PK\x05\x06", 0, 0, len(names), len(names), len(directory), len(body), 0)
    path = victim.with_name("overlap.icf")
    path.write_bytes(body + directory + end)
    refused(path, "entries overlap")


@pytest.mark.parametrize(
    "name",
    [
        "../evil.onnx",
        "graphs/../../evil.onnx",
        "/etc/passwd",
        "//server/share/evil.onnx",
        "C:/evil.onnx",
        "C:\\evil.onnx",
        "graphs\\evil.onnx",
        "graphs/evil.onnx\0.txt",
        "graphs/",
        "graphs/deep/evil.onnx",
        "graphs/evil.so",
        "graphs/nul.onnx",
        "graphs/com1.onnx",
        "graphs/.onnx",
        "graphs/FP32.onnx",
        "MANIFEST.JSON",
        "Graphs/fp32.onnx",
        "evil.py",
        "graphs/\u202eevil.onnx",
        "graphs/\x1b[2J.onnx",
        "engines/a:b.engine",
        "",
    ],
)
def test_a_name_that_no_bundle_has(name: str, victim: Path, refused: Refused) -> None:
    path = write(victim.with_name("named.icf"), [*plain(contents(victim)), (info(name), b"evil")])
    refused(path, "which is no file of a bundle|damaged")


def test_a_file_for_which_nobody_vouches(victim: Path, refused: Refused) -> None:
    path = write(victim.with_name("extra.icf"), plain(contents(victim) | {"graphs/evil.onnx": b"evil"}))
    refused(path, r"'graphs/evil\.onnx' is in it, and not in its manifest")


def test_a_file_that_is_there_twice(victim: Path, refused: Refused) -> None:
    files = plain(contents(victim))
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = write(victim.with_name("twice.icf"), [*files, (info("graphs/fp32.onnx"), b"evil")])
    refused(path, r"graphs/fp32\.onnx is in it twice")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFSOCK])
def test_a_link_or_device(kind: int, victim: Path, refused: Refused) -> None:
    files = plain(contents(victim))
    files[1] = (info("graphs/fp32.onnx", external_attr=(kind | 0o777) << 16, create_system=3), b"/etc/passwd")
    refused(write(victim.with_name("link.icf"), files), "no plain file; a bundle holds no links")


def patched(data: bytes, signature: bytes, offset: int, form: str, value: int) -> bytes:
    """`data` with one field of its second record of this kind set to `value`."""
    *_, start, _ = END.unpack(data[-END.size :])
    first = data.index(signature, start if signature == b"PK\x01\x02" else 0)  # the reference set is a zip file, too
    at = data.index(signature, first + 4) + offset
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]


def both(data: bytes, local: int, central: int, form: str, value: int) -> bytes:
    """A field of the second entry in its own header and in the directory."""
    return patched(patched(data, b"PK\x03\x04", local, form, value), b"PK\x01\x02", central, form, value)


def _rebuilt(data: bytes, insert_at: int, what: bytes, *, shift: bool) -> bytes:
    """`data` with `what` inserted among the entries, and, if `shift`, the directory's offsets behind it corrected."""
    *_, start, _ = END.unpack(data[-END.size :])
    directory = bytearray(data[start : -END.size])
    position = 0
    while position < len(directory):
        fields = CENTRAL.unpack_from(directory, position)
        if shift and fields[-1] >= insert_at:
            directory[position + 42 : position + 46] = struct.pack("<L", fields[-1] + len(what))
        position += CENTRAL.size + fields[10]
    end = data[-END.size : -6] + struct.pack("<L", start + len(what)) + data[-2:]
    return data[:insert_at] + what + data[insert_at:start] + bytes(directory) + end


def _with_gap(data: bytes) -> bytes:
    return _rebuilt(data, data.index(b"PK\x03\x04", 4), b"hidden", shift=True)


def _with_hidden_entry(data: bytes) -> bytes:
    name = b"graphs/evil.onnx"
    entry = LOCAL.pack(b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 4, 4, len(name), 0) + name + b"evil"
    return _rebuilt(data, END.unpack(data[-END.size :])[-2], entry, shift=True)


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "encrypted": (lambda d: both(d, 6, 8, "<H", 1), "encrypted"),
    "streamed, with its lengths behind it": (lambda d: both(d, 6, 8, "<H", 8), "streamed"),
    "of a later version": (lambda d: both(d, 4, 6, "<H", 45), "extended"),
    "an extra field": (lambda d: patched(d, b"PK\x01\x02", 30, "<H", 4), "extended"),
    "a comment of an entry": (lambda d: patched(d, b"PK\x01\x02", 32, "<H", 4), "extended"),
    "on another disk": (lambda d: patched(d, b"PK\x01\x02", 34, "<H", 1), "split"),
    "other length in its own header": (lambda d: patched(d, b"PK\x03\x04", 22, "<L", 5), "in its own header"),
    "other name in its own header": (lambda d: patched(d, b"PK\x03\x04", 30, "<L", 0x70617258), "in its own header"),
    "other checksum in its own header": (lambda d: patched(d, b"PK\x03\x04", 14, "<L", 5), "in its own header"),
    "longer than the file": (
        lambda d: both(both(d, 18, 20, "<L", 2**31 - 1), 22, 24, "<L", 2**31 - 1),
        "does not follow|beyond",
    ),
    "four gigabytes": (lambda d: both(both(d, 18, 20, "<L", 2**32 - 1), 22, 24, "<L", 2**32 - 1), "at most 2147483647"),
    "packed smaller than it is": (lambda d: both(d, 18, 20, "<L", 5), "is compressed"),
    "something put before it": (lambda d: b"#!/bin/sh\nrm -rf ~\n" + d, "does not begin as"),
    "another archive put before it": (lambda d: d + d, "not where it says"),
    "something appended": (lambda d: d + b"evil", "something is appended"),
    "a comment": (lambda d: d[:-2] + b"\x04\x00evil", "something is appended"),
    "more entries than it has": (lambda d: d[:-14] + struct.pack("<HH", 6, 6) + d[-10:], "directory is cut off"),
    "fewer entries than it has": (lambda d: d[:-14] + struct.pack("<HH", 4, 4) + d[-10:], "last entry and its end"),
    "sixty thousand entries": (lambda d: d[:-14] + struct.pack("<HH", 60_000, 60_000) + d[-10:], "60000 entries"),
    "no entries": (lambda d: d[:-14] + bytes(4) + d[-10:], "last entry and its end"),
    "one part of several": (lambda d: d[:-18] + struct.pack("<H", 1) + d[-16:], "one part of several"),
    "a directory elsewhere": (lambda d: d[:-6] + struct.pack("<L", 0) + d[-2:], "not where it says"),
    "a gap between entries": (_with_gap, "something lies between"),
    "an entry that the directory hides": (_with_hidden_entry, "something lies between"),
}


@pytest.mark.parametrize("change, message", HOSTILE.values(), ids=HOSTILE.keys())
def test_an_archive_that_two_readers_would_read_differently(
    change: Callable[[bytes], bytes], message: str, packed: Path, refused: Refused
) -> None:
    data = packed.read_bytes()
    changed = change(data)
    assert changed != data
    packed.write_bytes(changed)
    refused(packed, message)


def test_an_archive_that_is_cut_off_anywhere(packed: Path, refused: Refused) -> None:
    data = packed.read_bytes()
    for length in (0, 1, 3, 4, 21, 22, 100, len(data) // 2, len(data) - 22, len(data) - 1):
        packed.write_bytes(data[:length])
        refused(packed, "is not a bundle")


def test_a_huge_manifest(victim: Path, refused: Refused) -> None:
    path = write(victim.with_name("huge.icf"), plain(contents(victim) | {"manifest.json": b" " * (30 * 2**20)}))
    refused(path, rf"manifest\.json has {30 * 2**20} bytes, and at most")


def test_a_missing_file(victim: Path, refused: Refused) -> None:
    for file in ("manifest.json", "graphs/fp32.onnx"):
        files = contents(victim)
        del files[file]
        refused(write(victim.with_name("missing.icf"), plain(files)), f"{file} is missing")


def test_a_swapped_graph(packed: Path, victim: Path, refused: Refused) -> None:
    data = contents(victim)["graphs/fp32.onnx"]
    refused(write(packed, plain(contents(victim) | {"graphs/fp32.onnx": data[:-1] + b"\0"})), "is not what was written")
    refused(write(packed, plain(contents(victim) | {"graphs/fp32.onnx": data * 2})), "is not what was written|at most")


def test_a_newer_format(victim: Path, refused: Refused, restate: Restate) -> None:
    restate(victim, change=lambda manifest: manifest.update(format=2))
    refused(write(victim.with_name("newer.icf"), plain(contents(victim))), "bundle format 2", status=4)


def test_a_wrong_checksum_is_found_by_verify_though_the_hash_is_right(packed: Path, refused: Refused) -> None:
    packed.write_bytes(both(packed.read_bytes(), 14, 16, "<L", 5))
    refused(packed, r"graphs/fp32\.onnx: its CRC-32 is wrong", opens=True)


def test_a_swap_after_opening(packed: Path, victim: Path) -> None:
    bundle, right = open_bundle(packed), contents(victim)["graphs/fp32.onnx"]
    packed.write_bytes(packed.read_bytes()[:200])
    with pytest.raises(IntegrityError, match="is cut off: it changed since it was opened"):
        bundle.graph()
    write(packed, plain({"reference.npz": bytes(10_000), **contents(victim)}))
    with pytest.raises(IntegrityError, match="is not what was written"):
        bundle.graph()
    assert open_bundle(victim).graph().data == right


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_or_device_in_place_of_the_file(victim: Path, refused: Refused) -> None:
    os.mkfifo(victim.with_name("pipe.icf"))
    refused(victim.with_name("pipe.icf"), "neither a folder nor a plain file")
    refused(Path("/dev/zero"), "neither a folder nor a plain file")


def test_a_sparse_file_beyond_all_limits(packed: Path, refused: Refused) -> None:
    os.truncate(packed, 100 * GIB)
    refused(packed, rf"{100 * GIB} bytes, and at most")


def test_no_change_of_any_byte_changes_what_is_read(packed: Path, victim: Path) -> None:
    """Every byte is either checked, or means nothing: what is read is what was packed, or nothing is."""
    data, right = packed.read_bytes(), contents(victim)
    generator = random.Random(6)
    small = [i for i in range(len(data)) if not any(0 <= i - data.find(d) < len(d) for d in right.values())]
    positions = [*small, *(generator.randrange(len(data)) for _ in range(200))]
    digest = open_bundle(packed).digest
    refused = harmless = 0
    for position in positions:
        packed.write_bytes(data[:position] + bytes([data[position] ^ 1 << generator.randrange(8)]) + data[position + 1 :])
        try:
            bundle = open_bundle(packed, expect_digest=digest)
            bundle.verify()
        except IntegrityError:
            refused += 1
            continue
        harmless += 1
        assert {file.file: bundle.content(file) for file in bundle.manifest.files()} | {
            "manifest.json": bundle.manifest_bytes
        } == right
    assert refused > 0.8 * len(positions)
    assert harmless < 0.2 * len(positions)


def test_random_bytes_after_a_right_beginning_are_refused_as_such(packed: Path) -> None:
    data = packed.read_bytes()
    generator = random.Random(7)
    for _ in range(300):
        cut = generator.randrange(len(data))
        packed.write_bytes(data[:cut] + generator.randbytes(generator.randrange(200)) + data[-generator.randrange(1, 300) :])
        with pytest.raises(IcfError) as error:
            icf_deploy.load(packed, "ort")
        assert error.value.exit_status == 6


def test_the_reader_is_not_fooled_where_the_standard_library_reads_something(victim: Path, refused: Refused) -> None:
    """A file that zipfile opens happily, and reads other bytes from than those that follow each other in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for entry, data in plain(contents(victim)):
            archive.writestr(entry, data)
    path = victim.with_name("prefixed.icf")
    path.write_bytes(b"PK\x03\x04 polyglot " + stream.getvalue())
    with zipfile.ZipFile(path) as archive:
        assert archive.read("manifest.json") == contents(victim)["manifest.json"]
    refused(path, "not where it says")
