"""Reading a JSON object that came from outside: every getter checks type and range, and says where it found what."""

from __future__ import annotations

import json
import math
import re
from typing import TypeAlias

from icf_deploy.errors import IntegrityError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

TEXT_LIMIT = 4096  # characters of one text: a command line fits, a novel doesn't
DEPTH_LIMIT = 32  # objects and lists inside each other; the manifest itself needs five
DIGIT_LIMIT = 32  # characters of one number; 17 digits and an exponent say every double
SHOWN = 60  # characters of a found value that a message repeats

# What a text must not hold: control characters, which a terminal obeys; halves of surrogate pairs, which cannot be printed;
# line separators; and the marks that make text read in another order than it stands.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_STRING = re.compile(rb'"[^"\\]*(?:\\(?:.|\Z)[^"\\]*)*(?:"|\Z)', re.DOTALL)  # to the end where it isn't closed: one pass
_BRACKET = re.compile(rb"[\[\]{}]")


def parse_object(data: bytes, place: str) -> Fields:
    """The JSON object in `data`, which is strict JSON: no NaN, no field twice, nothing nested beyond DEPTH_LIMIT.

    Raises IntegrityError for everything else, and for a text with UNPRINTABLE characters anywhere in it.
    """
    try:
        _require_shallow(data)
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
        _require_printable(value)
    except ValueError as error:  # covers decoding, too
        raise IntegrityError(f"{place} is not readable JSON ({error})") from error
    return Fields(value, place)


class Fields:
    """One JSON object and the place where it stands. Every method raises IntegrityError for what does not fit."""

    def __init__(self, value: Json, place: str) -> None:
        if not isinstance(value, dict):
            raise IntegrityError(f"{place}: expected an object, found {_shown(value)}")
        self._values = value
        self.place = place

    def integer(self, name: str, low: int, high: int) -> int:
        """A whole number in low..high."""
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(name, f"a whole number from {low} to {high}", value)
        return value

    def number(self, name: str) -> float:
        """A finite number, not negative."""
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise self._wrong(name, "a number, 0 or more", value)
        return float(value)

    def text(self, name: str, pattern: str = r".*", meaning: str = "a text of one line") -> str:
        """A text that matches all of `pattern`, which `meaning` describes."""
        value = self._get(name)
        if (
            not isinstance(value, str)
            or len(value) > TEXT_LIMIT
            or UNPRINTABLE.search(value)
            or not re.fullmatch(pattern, value)
        ):
            raise self._wrong(name, meaning, value)
        return value

    def texts(self, name: str, limit: int) -> tuple[str, ...]:
        """A list of at most `limit` texts of one line."""
        values = self._list(name, limit)
        return tuple(Fields({name: value}, f"{self.place}[{i}]").text(name) for i, value in enumerate(values))

    def size(self, name: str, multiple: int, high: int) -> tuple[int, int]:
        """[H, W], both multiples of `multiple` up to `high`."""
        value = self._get(name)
        if (
            not isinstance(value, list)
            or [type(side) for side in value] != [int, int]
            or any(side % multiple or not multiple <= side <= high for side in value if isinstance(side, int))
        ):
            raise self._wrong(name, f"[H, W], multiples of {multiple} up to {high}", value)
        return int(str(value[0])), int(str(value[1]))

    def child(self, name: str) -> Fields:
        """An object."""
        return Fields(self._get(name), f"{self.place}: {name}")

    def children(self, name: str, limit: int, *, optional: bool = False) -> list[Fields]:
        """A list of at most `limit` objects; `optional`: an empty one where the field is missing."""
        if optional and name not in self._values:
            return []
        return [Fields(value, f"{self.place}: {name}[{i}]") for i, value in enumerate(self._list(name, limit))]

    def free(self, name: str) -> dict[str, Json]:
        """An object of any content; an empty one where the field is missing."""
        value = self._values.get(name, {})
        if not isinstance(value, dict):
            raise self._wrong(name, "an object", value)
        return value

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self._values

    def is_null(self, name: str) -> bool:
        """Whether the field is null."""
        return self._get(name) is None

    def _list(self, name: str, limit: int) -> list[Json]:
        value = self._get(name)
        if not isinstance(value, list) or len(value) > limit:
            raise self._wrong(name, f"a list of at most {limit}", value)
        return value

    def _get(self, name: str) -> Json:
        if name not in self._values:
            raise IntegrityError(f"{self.place}: field {name!r} is missing")
        return self._values[name]

    def _wrong(self, name: str, expected: str, found: Json) -> IntegrityError:
        return IntegrityError(f"{self.place}: {name}: expected {expected}, found {_shown(found)}")


def _shown(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _require_shallow(data: bytes) -> None:
    """ValueError beyond DEPTH_LIMIT. Python's parser recurses, and how far it may is for the application to set."""
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", data)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > DEPTH_LIMIT:
            raise ValueError(f"nested deeper than {DEPTH_LIMIT}")


def _require_printable(value: Json) -> None:
    """ValueError for a key or text that a terminal would obey, or could not show."""
    if isinstance(value, str):
        found = UNPRINTABLE.search(value)
        if found:
            raise ValueError(f"a text holds the unprintable character {found[0]!a}")
    elif isinstance(value, list):
        for item in value:
            _require_printable(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _require_printable(key)
            _require_printable(item)


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    values: dict[str, Json] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"field {_shown(key)} is there twice")
        values[key] = value
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if len(digits) > DIGIT_LIMIT or not math.isfinite(value):
        raise ValueError(f"the number {digits[:DIGIT_LIMIT]} is too large or too long")
    return value


def _integer(digits: str) -> int:
    if len(digits) > DIGIT_LIMIT:  # before int() works on a million digits
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
