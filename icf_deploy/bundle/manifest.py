"""manifest.json: what a bundle holds. One dataclass per object of the JSON; `from_json` trusts nothing.

A field that an older reader may ignore can be added within a format, and readers do ignore fields that they do not know. What
changes the meaning of a field raises FORMAT, and older readers then refuse the bundle.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from icf_deploy.bundle.fields import Fields, Json, parse_object
from icf_deploy.bundle.reference import require_plausible_length
from icf_deploy.errors import ArtefactError, IntegrityError

FORMAT = 1
MANIFEST_FILE = "manifest.json"
REFERENCE_FILE = "reference.npz"
CHECKPOINT_FILE = "checkpoint.safetensors"
SENSITIVITY_FILE = "sensitivity.json"
GRAPH_FOLDER = "graphs"
ENGINE_FOLDER = "engines"
GRAPH_SUFFIX = ".onnx"
ENGINE_SUFFIX = ".engine"

MANIFEST_LIMIT = 4 * 2**20  # bytes; 256 graphs with a sensitivity table of every block stay far below
FILE_LIMIT = 2**31 - 1  # bytes; protobuf cannot hold more, so no graph can, and nothing else here is larger
GRAPH_LIMIT = 256  # graphs; all block recipes of icf-edge
ENGINE_LIMIT = 256  # engines
PHOTO_LIMIT = 1024  # photos of the reference set
REWRITE_LIMIT = 256
SIZE_MULTIPLE = 32  # the networks halve five times
SIZE_LIMIT = 8192  # pixels a side
STRIDE_LIMIT = 32
WHOLE = "whole"  # the part that a graph is which maps gray to ab
PARTS = (WHOLE, "features", "palette", "paint")

# Lower case, so that no two names are one on Windows and macOS; and not those that Windows keeps for its devices.
_NAME = r"(?!(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$))[a-z0-9][a-z0-9._-]{0,63}"
_NAME_MEANING = "a name of lower-case letters, digits, dots, dashes and underscores, and not a device of Windows"
_DIGEST = r"[0-9a-f]{64}"
_DIGEST_MEANING = "64 hexadecimal digits"
_RECIPE = r"[a-z0-9]{1,16}(\+[a-z0-9]{1,16}){0,7}"


@dataclass(frozen=True)
class FileEntry:
    """One file: its path in the bundle, the hex SHA-256 of its content, its length in bytes."""

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class SkippedRewrite:
    """A rewrite whose precondition did not hold."""

    name: str
    reason: str


@dataclass(frozen=True)
class Lowering:
    """Which exact rewrites were applied, in order, and which were not."""

    applied: tuple[str, ...] = ()
    skipped: tuple[SkippedRewrite, ...] = ()


@dataclass(frozen=True)
class GraphEntry(FileEntry):
    """One graph. `recipe`: number formats asked for, joined by "+". `part`: one of PARTS. `measurements`: free, e.g. gmac."""

    name: str
    recipe: str
    size: tuple[int, int]
    part: str = WHOLE
    lowering: Lowering = field(default_factory=Lowering)
    measurements: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineEntry(FileEntry):
    """One engine, built for somebody else's device: machine code, which nothing reads unless its user asks for that.

    runtime: who built it and alone can open it, e.g. "trt". target: what it was built for, in that runtime's words, e.g.
    "sm86". version: of the engine's own package, e.g. "tensorrt_rtx 1.7.1". graph: name of the graph that was compiled.
    options: free, what the builder was told.
    """

    name: str
    runtime: str
    target: str
    version: str
    graph: str
    options: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class ReferenceEntry(FileEntry):
    """The reference set and the names of its photos, in order."""

    photos: tuple[str, ...]


@dataclass(frozen=True)
class Parity:
    """Largest |ab difference| of the default graph to PyTorch over `photos` photos at export, and the bound it had to keep."""

    max_abs_ab: float
    bound: float
    photos: int


@dataclass(frozen=True)
class Source:
    """The checkpoint that was exported: file name without its folder, hex SHA-256."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """What made the bundle: versions, time (ISO 8601), checkpoint (None: untrained), command line."""

    icf_deploy: str
    torch: str
    onnx: str
    python: str
    created: str
    source: Source | None
    command: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds. `size` (H, W) belongs to the default graph and the reference set; h = H / stride."""

    preset: str
    stride: int
    size: tuple[int, int]
    graphs: tuple[GraphEntry, ...]
    default_graph: str
    reference: ReferenceEntry
    checkpoint: FileEntry | None
    parity: Parity
    provenance: Provenance
    engines: tuple[EngineEntry, ...] = ()
    sensitivity: FileEntry | None = None

    def graph(self, name: str) -> GraphEntry | None:
        """The graph of this name."""
        return next((entry for entry in self.graphs if entry.name == name), None)

    def files(self) -> tuple[FileEntry, ...]:
        """Every file that the manifest vouches for."""
        optional = [entry for entry in (self.checkpoint, self.sensitivity) if entry is not None]
        return (*self.graphs, self.reference, *optional, *self.engines)

    def to_json(self) -> bytes:
        """UTF-8 JSON, the same bytes for the same manifest. Of engines and sensitivity it speaks only where there are some."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        for name in ("engines", "sensitivity"):
            if not values[name]:
                del values[name]
        return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, place: str = MANIFEST_FILE) -> Manifest:
        """Read what `to_json` wrote; `place` begins every message.

        Raises ArtefactError for a format newer than FORMAT, IntegrityError for everything else that is wrong.
        """
        fields = parse_object(data, place)
        found = fields.integer("format", 1, 2**31)
        if found > FORMAT:
            raise ArtefactError(
                f"{place} has bundle format {found}, and this icf-deploy reads up to {FORMAT}: pip install --upgrade icf-deploy"
            )
        manifest = cls(
            preset=fields.text("preset", _NAME, _NAME_MEANING),
            stride=fields.integer("stride", 1, STRIDE_LIMIT),
            size=fields.size("size", SIZE_MULTIPLE, SIZE_LIMIT),
            graphs=tuple(_graph(entry) for entry in fields.children("graphs", GRAPH_LIMIT)),
            default_graph=fields.text("default_graph", _NAME, _NAME_MEANING),
            reference=_reference(fields.child("reference")),
            checkpoint=None if fields.is_null("checkpoint") else _file(fields.child("checkpoint"), CHECKPOINT_FILE),
            parity=_parity(fields.child("parity")),
            provenance=_provenance(fields.child("provenance")),
            engines=tuple(_engine(entry) for entry in fields.children("engines", ENGINE_LIMIT, optional=True)),
            sensitivity=_file(fields.child("sensitivity"), SENSITIVITY_FILE) if fields.has("sensitivity") else None,
        )
        _require_consistent(manifest, place)
        return manifest


def graph_file(name: str) -> str:
    """Path in the bundle of the graph of this name: the only one that the layout knows."""
    return f"{GRAPH_FOLDER}/{name}{GRAPH_SUFFIX}"


def engine_file(name: str) -> str:
    """Path in the bundle of the engine of this name."""
    return f"{ENGINE_FOLDER}/{name}{ENGINE_SUFFIX}"


def is_in_layout(file: str) -> bool:
    """Whether a bundle of this format may hold a file at this path."""
    if file in (MANIFEST_FILE, REFERENCE_FILE, CHECKPOINT_FILE, SENSITIVITY_FILE):
        return True
    for folder, suffix in ((GRAPH_FOLDER, GRAPH_SUFFIX), (ENGINE_FOLDER, ENGINE_SUFFIX)):
        if file.startswith(f"{folder}/") and file.endswith(suffix):
            return re.fullmatch(_NAME, file[len(folder) + 1 : -len(suffix)]) is not None
    return False


def _require_consistent(manifest: Manifest, place: str) -> None:
    for kind, entries in (("graphs", manifest.graphs), ("engines", manifest.engines)):
        names = [entry.name for entry in entries]
        if len(set(names)) != len(names):
            raise IntegrityError(f"{place}: two {kind} have the same name")
    for i, engine in enumerate(manifest.engines):
        if manifest.graph(engine.graph) is None:
            raise IntegrityError(f"{place}: engines[{i}]: graph: there is no graph {engine.graph!r}")
    default = manifest.graph(manifest.default_graph)
    if default is None or default.part != WHOLE or default.size != manifest.size:
        raise IntegrityError(
            f"{place}: default_graph {manifest.default_graph!r} is no whole graph of size {list(manifest.size)}"
        )
    if SIZE_MULTIPLE % manifest.stride:
        raise IntegrityError(f"{place}: stride {manifest.stride} does not divide {SIZE_MULTIPLE}")
    reference = manifest.reference
    require_plausible_length(
        reference.bytes, len(reference.photos), manifest.size, manifest.stride, f"{place}: reference: bytes"
    )


def _file(fields: Fields, file: str) -> FileEntry:
    """A file entry that must stand at `file`: the manifest repeats the path for a reader's eye, it does not choose it."""
    found = fields.text("file")
    if found != file:
        raise IntegrityError(f"{fields.place}: file: expected {file!r}, found {found!r}")
    return FileEntry(file, fields.text("sha256", _DIGEST, _DIGEST_MEANING), fields.integer("bytes", 1, FILE_LIMIT))


