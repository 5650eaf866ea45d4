"""sensitivity.json: what `export --precision auto` measured, so that a device can say which part causes the drift it sees.

Per part of the network (a block, or one node): the drift that this part alone causes in a number format, everything else in
float32, and the latency that it gains. And every recipe that was measured whole, with the name of its graph where the bundle
carries it. Written on the host; read anywhere, without torch and onnx. `from_json` trusts nothing.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from icf_deploy.bundle.fields import Fields, parse_object
from icf_deploy.errors import ArtefactError, IntegrityError

FORMAT = 1
SENSITIVITY_LIMIT = 4 * 2**20  # bytes; 256 recipes with every node of DDColor stay far below
PART_LIMIT = 4096  # blocks and nodes, in all formats
POINT_LIMIT = 1024  # recipes that were measured
ENGINE_LIMIT = 64  # engines of one part or recipe

WIDE = "fp32"
_FORMATS = ("fp32", "fp16", "bf16", "int8", "fp8")
_FORMAT = "|".join(_FORMATS)
_FORMAT_MEANING = f"one of {', '.join(_FORMATS)}"
_DIGEST = r"[0-9a-f]{64}"
_DIGEST_MEANING = "64 hexadecimal digits"


@dataclass(frozen=True)
class Ratio:
    """A paired latency ratio with its 95 % interval; below 1 is faster."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Gain:
    """What a part's format does to the latency of one engine: with it over without it, and both medians.

    milliseconds: with the part in its format. baseline: with everything in float32 in the graph, in the same run.
    """

    engine: str
    time: Ratio
    milliseconds: float
    baseline: float


@dataclass(frozen=True)
class Part:
    """One part alone in `format`, everything else in float32.

    name: a block, or the key of a node. block: the block that it is, or is in. engine: which engine computed the drift.
    de2000_p95, de2000_mean: as in the budget grammar, mean over photos; infinite where the engine gave no colour.
    """

    name: str
    block: str
    format: str
    engine: str
    de2000_p95: float
    de2000_mean: float
    gains: tuple[Gain, ...] = ()

    @property
    def is_block(self) -> bool:
        """Whether it is a whole block."""
        return self.name == self.block


@dataclass(frozen=True)
class Run:
    """One recipe on one engine: drift, and latency in milliseconds where it was timed.

    predicted: what the sum of its blocks' gains said before it was timed. time: over the float32 graph on this engine.
    """

    engine: str
    de2000_p95: float
    de2000_mean: float
    predicted: float | None = None
    milliseconds: float | None = None
    time: Ratio | None = None


@dataclass(frozen=True)
class Point:
    """One recipe that was measured. graph: its name in the bundle; None where the bundle does not carry it.

    blocks: {block: format}, every block of the network. nodes: {key: format}, those that differ from their block.
    """

    graph: str | None
    blocks: Mapping[str, str]
    nodes: Mapping[str, str] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()

    def on(self, engine: str) -> Run | None:
        """What was measured on this engine."""
        return next((run for run in self.runs if run.engine == engine), None)


