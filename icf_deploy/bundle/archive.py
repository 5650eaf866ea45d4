"""The one-file form of a bundle: a zip file that stores its entries, and nothing that a zip file could hide.

Entries are stored and not compressed: trained weights shrink by a tenth at most; what is stored cannot unfold into more than
the file's own length; and no decompressor stands between the disk and the hash. Every byte of the file is accounted for: the
entries follow each other from the first byte on, then comes the directory, then its end record, then nothing.

The records are those of PKWARE's APPNOTE 6.3.10: 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (its end).
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from icf_deploy.bundle.folder import AGAIN
from icf_deploy.bundle.manifest import ENGINE_LIMIT, FILE_LIMIT, GRAPH_LIMIT, is_in_layout
from icf_deploy.errors import IntegrityError, WorkError

LOCAL = struct.Struct("<4s5HLLLHH")
CENTRAL = struct.Struct("<4s6HLLL5HLL")
END = struct.Struct("<4s4HLLH")
LOCAL_MAGIC, CENTRAL_MAGIC, END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"

VERSION = 20  # of the format that is needed to extract: 2.0, plain entries
UNIX = 3 << 8  # "made by": the upper half of the external attributes is a Unix mode
MODE = stat.S_IFREG | 0o644
DATE, TIME = 33, 0  # 1980-01-01 00:00, the earliest that the format knows: the same bundle makes the same bytes
STORED = 0
UTF8_NAMES = 0x0800  # the one flag that changes nothing here: every name is ASCII

ENTRY_LIMIT = GRAPH_LIMIT + ENGINE_LIMIT + 4  # and the manifest, the reference set, the checkpoint, the sensitivity table
NAME_BYTES = 80  # the longest path of the layout has 79
ARCHIVE_LIMIT = 2**32 - 1  # bytes; beyond it a zip file needs a second set of records, which this form does without
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Entry:
    """One file in the archive: where its content begins, how many bytes it has, its CRC-32."""

    name: str
    offset: int
    bytes: int
    crc: int


class Archive:
    """The one-file form, read. Its directory is checked when it is opened, every content when it is asked for.

    Raises IntegrityError for a file that is not exactly such an archive.
    """

    def __init__(self, path: Path) -> None:
        self.root = path
        with self._opened() as stream:
            try:
                entries = _read_directory(stream)
            except _NoBundleError as error:
                raise IntegrityError(f"{path.name} is not a bundle: {error}. {AGAIN}") from error
        self._entries = {entry.name: entry for entry in entries}

    def names(self) -> tuple[str, ...]:
        """Paths of all files in it."""
        return tuple(sorted(self._entries))

    def read(self, file: str, limit: int) -> bytes:
        """The content of `file`, at most `limit` bytes. IntegrityError where it is missing, too long, or cut off."""
        entry = self._entries.get(file)
        if entry is None:
            raise IntegrityError(f"{self.root.name}: {file} is missing. {AGAIN}")
        if entry.bytes > limit:
            raise IntegrityError(
                f"{self.root.name}: {file} has {entry.bytes} bytes, and at most {limit} were expected. {AGAIN}"
            )
        with self._opened() as stream:
            stream.seek(entry.offset)
            data = stream.read(entry.bytes)
        if len(data) != entry.bytes:
            raise IntegrityError(f"{self.root.name}: {file} is cut off: it changed since it was opened. Try again")
        return data

    def require_crc(self, file: str, data: bytes) -> None:
        """IntegrityError where other zip tools would call `file` damaged. (What vouches for a file is its SHA-256.)"""
        if zlib.crc32(data) != self._entries[file].crc:
            raise IntegrityError(f"{self.root.name}: {file}: its CRC-32 is wrong. {AGAIN}")

    def _opened(self) -> BinaryIO:
        try:
            stream = open(os.open(self.root, OPEN_FLAGS), "rb")  # noqa: PTH123, SIM115  # a path cannot say O_NONBLOCK
        except OSError as error:
            raise IntegrityError(f"{self.root} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            stream.close()
            raise IntegrityError(f"{self.root} is neither a folder nor a plain file, so it is not a bundle")
        return stream


class _NoBundleError(Exception):
    """What is wrong with the archive."""


def write_archive(stream: BinaryIO, files: Iterable[tuple[str, bytes]]) -> None:
    """Write (path in the bundle, content) pairs as an archive: the same bytes for the same pairs. WorkError if too large."""
    directory = bytearray()
    offset = count = 0
    for file, data in files:
        name = file.encode("ascii")
        shared = (VERSION, 0, STORED, TIME, DATE, zlib.crc32(data), len(data), len(data), len(name), 0)
        size = LOCAL.size + len(name) + len(data)
        if offset + size + len(directory) + CENTRAL.size + len(name) + END.size > ARCHIVE_LIMIT:
            raise WorkError(f"the bundle has more than {ARCHIVE_LIMIT} bytes, which one file cannot hold: ship its folder")
        stream.write(LOCAL.pack(LOCAL_MAGIC, *shared) + name)
        stream.write(data)
        directory += CENTRAL.pack(CENTRAL_MAGIC, UNIX | VERSION, *shared, 0, 0, 0, MODE << 16, offset) + name
        offset += size
        count += 1
    stream.write(directory)
    stream.write(END.pack(END_MAGIC, 0, 0, count, count, len(directory), offset, 0))


def _read_directory(stream: BinaryIO) -> list[Entry]:
    """All entries, in the order of the file. _NoBundleError for whatever breaks a rule of the form."""
    length = os.fstat(stream.fileno()).st_size
    if length < END.size or stream.read(len(LOCAL_MAGIC)) != LOCAL_MAGIC:
        raise _NoBundleError("it is no folder, and does not begin as the zip file that `icf-deploy pack` writes")
    if length > ARCHIVE_LIMIT:
        raise _NoBundleError(f"it has {length} bytes, and at most {ARCHIVE_LIMIT} are possible")
    stream.seek(length - END.size)
    magic, disk, first_disk, here, count, size, start, comment = END.unpack(stream.read(END.size))
    if magic != END_MAGIC or comment:
        raise _NoBundleError("it does not end where its directory ends: it is cut off, or something is appended")
    if disk or first_disk or here != count:
        raise _NoBundleError("it is one part of several")
    if count > ENTRY_LIMIT or size > ENTRY_LIMIT * (CENTRAL.size + NAME_BYTES):
        raise _NoBundleError(f"its directory has {count} entries in {size} bytes, and at most {ENTRY_LIMIT} are possible")
    if start + size + END.size != length:
        raise _NoBundleError("its directory is not where it says: something is put before it, or hidden behind it")
    stream.seek(start)
    directory = stream.read(size)
    entries: dict[str, Entry] = {}
    position = end = 0
    for _ in range(count):
        entry, position = _read_entry(stream, directory, position, end)
        if entry.name in entries:
            raise _NoBundleError(f"{entry.name} is in it twice")
        entries[entry.name] = entry
        end = entry.offset + entry.bytes
    if position != size or end != start:
        raise _NoBundleError("something lies between its last entry and its end")
    return list(entries.values())


def _read_entry(stream: BinaryIO, directory: bytes, position: int, expected: int) -> tuple[Entry, int]:
    """The entry whose directory record stands at `position` and whose local header must stand at `expected`.

    Returns it, and where the next directory record stands.
    """
    if position + CENTRAL.size > len(directory):
        raise _NoBundleError("its directory is cut off")
    magic, made_by, *shared, comment, disk, _, attributes, offset = CENTRAL.unpack_from(directory, position)
    version, flags, method, _, _, crc, packed, length, name_length, extra = shared
    position += CENTRAL.size
    raw = directory[position : position + name_length]
    if magic != CENTRAL_MAGIC or len(raw) != name_length:
        raise _NoBundleError("its directory is damaged")
    name = raw.decode("ascii", "backslashreplace")
    if not is_in_layout(name):
        raise _NoBundleError(f"it holds {name[:NAME_BYTES]!r}, which is no file of a bundle")
    if method != STORED or packed != length:
        raise _NoBundleError(f"{name} is compressed, and a bundle's files are stored as they are")
    if flags & ~UTF8_NAMES or version > VERSION or extra or comment or disk:
        raise _NoBundleError(f"{name} is encrypted, streamed, split or extended, and a plain entry was expected")
    mode = attributes >> 16
    if made_by & 0xFF00 == UNIX and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise _NoBundleError(f"{name} is no plain file; a bundle holds no links")
    if length > FILE_LIMIT:
        raise _NoBundleError(f"{name} has {length} bytes, and at most {FILE_LIMIT} are possible")
    if offset != expected:
        raise _NoBundleError(f"{name} does not follow what is before it: entries overlap, or something lies between them")
    stream.seek(offset)
    local = stream.read(LOCAL.size + name_length)
    if local != LOCAL.pack(LOCAL_MAGIC, *shared) + raw:
        raise _NoBundleError(f"{name} says other things in its own header than in the directory")
    return Entry(name, offset + len(local), length, crc), position + name_length