def _graph(fields: Fields) -> GraphEntry:
    name = fields.text("name", _NAME, _NAME_MEANING)
    file = _file(fields, graph_file(name))
    lowering = fields.child("lowering")
    skipped = lowering.children("skipped", REWRITE_LIMIT)
    return GraphEntry(
        **dataclasses.asdict(file),
        name=name,
        recipe=fields.text("recipe", _RECIPE, 'number formats joined by "+"'),
        size=fields.size("size", SIZE_MULTIPLE, SIZE_LIMIT),
        part=fields.text("part", "|".join(PARTS), f"one of {', '.join(PARTS)}"),
        lowering=Lowering(
            applied=lowering.texts("applied", REWRITE_LIMIT),
            skipped=tuple(SkippedRewrite(rewrite.text("name"), rewrite.text("reason")) for rewrite in skipped),
        ),
        measurements=fields.free("measurements"),
    )


def _engine(fields: Fields) -> EngineEntry:
    name = fields.text("name", _NAME, _NAME_MEANING)
    return EngineEntry(
        **dataclasses.asdict(_file(fields, engine_file(name))),
        name=name,
        runtime=fields.text("runtime", _NAME, _NAME_MEANING),
        target=fields.text("target", _NAME, _NAME_MEANING),
        version=fields.text("version"),
        graph=fields.text("graph", _NAME, _NAME_MEANING),
        options=fields.free("options"),
    )


def _reference(fields: Fields) -> ReferenceEntry:
    photos = fields.texts("photos", PHOTO_LIMIT)
    if not photos:
        raise IntegrityError(f"{fields.place}: photos: expected at least one, found none")
    return ReferenceEntry(**dataclasses.asdict(_file(fields, REFERENCE_FILE)), photos=photos)


def _parity(fields: Fields) -> Parity:
    return Parity(fields.number("max_abs_ab"), fields.number("bound"), fields.integer("photos", 1, PHOTO_LIMIT))


def _provenance(fields: Fields) -> Provenance:
    source = None
    if not fields.is_null("source"):
        found = fields.child("source")
        source = Source(found.text("file"), found.text("sha256", _DIGEST, _DIGEST_MEANING))
    return Provenance(
        icf_deploy=fields.text("icf_deploy"),
        torch=fields.text("torch"),
        onnx=fields.text("onnx"),
        python=fields.text("python"),
        created=fields.text("created"),
        source=source,
        command=fields.text("command"),
    )
