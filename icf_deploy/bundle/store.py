"""Writing bundles, and the names with which the rest of the library opens them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_deploy.bundle.graph_check import check_graph
from icf_deploy.bundle.manifest import (
    CHECKPOINT_FILE,
    MANIFEST_FILE,
    REFERENCE_FILE,
    SENSITIVITY_FILE,
    EngineEntry,
    FileEntry,
    GraphEntry,
    Lowering,
    Manifest,
    Parity,
    Provenance,
    ReferenceEntry,
    engine_file,
    graph_file,
)
from icf_deploy.bundle.opening import SHIPPED, SHIPPED_CHECKPOINT, Bundle, open_bundle, require_safetensors
from icf_deploy.bundle.reference import ReferenceSet, decode_reference, encode_reference
from icf_deploy.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from icf_deploy.bundle.fields import Json
    from icf_deploy.bundle.sensitivity import Sensitivity

__all__ = [
    "SHIPPED",
    "SHIPPED_CHECKPOINT",
    "Bundle",
    "NewEngine",
    "NewGraph",
    "add_engines",
    "open_bundle",
    "write_bundle",
    "write_folder",
]


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


@dataclass(frozen=True)
class NewEngine:
    """An engine that goes into a new bundle; its fields are those of `EngineEntry`."""

    name: str
    data: bytes = field(repr=False)
    runtime: str
    target: str
    version: str
    graph: str
    options: Mapping[str, Json] = field(default_factory=dict)


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
    engines: Sequence[NewEngine] = (),
    sensitivity: Sensitivity | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle (default_graph None: the first) and open it. The folder appears complete, or not at all.

    Raises WorkError where `path` may not be written or the disk refuses, UsageError for what a reader would refuse.
    """
    if not graphs:
        raise UsageError("a bundle needs at least one graph")
    files = {graph_file(graph.name): graph.data for graph in graphs}
    files[REFERENCE_FILE] = encode_reference(reference)
    if checkpoint is not None:
        files[CHECKPOINT_FILE] = checkpoint
    if sensitivity is not None:
        files[SENSITIVITY_FILE] = sensitivity.to_json()
    files |= {engine_file(engine.name): engine.data for engine in engines}
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
        engines=tuple(_engine_entry(engine) for engine in engines),
        sensitivity=None if sensitivity is None else FileEntry(**_facts(SENSITIVITY_FILE, files[SENSITIVITY_FILE])),
    )
    _require_readable(manifest, files)
    return write_folder(Path(path), ((MANIFEST_FILE, manifest.to_json()), *files.items()), overwrite=overwrite)


def add_engines(
    bundle: Bundle, path: str | os.PathLike[str], engines: Sequence[NewEngine], *, overwrite: bool = False
) -> Bundle:
    """Write `bundle` again as a folder, with these engines in it, and open that; one of the same name is replaced.

    Everything else stays as it is, what only a newer icf-deploy understands included; the digest is another one. Raises
    IntegrityError for a bundle that is not whole, otherwise as `write_bundle`.
    """
    from icf_deploy.bundle.replacement import check_output
    from icf_deploy.bundle.verification import verify_bundle

    check_output(Path(path), overwrite=overwrite)
    verify_bundle(bundle)
    new = {engine.name: engine for engine in engines}
    document = json.loads(bundle.manifest_bytes)
    kept = [entry for entry in document.get("engines", ()) if entry["name"] not in new]
    document["engines"] = [*kept, *(asdict(_engine_entry(engine)) for engine in new.values())]
    manifest_bytes = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    try:
        manifest = Manifest.from_json(manifest_bytes)
    except IntegrityError as error:
        raise UsageError(f"these do not make a bundle: {error}") from error

    def files() -> Iterator[tuple[str, bytes]]:
        yield MANIFEST_FILE, manifest_bytes
        for entry in manifest.files():
            added = new.get(entry.name) if isinstance(entry, EngineEntry) else None
            yield entry.file, bundle.content(entry) if added is None else added.data

    return write_folder(Path(path), files(), overwrite=overwrite)


def write_folder(path: Path, files: Iterable[tuple[str, bytes]], *, overwrite: bool) -> Bundle:
    """Write (path in the bundle, content) pairs as a folder and open it; it appears complete, or not at all. WorkError."""
    from icf_deploy.bundle.replacement import new_folder, write_through  # not part of a cold start

    with new_folder(path, overwrite=overwrite) as folder:
        for file, data in files:
            (folder / file).parent.mkdir(exist_ok=True)
            write_through(folder / file, data)
    return open_bundle(path)


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


def _engine_entry(engine: NewEngine) -> EngineEntry:
    return EngineEntry(
        **_facts(engine_file(engine.name), engine.data),
        name=engine.name,
        runtime=engine.runtime,
        target=engine.target,
        version=engine.version,
        graph=engine.graph,
        options=engine.options,
    )


def _facts(file: str, data: bytes) -> dict[str, Any]:
    """The fields of FileEntry."""
    return {"file": file, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _require_readable(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """UsageError where a reader would refuse what is about to be written."""
    try:
        Manifest.from_json(manifest.to_json())
        for graph in manifest.graphs:
            check_graph(files[graph.file], graph.file)
        entry = manifest.reference
        decode_reference(files[entry.file], entry.photos, manifest.size, manifest.stride, entry.file)
        if manifest.checkpoint is not None:
            require_safetensors(files[manifest.checkpoint.file], manifest.checkpoint.file)
        if manifest.sensitivity is not None:
            from icf_deploy.bundle.sensitivity import Sensitivity  # not part of a cold start

            Sensitivity.from_json(files[manifest.sensitivity.file], manifest.sensitivity.file)
    except (IntegrityError, ValueError) as error:  # ValueError: a measurement that is no number
        raise UsageError(f"these do not make a bundle: {error}") from error
