"""What the cache keeps in one file: a line that says what it is, a line of JSON that says why it is there, then the content.

    icf-cache 1
    {"kind": "engine", "fields": {"graph": "51c0...", "driver": "580.95", ...}, "bytes": 1234, "sha256": "9f86...", ...}
    <1234 bytes>

Content is only believed after its length, its SHA-256 and every field of the key have been compared: an entry that a crash, a
full disk or a bad sector has damaged is found out and built again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

MAGIC = b"icf-cache 1\n"
HEADER_LIMIT = 64 * 1024  # bytes; a key has about fifteen short fields
SUFFIX = ".entry"


class DamagedEntryError(Exception):
    """An entry that is not what was written. Nobody but the cache sees it: the entry is built again."""


@dataclass(frozen=True)
class EngineKey:
    """Everything that changes the result. kind: "engine", or another thing that is kept, such as "timing"."""

    kind: str
    fields: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of kind and fields; the entry's file has this name."""
        canonical = json.dumps([self.kind, sorted(self.fields.items())], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def file_name(self) -> str:
        """Name of the entry's file."""
        return f"{self.kind}-{self.digest}{SUFFIX}"


@dataclass(frozen=True)
class Header:
    """The JSON line.

    length: bytes of the content. created: seconds since 1970. seconds: how long building took. why: what made it necessary.
    """

    key: EngineKey
    length: int
    sha256: str
    created: float
    seconds: float
    why: str

    def encode(self) -> bytes:
        """The two lines that stand before the content."""
        document = {
            "kind": self.key.kind,
            "fields": dict(self.key.fields),
            "bytes": self.length,
            "sha256": self.sha256,
            "created": self.created,
            "seconds": self.seconds,
            "why": self.why,
        }
        return MAGIC + json.dumps(document, ensure_ascii=True).encode() + b"\n"


@dataclass(frozen=True)
class Entry:
    """A readable entry. used: when it was last read or written, seconds since 1970. size: bytes on disk."""

    path: Path
    header: Header
    used: float
    size: int = field(compare=False)


def header_for(key: EngineKey, content: bytes, *, created: float, seconds: float, why: str) -> Header:
    """The header of `content`."""
    return Header(key, len(content), hashlib.sha256(content).hexdigest(), created, round(seconds, 3), why)


def read_header(file: BinaryIO) -> Header:
    """Read the two lines; the content follows. DamagedEntryError where they are not what `encode` writes."""
    magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise DamagedEntryError("it does not begin as an entry of this cache does")
    line = file.readline(HEADER_LIMIT)
    try:
        document = json.loads(line)
        key = EngineKey(str(document["kind"]), {str(name): str(value) for name, value in document["fields"].items()})
        return Header(
            key,
            int(document["bytes"]),
            str(document["sha256"]),
            float(document["created"]),
            float(document["seconds"]),
            str(document["why"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedEntryError("its header cannot be read") from error


def read_content(file: BinaryIO, key: EngineKey) -> bytes:
    """The content of an entry, checked against `key` and its own header. DamagedEntryError where anything differs."""
    header = read_header(file)
    if header.key != key:
        raise DamagedEntryError("it belongs to another key")
    content = file.read()
    if len(content) != header.length:
        raise DamagedEntryError(f"it has {len(content)} bytes of {header.length}")
    if hashlib.sha256(content).hexdigest() != header.sha256:
        raise DamagedEntryError("its bytes are not the ones that were written")
    return content
