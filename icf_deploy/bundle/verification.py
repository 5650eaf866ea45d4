"""Checking a bundle from end to end, and saying what was checked."""

from __future__ import annotations

from dataclasses import dataclass

from icf_deploy.bundle.archive import Archive
from icf_deploy.bundle.graph_check import check_graph
from icf_deploy.bundle.manifest import FORMAT, MANIFEST_FILE, EngineEntry, FileEntry, GraphEntry, ReferenceEntry
from icf_deploy.bundle.opening import Bundle, require_nothing_else, require_safetensors
from icf_deploy.bundle.reference import decode_reference
from icf_deploy.bundle.sensitivity import Sensitivity


@dataclass(frozen=True)
class CheckedFile:
    """One file that was read and found right. `found` says what it was checked for beyond length and SHA-256."""

    file: str
    bytes: int
    sha256: str
    found: str


def verify_bundle(bundle: Bundle) -> tuple[CheckedFile, ...]:
    """Read every file of a bundle and check all that can be checked without an engine; nothing in it is run.

    Raises IntegrityError for the first thing that is wrong: a file that is not what was written, that nobody vouches for,
    that is a link, a graph that reaches outside or holds machine code, a reference set that is none.
    """
    container = bundle.container
    require_nothing_else(bundle)
    manifest = bundle.manifest_bytes
    if isinstance(container, Archive):
        container.require_crc(MANIFEST_FILE, manifest)
    files = bundle.manifest.files()
    checked = [CheckedFile(MANIFEST_FILE, len(manifest), bundle.digest, f"format {FORMAT}, lists {len(files)} files")]
    for entry in files:
        data = bundle.content(entry)
        if isinstance(container, Archive):
            container.require_crc(entry.file, data)
        checked.append(CheckedFile(entry.file, entry.bytes, entry.sha256, _content(bundle, entry, data)))
    return tuple(checked)


def _content(bundle: Bundle, entry: FileEntry, data: bytes) -> str:
    """Look into one file; what was found. IntegrityError where it is not what its place in the layout says."""
    place = f"{bundle.path.name}: {entry.file}"
    if isinstance(entry, GraphEntry):
        check_graph(data, place)
        return f"ONNX, all its weights inside, no machine code; recipe {entry.recipe}"
    if isinstance(entry, ReferenceEntry):
        decode_reference(data, entry.photos, bundle.manifest.size, bundle.manifest.stride, place)
        return f"{len(entry.photos)} photos, shapes and values in range"
    if isinstance(entry, EngineEntry):
        return f"machine code of {entry.version} for {entry.target}, not looked into; used only with trust_engines=True"
    if entry == bundle.manifest.sensitivity:
        table = Sensitivity.from_json(data, place)
        return f"{len(table.parts)} parts of the network and {len(table.points)} recipes, with their drift"
    require_safetensors(data, place)
    return "safetensors, no pickle"
