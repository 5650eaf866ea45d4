"""Opening bundles.

The bytes that were hashed are the bytes that are parsed: every file is read once, whole, and checked before anything looks
into it. Hashes catch accidents. Against an attacker, who can write a manifest too, there is `expect_digest`.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import icf_deploy.data
from icf_deploy.bundle.folder import AGAIN, Folder
from icf_deploy.bundle.graph_check import check_graph
from icf_deploy.bundle.manifest import MANIFEST_FILE, MANIFEST_LIMIT, EngineEntry, FileEntry, Manifest
from icf_deploy.bundle.reference import ReferenceSet, decode_reference
from icf_deploy.errors import IntegrityError, UsageError
from icf_deploy.runtimes.base import Graph

if TYPE_CHECKING:
    from icf_deploy.bundle.sensitivity import Sensitivity

SHIPPED = "icf-edge.icf"  # the ready bundle inside icf_deploy/data
SHIPPED_CHECKPOINT = "icf-edge.safetensors"  # beside it
SHOWN_DIGITS = 12  # of a digest, in messages
HEADER_LENGTH_BYTES = 8  # a safetensors file begins with the length of its JSON header


class Container(Protocol):
    """Where a bundle's files are: a folder, or an archive. Both raise IntegrityError for whatever a bundle must not be."""

    root: Path

    def read(self, file: str, limit: int) -> bytes:
        """The content of a file, at most `limit` bytes."""
        ...

    def names(self) -> tuple[str, ...]:
        """Paths of everything in it."""
        ...


class Bundle:
    """An open bundle. Only the manifest has been read; the files are read and checked when they are asked for.

    manifest_bytes: its content, byte for byte; digest: their hex SHA-256, which is the bundle's. trust_engines: whether
    machine code that came with the bundle may be handed out. Several threads may use one bundle.
    """

    def __init__(
        self,
        container: Container,
        manifest_bytes: bytes,
        *,
        fallback_checkpoint: Path | None = None,
        trust_engines: bool = False,
    ) -> None:
        self.path = container.root
        self.container = container
        self.manifest_bytes = manifest_bytes
        self.digest = hashlib.sha256(manifest_bytes).hexdigest()
        self.manifest = Manifest.from_json(manifest_bytes, f"{self.path.name}: {MANIFEST_FILE}")
        self.trust_engines = trust_engines
        self._fallback_checkpoint = fallback_checkpoint
        self._graphs: dict[str, Graph] = {}
        self._lock = threading.Lock()

    def graph(self, name: str | None = None) -> Graph:
        """The graph of this name (None: the default one), read and checked once. UsageError for an unknown name.

        Raises IntegrityError for one that is not what was written, or that no engine should see (`graph_check`).
        """
        name = self.manifest.default_graph if name is None else name
        entry = self.manifest.graph(name)
        if entry is None:
            known = ", ".join(graph.name for graph in self.manifest.graphs)
            raise UsageError(f"{self.path.name} has no graph {name!r}: choose one of {known}")
        with self._lock:
            if name not in self._graphs:
                data = self.content(entry)
                check_graph(data, f"{self.path.name}: {entry.file}")
                self._graphs[name] = self._as_graph(data, entry.sha256, entry.size, entry.recipe)
            return self._graphs[name]

    def checkpoint(self) -> Graph | None:
        """The checkpoint, for the runtime `pytorch`; None where the bundle holds none.

        The shipped bundle has it beside itself in the package, where that is the one from which it was exported.
        """
        entry = self.manifest.checkpoint
        if entry is not None:
            data = self.content(entry)
            require_safetensors(data, f"{self.path.name}: {entry.file}")
            return self._as_graph(data, entry.sha256, self.manifest.size, "fp32")
        source = self.manifest.provenance.source
        if source is None or self._fallback_checkpoint is None or not self._fallback_checkpoint.is_file():
            return None
        data = self._fallback_checkpoint.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        return self._as_graph(data, digest, self.manifest.size, "fp32") if digest == source.sha256 else None

    def reference(self) -> ReferenceSet:
        """The reference set, at the default graph's size."""
        entry = self.manifest.reference
        place = f"{self.path.name}: {entry.file}"
        return decode_reference(self.content(entry), entry.photos, self.manifest.size, self.manifest.stride, place)

    def sensitivity(self) -> Sensitivity | None:
        """What each part of the network does to colours and latency, as export measured it; None where it measured nothing.

        Raises IntegrityError for a table that is none, ArtefactError for one of a newer format.
        """
        entry = self.manifest.sensitivity
        if entry is None:
            return None
        from icf_deploy.bundle.sensitivity import Sensitivity

        return Sensitivity.from_json(self.content(entry), f"{self.path.name}: {entry.file}")

    def engines(self, runtime: str) -> tuple[EngineEntry, ...]:
        """The engines inside the bundle that `runtime` built. None at all, unless they are trusted."""
        return tuple(entry for entry in self.manifest.engines if self.trust_engines and entry.runtime == runtime)

    def engine(self, name: str) -> bytes:
        """The engine of this name: machine code of whoever made the bundle, as it was written, and not looked into.

        Raises UsageError for an unknown name, and where engines are not trusted.
        """
        if not self.trust_engines:
            raise UsageError(
                f"{self.path.name}: engines inside a bundle are machine code and are not used: "
                "icf_deploy.load(..., trust_engines=True) if you know who made it"
            )
        entry = next((entry for entry in self.manifest.engines if entry.name == name), None)
        if entry is None:
            known = ", ".join(engine.name for engine in self.manifest.engines) or "none"
            raise UsageError(f"{self.path.name} has no engine {name!r}; there are: {known}")
        return self.content(entry)

    def content(self, entry: FileEntry) -> bytes:
        """The bytes of a file of the manifest, once it is known that they are what was written. IntegrityError otherwise."""
        data = self.container.read(entry.file, entry.bytes)
        digest = hashlib.sha256(data).hexdigest()
        if digest != entry.sha256 or len(data) != entry.bytes:
            raise IntegrityError(
                f"{self.path.name}: {entry.file} is not what was written: expected {entry.bytes} bytes with SHA-256 "
                f"{entry.sha256[:SHOWN_DIGITS]}..., found {len(data)} bytes with {digest[:SHOWN_DIGITS]}.... {AGAIN}"
            )
        return data

    def verify(self) -> list[str]:
        """Read and check everything; the paths of all files. IntegrityError for the first thing that is wrong."""
        from icf_deploy.bundle.verification import verify_bundle

        return [checked.file for checked in verify_bundle(self)]

    def _as_graph(self, data: bytes, sha256: str, size: tuple[int, int], recipe: str) -> Graph:
        return Graph(data, sha256, size, self.manifest.stride, recipe, self.manifest.preset)


