"""What `trt` calls an engine: NVIDIA's plan, and before it a line of JSON that says what may run it.

    icf-plan 1
    {"library": "tensorrt_rtx", "version": "1.7.1.116", "sm": "sm89", "graph": "51c0...", "bytes": 23034764, "sha256": ...}
    <23034764 bytes>

A plan is machine code, and the libraries say little about one that is not theirs. So everything that has to agree is compared
before a byte of it is given to them. That finds accidents, not an attacker: only a plan that was built here, or that came in a
bundle which is trusted, may be opened at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from icf_deploy.errors import ArtefactError, IntegrityError

MAGIC = b"icf-plan 1\n"
HEADER_LIMIT = 64 * 1024  # bytes


@dataclass(frozen=True)
class Plan:
    """A compiled graph.

    library: the module that built it. sm: compute capability, as `sm89`. graph: hex SHA-256 of the graph.
    formats: layers per number format, as the typed network states them. largest_batch: of the optimization profile.
    """

    library: str
    version: str
    sm: str
    graph: str
    recipe: str
    largest_batch: int
    formats: Mapping[str, int]
    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        """The bytes of an engine."""
        header = {name: value for name, value in asdict(self).items() if name != "data"}
        facts = {"bytes": len(self.data), "sha256": hashlib.sha256(self.data).hexdigest()}
        return MAGIC + json.dumps({**header, **facts}).encode() + b"\n" + self.data


def decode_plan(content: bytes) -> Plan:
    """Read what `encode` wrote. ArtefactError for an engine of something else, IntegrityError for one that is damaged."""
    if not content.startswith(MAGIC):
        raise ArtefactError("this is not an engine of trt: it does not begin as one. Build it again for this machine")
    end = content.find(b"\n", len(MAGIC), len(MAGIC) + HEADER_LIMIT)
    if end < 0:
        raise _damaged("its header does not end")
    try:
        header: dict[str, Any] = json.loads(content[len(MAGIC) : end])
        size, digest = int(header.pop("bytes")), str(header.pop("sha256"))
        formats = {str(name): int(count) for name, count in header.pop("formats").items()}
        largest_batch = int(header.pop("largest_batch"))
        texts = {name: str(header[name]) for name in ("library", "version", "sm", "graph", "recipe")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged("its header cannot be read") from error
    data = content[end + 1 :]
    if len(data) != size:
        raise _damaged(f"it has {len(data)} bytes of {size}")
    if hashlib.sha256(data).hexdigest() != digest:
        raise _damaged("its bytes are not the ones that were written")
    return Plan(**texts, largest_batch=largest_batch, formats=formats, data=data)


def _damaged(reason: str) -> IntegrityError:
    return IntegrityError(f"this engine of trt is damaged: {reason}. Build it again, or copy its bundle again")
