"""Opening and writing bundles.

The bytes that were hashed are the bytes that are parsed: every file is read once, whole, and checked before anything looks
into it. Hashes catch accidents. Against an attacker, who can write a manifest too, there is `expect_digest`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icf_deploy.data
from icf_deploy.bundle.folder import read_file
from icf_deploy.bundle.manifest import (
    CHECKPOINT_FILE,
    FILE_LIMIT,
    GRAPH_FOLDER,
    MANIFEST_FILE,
    MANIFEST_LIMIT,
    REFERENCE_FILE,
    FileEntry,
    GraphEntry,
    Lowering,
    Manifest,
    Parity,
    Provenance,
    ReferenceEntry,
    graph_file,
)
from icf_deploy.bundle.reference import ReferenceSet, decode_reference, encode_reference
from icf_deploy.errors import IntegrityError, UsageError
from icf_deploy.runtimes.base import Graph

if TYPE_CHECKING:
    from icf_deploy.bundle.fields import Json

SHIPPED = "icf-edge.icf"  # the ready bundle inside icf_deploy/data
SHIPPED_CHECKPOINT = "icf-edge.safetensors"  # beside it
SHOWN_DIGITS = 12  # of a digest, in messages

Reader = Callable[[str, int], bytes]  # (path in the bundle, byte limit) -> content; the one-file form will bring another one


class Bundle:
    """An open bundle. Only the manifest has been read; the files are read and checked when they are asked for.

    `read` gives the content of a file of the bundle. Several threads may use one bundle.
    """

    def __init__(self, path: Path, manifest_bytes: bytes, read: Reader, fallback_checkpoint: Path | None = None) -> None:
        self.path = path
        self.digest = hashlib.sha256(manifest_bytes).hexdigest()
        self.manifest = Manifest.from_json(manifest_bytes, f"{path.name}: {MANIFEST_FILE}")
        self._read = read
        self._fallback_checkpoint = fallback_checkpoint
        self._graphs: dict[str, Graph] = {}
        self._lock = threading.Lock()

    def graph(self, name: str | None = None) -> Graph:
        """The graph of this name (None: the default one), read and hashed once. UsageError for an unknown name."""
        name = self.manifest.default_graph if name is None else name
        entry = self.manifest.graph(name)
        if entry is None:
            known = ", ".join(graph.name for graph in self.manifest.graphs)
            raise UsageError(f"{self.path.name} has no graph {name!r}: choose one of {known}")
        with self._lock:
            if name not in self._graphs:
                self._graphs[name] = self._as_graph(self._checked(entry), entry.sha256, entry.size, entry.recipe)
            return self._graphs[name]

    def checkpoint(self) -> Graph | None:
        """The checkpoint, for the runtime `pytorch`; None where the bundle holds none.

        The shipped bundle has it beside itself in the package, where that is the one from which it was exported.
        """
        entry = self.manifest.checkpoint
        if entry is not None:
            return self._as_graph(self._checked(entry), entry.sha256, self.manifest.size, "fp32")
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
        return decode_reference(self._checked(entry), entry.photos, self.manifest.size, self.manifest.stride, place)

    def verify(self) -> list[str]:
        """Read and check every file of the manifest; their paths in the bundle. IntegrityError for the first bad one."""
        for entry in self.manifest.files():
            self._checked(entry)
        self.reference()
        return [MANIFEST_FILE, *(entry.file for entry in self.manifest.files())]

    def _checked(self, entry: FileEntry) -> bytes:
        """The content of a file, once it is known to be what was written."""
        data = self._read(entry.file, FILE_LIMIT)
        digest = hashlib.sha256(data).hexdigest()
        if digest != entry.sha256 or len(data) != entry.bytes:
            raise IntegrityError(
                f"{self.path.name}: {entry.file} is not what was written: expected {entry.bytes} bytes with SHA-256 "
                f"{entry.sha256[:SHOWN_DIGITS]}..., found {len(data)} bytes with {digest[:SHOWN_DIGITS]}... "
                "Copy the bundle again, or write it again with `icf-deploy export --overwrite`"
            )
        return data

    def _as_graph(self, data: bytes, sha256: str, size: tuple[int, int], recipe: str) -> Graph:
        return Graph(data, sha256, size, self.manifest.stride, recipe, self.manifest.preset)


def open_bundle(path: str | os.PathLike[str] | None = None, *, expect_digest: str | None = None) -> Bundle:
    """Open the bundle at `path`; None opens the shipped one. Fast: only the manifest is read.

    expect_digest: the SHA-256 of the manifest that you trust; it vouches for every file, since the manifest does.
    Raises IntegrityError where there is no readable bundle or its digest is another, ArtefactError for a newer format.
    """
    if path is None:
        root, fallback = _packaged(SHIPPED), _packaged(SHIPPED_CHECKPOINT)
    else:
        root, fallback = Path(path), None
    write = "write one with `icf-deploy export -o NAME.icf`"
    if not root.exists():
        raise IntegrityError(f"there is no bundle {root}: {write}")
    if not root.is_dir():
        raise IntegrityError(f"{root} is a file, and a bundle is a folder NAME.icf: {write}")
    if not os.path.lexists(root / MANIFEST_FILE):
        raise IntegrityError(f"{root} is not a bundle: it has no {MANIFEST_FILE}. Copy it again, or {write}")
    read = functools.partial(read_file, root)
    bundle = Bundle(root, read(MANIFEST_FILE, MANIFEST_LIMIT), read, fallback)
    if expect_digest is not None and bundle.digest != expect_digest.lower():
        raise IntegrityError(
            f"{root.name} is not the bundle that was asked for: expected digest {expect_digest}, found {bundle.digest}"
        )
    return bundle


@dataclass(frozen=True)
class NewGraph:
    """A graph that goes into a new bundle; its fields are those of `GraphEntry`."""

    name: str
    data: bytes = field(repr=False)
    recipe: str
    size: tuple[int, int]
    part: str = "whole"
    lowering: Lowering = field(default_factory=Lowering)
    measurements: Mapping[str, Json] = field(default_factory=dict)


def write_bundle(
    path: str | os.PathLike[str],
    *,
    preset: str,
    stride: int,
    size: tuple[int, int],
    graphs: Sequence[NewGraph],
    reference: ReferenceSet,
    parity: Parity,
    provenance: Provenance,
    default_graph: str | None = None,
    checkpoint: bytes | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle (default_graph None: the first) and open it. The folder appears complete, or not at all.

    Raises WorkError where `path` may not be written or the disk refuses, UsageError for graphs or a reference set that do
    not belong together.
    """
    from icf_deploy.bundle.replacement import new_folder  # not part of a cold start

    if not graphs:
        raise UsageError("a bundle needs at least one graph")
    files = {graph_file(graph.name): graph.data for graph in graphs}
    files[REFERENCE_FILE] = encode_reference(reference)
    if checkpoint is not None:
        files[CHECKPOINT_FILE] = checkpoint
    manifest = Manifest(
        preset=preset,
        stride=stride,
        size=size,
        graphs=tuple(_graph_entry(graph) for graph in graphs),
        default_graph=default_graph if default_graph is not None else graphs[0].name,
        reference=ReferenceEntry(**_facts(REFERENCE_FILE, files[REFERENCE_FILE]), photos=reference.names),
        checkpoint=None if checkpoint is None else FileEntry(**_facts(CHECKPOINT_FILE, checkpoint)),
        parity=parity,
        provenance=provenance,
    )
    _require_readable(manifest, files[REFERENCE_FILE])
    root = Path(path)
    with new_folder(root, overwrite=overwrite) as folder:
        (folder / GRAPH_FOLDER).mkdir()
        for file, data in files.items():
            (folder / file).write_bytes(data)
        (folder / MANIFEST_FILE).write_bytes(manifest.to_json())
    return open_bundle(root)


def _graph_entry(graph: NewGraph) -> GraphEntry:
    return GraphEntry(
        **_facts(graph_file(graph.name), graph.data),
        name=graph.name,
        recipe=graph.recipe,
        size=graph.size,
        part=graph.part,
        lowering=graph.lowering,
        measurements=graph.measurements,
    )


def _facts(file: str, data: bytes) -> dict[str, Any]:
    """The fields of FileEntry."""
    return {"file": file, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _require_readable(manifest: Manifest, reference: bytes) -> None:
    """UsageError where a reader would refuse what is about to be written."""
    try:
        Manifest.from_json(manifest.to_json())
        entry = manifest.reference
        decode_reference(reference, entry.photos, manifest.size, manifest.stride, entry.file)
    except IntegrityError as error:
        raise UsageError(f"these do not make a bundle: {error}") from error


def _packaged(name: str) -> Path:
    """A file or folder of icf_deploy/data. (importlib.resources would say the same, and costs 20 ms of a cold start.)"""
    return Path(str(icf_deploy.data.__file__)).with_name(name)
