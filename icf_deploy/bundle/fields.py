"""Reading a JSON object that came from outside: every getter checks type and range, and says where it found what."""

from __future__ import annotations

import json
import math
import re
from typing import TypeAlias

from icf_deploy.errors import IntegrityError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

TEXT_LIMIT = 4096  # characters of one text: a command line fits, a novel doesn't
SHOWN = 60  # characters of a found value that a message repeats


def parse_object(data: bytes, place: str) -> Fields:
    """The JSON object in `data`. IntegrityError for what is no UTF-8, no JSON, not one object, or says a key twice."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # ValueError covers decoding, syntax, and absurdly long integers
        raise IntegrityError(f"{place} is not readable JSON ({str(error) or 'nested too deeply'})") from error
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

    def text(self, name: str, pattern: str = r"[^\x00-\x1f\x7f]*", meaning: str = "a text of one line") -> str:
        """A text that matches all of `pattern`, which `meaning` describes."""
        value = self._get(name)
        if not isinstance(value, str) or len(value) > TEXT_LIMIT or not re.fullmatch(pattern, value):
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

    def children(self, name: str, limit: int) -> list[Fields]:
        """A list of at most `limit` objects."""
        return [Fields(value, f"{self.place}: {name}[{i}]") for i, value in enumerate(self._list(name, limit))]

    def free(self, name: str) -> dict[str, Json]:
        """An object of any content; an empty one where the field is missing."""
        value = self._values.get(name, {})
        if not isinstance(value, dict):
            raise self._wrong(name, "an object", value)
        return value

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


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a field is there twice")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