@dataclass(frozen=True)
class Sensitivity:
    """Everything that was measured of one network.

    preset, size, network: whose it is; `network` is the digest that recipes carry. photos: on what the drift was measured,
    in words; views: how many pictures that were. machine: the host's processor. points: in the order of measuring.
    """

    preset: str
    size: tuple[int, int]
    network: str
    photos: str
    views: int
    machine: str
    parts: tuple[Part, ...]
    points: tuple[Point, ...]

    @property
    def blocks(self) -> tuple[Part, ...]:
        """The parts that are whole blocks, worst first."""
        return _worst_first(part for part in self.parts if part.is_block)

    @property
    def nodes(self) -> tuple[Part, ...]:
        """The parts that are single nodes, worst first."""
        return _worst_first(part for part in self.parts if not part.is_block)

    def point(self, graph: str) -> Point | None:
        """What was measured of the bundle's graph of this name."""
        return next((point for point in self.points if point.graph == graph), None)

    def causes(self, graph: str, *, wide: str = WIDE) -> tuple[Part, ...]:
        """The blocks that make this graph drift, worst first: each with what it causes alone in the format that it has there.

        wide: the format in which the engine ran what the graph leaves in float32, e.g. bf16 on `openvino:cpu-bf16`. Empty
        for a graph of which nothing was measured.
        """
        point = self.point(graph)
        if point is None:
            return ()
        formats = {block: wide if form == WIDE else form for block, form in point.blocks.items()}
        return tuple(part for part in self.blocks if formats.get(part.name) == part.format)

    def to_json(self) -> bytes:
        """UTF-8 JSON, the same bytes for the same values; null for a drift that is not finite."""
        values = _finite({"format": FORMAT, **dataclasses.asdict(self)})
        return (json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, place: str = "sensitivity.json") -> Sensitivity:
        """Read what `to_json` wrote; `place` begins every message.

        Raises ArtefactError for a format newer than FORMAT, IntegrityError for everything else that is wrong.
        """
        fields = parse_object(data, place)
        found = fields.integer("format", 1, 2**31)
        if found > FORMAT:
            raise ArtefactError(
                f"{place} has format {found}, and this icf-deploy reads up to {FORMAT}: pip install --upgrade icf-deploy"
            )
        return cls(
            preset=fields.text("preset"),
            size=fields.size("size", 1, 2**16),
            network=fields.text("network", _DIGEST, _DIGEST_MEANING),
            photos=fields.text("photos"),
            views=fields.integer("views", 1, 2**31),
            machine=fields.text("machine"),
            parts=tuple(_part(entry) for entry in fields.children("parts", PART_LIMIT)),
            points=tuple(_point(entry) for entry in fields.children("points", POINT_LIMIT)),
        )


def _worst_first(parts: Iterable[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=lambda part: -part.de2000_p95))


def _part(fields: Fields) -> Part:
    return Part(
        name=fields.text("name"),
        block=fields.text("block"),
        format=fields.text("format", _FORMAT, _FORMAT_MEANING),
        engine=fields.text("engine"),
        de2000_p95=_drift(fields, "de2000_p95"),
        de2000_mean=_drift(fields, "de2000_mean"),
        gains=tuple(_gain(entry) for entry in fields.children("gains", ENGINE_LIMIT)),
    )


def _gain(fields: Fields) -> Gain:
    return Gain(fields.text("engine"), _ratio(fields.child("time")), fields.number("milliseconds"), fields.number("baseline"))


def _ratio(fields: Fields) -> Ratio:
    return Ratio(fields.number("ratio"), fields.number("low"), fields.number("high"))


def _point(fields: Fields) -> Point:
    return Point(
        graph=None if fields.is_null("graph") else fields.text("graph"),
        blocks=_formats(fields, "blocks"),
        nodes=_formats(fields, "nodes"),
        runs=tuple(_run(entry) for entry in fields.children("runs", ENGINE_LIMIT)),
    )


def _run(fields: Fields) -> Run:
    return Run(
        engine=fields.text("engine"),
        de2000_p95=_drift(fields, "de2000_p95"),
        de2000_mean=_drift(fields, "de2000_mean"),
        predicted=None if fields.is_null("predicted") else fields.number("predicted"),
        milliseconds=None if fields.is_null("milliseconds") else fields.number("milliseconds"),
        time=None if fields.is_null("time") else _ratio(fields.child("time")),
    )


def _formats(fields: Fields, name: str) -> dict[str, str]:
    """{block or node: format}."""
    place = f"{fields.place}: {name}"
    found = fields.free(name)
    if len(found) > PART_LIMIT:
        raise IntegrityError(f"{place}: expected at most {PART_LIMIT} parts, found {len(found)}")
    return {key: Fields({key: value}, place).text(key, _FORMAT, _FORMAT_MEANING) for key, value in found.items()}


def _drift(fields: Fields, name: str) -> float:
    return math.inf if fields.is_null(name) else fields.number(name)


def _finite(value: object) -> object:
    """The same with null for every number that is not finite, and lists for tuples."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, tuple | list) else value
