"""What number format is asked for in each part of a network: a file of JSON that survives a re-export.

    {"format": 1,
     "network": {"preset": "icf-edge", "size": [256, 256], "digest": "..."},
     "default": "int8",
     "blocks": {"backbone.0": "fp32"},
     "nodes": {"backbone.blocks.3.layers.0/Conv": "fp32"},
     "reasons": {"backbone.0": "alone it drifts by de2000_p95 1.98"}}

A node's own entry counts before its block's, and that before the default. `"weight_bits": 7` gives int8 weights 7 bits
(`weights`); without it they have 8. Blocks: `blocks.BLOCKS`; keys of nodes:
`nodes.node_keys`. The digest (`identity.network_digest`) is that of the graph before any recipe: weights included, because the
ranges by which a recipe was chosen are theirs.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from icf_deploy.bundle.fields import Fields, Json, parse_object
from icf_deploy.errors import ArtefactError, IntegrityError, UsageError, WorkError
from icf_deploy.export.precision.blocks import BLOCKS, block_of
from icf_deploy.export.precision.weights import LARGEST_CODE, WEIGHT_BITS

FORMAT = 1
FORMATS = ("fp32", "fp16", "bf16", "int8", "fp8")
NEEDS_PHOTOS = ("fp16", "int8", "fp8")  # their ranges come from calibration
QUANTIZED = ("int8", "fp8")  # by scales; the others are types that a Cast reaches
SIZE_MULTIPLE, SIZE_LIMIT = 32, 8192
_DIGEST = r"[0-9a-f]{64}"
_FORMAT = "|".join(FORMATS)


@dataclass(frozen=True)
class Recipe:
    """Formats of the parts of one network. reasons: why a block or node has its format, for people."""

    preset: str
    size: tuple[int, int]
    digest: str
    default: str
    blocks: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    weight_bits: int = WEIGHT_BITS

    def __post_init__(self) -> None:
        for name, asked in {"default": self.default, **self.blocks, **self.nodes}.items():
            if asked not in FORMATS:
                raise UsageError(f"recipe: {name}: there is no format {asked!r}: choose one of {', '.join(FORMATS)}")
        if self.weight_bits not in LARGEST_CODE:
            raise UsageError(f"recipe: weight_bits: {self.weight_bits}: choose one of {', '.join(map(str, LARGEST_CODE))}")
        for block in self.blocks:
            if block not in BLOCKS:
                raise UsageError(f"recipe: there is no block {block!r}: there are {', '.join(BLOCKS)}")

    @property
    def formats(self) -> set[str]:
        """Every format that it names."""
        return {self.default, *self.blocks.values(), *self.nodes.values()}

    @property
    def needs_photos(self) -> bool:
        """Whether it can only be applied with a calibration."""
        return not self.formats.isdisjoint(NEEDS_PHOTOS)

    def format_of(self, key: str) -> str:
        """The format asked for at the node of this key."""
        if key in self.nodes:
            return self.nodes[key]
        return self.blocks.get(block_of(key), self.default) if self.blocks else self.default

    def require_network(self, digest: str, keys: Iterable[str]) -> None:
        """Raise ArtefactError where this recipe is for another network than that of `digest`, or names a node not in `keys`."""
        if digest != self.digest:
            raise ArtefactError(
                f"this recipe is for another network: it was made for {self.preset} {self.size[0]}x{self.size[1]} with digest "
                f"{self.digest[:12]}, and this one has {digest[:12]}. Other weights, another size and other rewrites each make "
                "another network: make the recipe again with `icf-deploy export --precision int8`"
            )
        known = set(keys)
        for key in self.nodes:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ArtefactError(f"this recipe names a node that the network does not have: {key!r}{hint}")

    def document(self) -> dict[str, Json]:
        """The recipe as values of JSON."""
        narrower = {} if self.weight_bits == WEIGHT_BITS else {"weight_bits": self.weight_bits}
        return {
            "format": FORMAT,
            "network": {"preset": self.preset, "size": list(self.size), "digest": self.digest},
            "default": self.default,
            **narrower,
            "blocks": dict(sorted(self.blocks.items())),
            "nodes": dict(sorted(self.nodes.items())),
            "reasons": dict(sorted(self.reasons.items())),
        }

    def to_json(self) -> bytes:
        """UTF-8 JSON, the same bytes for the same recipe."""
        return (json.dumps(self.document(), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, place: str = "recipe") -> Recipe:
        """Read what `to_json` wrote. ArtefactError for a newer format, IntegrityError for everything else that is wrong."""
        fields = parse_object(data, place)
        found = fields.integer("format", 1, 2**31)
        if found > FORMAT:
            raise ArtefactError(
                f"{place} has recipe format {found}, and this icf-deploy reads up to {FORMAT}: pip install --upgrade icf-deploy"
            )
        network = fields.child("network")
        try:
            return cls(
                preset=network.text("preset"),
                size=network.size("size", SIZE_MULTIPLE, SIZE_LIMIT),
                digest=network.text("digest", _DIGEST, "64 hexadecimal digits"),
                default=fields.text("default", _FORMAT, f"one of {', '.join(FORMATS)}"),
                blocks=_texts(fields, "blocks"),
                nodes=_texts(fields, "nodes"),
                reasons=_texts(fields, "reasons"),
                weight_bits=fields.integer("weight_bits", 1, WEIGHT_BITS) if fields.has("weight_bits") else WEIGHT_BITS,
            )
        except UsageError as error:
            raise IntegrityError(f"{place}: {str(error).removeprefix('recipe: ')}") from None

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """The recipe in a file. WorkError where it cannot be read; else as `from_json`."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise WorkError(f"{path}: cannot read the recipe: {error.strerror or error}") from error
        return cls.from_json(data, str(path))


def _texts(fields: Fields, name: str) -> dict[str, str]:
    found = fields.free(name)
    wrong = [key for key, value in found.items() if not isinstance(value, str)]
    if wrong:
        raise IntegrityError(f"{fields.place}: {name}: {wrong[0]}: expected a text, found {found[wrong[0]]!r}")
    return {key: str(value) for key, value in found.items()}