def open_bundle(
    path: str | os.PathLike[str] | None = None, *, expect_digest: str | None = None, trust_engines: bool = False
) -> Bundle:
    """Open the bundle at `path`, a folder or one file; None opens the shipped one. Fast: only the manifest is read.

    expect_digest: the digest of the bundle that you trust, hex SHA-256 of its manifest. It is compared before the manifest is
    parsed, and vouches for every file, since the manifest does. trust_engines: hand out machine code that is in the bundle.
    Raises IntegrityError where there is no readable bundle or its digest is another, ArtefactError for a newer format,
    UsageError for a digest that is none.
    """
    if expect_digest is not None and not re.fullmatch("[0-9a-fA-F]{64}", expect_digest):
        raise UsageError(f"a digest has 64 hexadecimal digits, found {expect_digest!r}: `icf-deploy verify` shows a bundle's")
    if path is None:
        root, fallback = _packaged(SHIPPED), _packaged(SHIPPED_CHECKPOINT)
    else:
        root, fallback = Path(path), None
    container = _container(root)
    manifest_bytes = container.read(MANIFEST_FILE, MANIFEST_LIMIT)
    digest = hashlib.sha256(manifest_bytes).hexdigest()
    if expect_digest is not None and digest != expect_digest.lower():
        raise IntegrityError(
            f"{root.name} is not the bundle that was asked for: expected digest {expect_digest}, found {digest}. "
            "Get it again from where the digest came from"
        )
    bundle = Bundle(container, manifest_bytes, fallback_checkpoint=fallback, trust_engines=trust_engines)
    if not isinstance(container, Folder):
        require_nothing_else(bundle)
    return bundle


def require_nothing_else(bundle: Bundle) -> None:
    """IntegrityError where the bundle's folder or file holds something for which its manifest does not vouch.

    A folder is not asked when it is opened: what its desktop leaves in it is read by nobody.
    """
    listed = {MANIFEST_FILE, *(entry.file for entry in bundle.manifest.files())}
    foreign = sorted(set(bundle.container.names()) - listed)
    if foreign:
        raise IntegrityError(f"{bundle.path.name}: {foreign[0]!r} is in it, and not in its manifest: remove it. {AGAIN}")


def _container(root: Path) -> Container:
    write = "write one with `icf-deploy export -o NAME.icf`"
    if root.is_dir():
        if not os.path.lexists(root / MANIFEST_FILE):
            raise IntegrityError(f"{root} is not a bundle: it has no {MANIFEST_FILE}. Copy it again, or {write}")
        return Folder(root)
    if root.exists():
        from icf_deploy.bundle.archive import Archive

        return Archive(root)
    from icf_deploy.bundle.replacement import stranded

    old = stranded(root)
    if old is not None:
        raise IntegrityError(f"there is no bundle {root}: it was being replaced when that was interrupted. mv {old} {root}")
    raise IntegrityError(f"there is no bundle {root}: {write}")


def require_safetensors(data: bytes, place: str) -> None:
    """IntegrityError for what is clearly something else, such as a pickle: loading one of those can run its code."""
    header = int.from_bytes(data[:HEADER_LENGTH_BYTES], "little")
    if not 0 < header <= len(data) - HEADER_LENGTH_BYTES or data[HEADER_LENGTH_BYTES : HEADER_LENGTH_BYTES + 1] != b"{":
        raise IntegrityError(f"{place} holds no safetensors, and a bundle holds no other checkpoint. {AGAIN}")


def _packaged(name: str) -> Path:
    """A file or folder of icf_deploy/data. (importlib.resources would say the same, and costs 20 ms of a cold start.)"""
    return Path(str(icf_deploy.data.__file__)).with_name(name)
