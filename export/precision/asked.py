"""What may be asked of `export --precision`, `--recipe`, `--weight-bits` and `--photos`, looked at before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icf_deploy.errors import UsageError
from icf_deploy.export.precision.auto import require_engines
from icf_deploy.export.precision.photos import require_folder
from icf_deploy.export.precision.recipe import NEEDS_PHOTOS, Recipe
from icf_deploy.export.precision.weights import LARGEST_CODE

FP32 = "fp32"
AUTO = "auto"  # several graphs, by measuring: `auto.find_front`
PRECISIONS = (FP32, "fp16", "bf16", "int8", AUTO)
RECIPE_NAME = "recipe"  # of the graph that a recipe in a file makes

Precision = str | Path
"""One of PRECISIONS, or the path of a recipe."""


@dataclass(frozen=True)
class Asked:
    """The precisions of one export, in the order of its graphs. weight_bits: None: 8, or what a recipe says."""

    precisions: tuple[Precision, ...]
    photos: Path | None = None
    search_on: tuple[str, ...] = ()
    weight_bits: int | None = None

    @property
    def auto(self) -> bool:
        """Whether a search says which graphs there are."""
        return AUTO in self.precisions


def require_precisions(
    precision: Precision | Sequence[Precision],
    *,
    photos: Path | None = None,
    search_on: Sequence[str] = (),
    weight_bits: int | None = None,
    split: bool = False,
) -> Asked:
    """What was asked for, once it makes sense.

    Raises UsageError for a precision that is none, several that do not go together, photos or bits that nothing needs, and
    engines without auto; WorkError for a recipe that cannot be read and photos that are no folder; else as `require_engines`.
    """
    given = (precision,) if isinstance(precision, (str, Path)) else tuple(dict.fromkeys(precision))
    for one in given:
        if isinstance(one, str) and one not in PRECISIONS:
            raise UsageError(f"there is no precision {one!r}: choose one of {', '.join(PRECISIONS)}")
    if not given:
        raise UsageError(f"no precision is asked for: choose one of {', '.join(PRECISIONS)}")
    asked = Asked(given, photos, tuple(search_on), weight_bits)
    if sum(isinstance(one, Path) for one in given) > 1:
        raise UsageError("one bundle has the graph of one recipe: give --recipe once")
    if asked.auto:
        if len(given) > 1:
            raise UsageError(
                "--precision auto writes the float32 graph, the int8 graph and what it finds: leave the other precisions out"
            )
        require_engines(search_on)
    elif search_on:
        raise UsageError(f"--engine {search_on[0]} names an engine to search recipes on: add --precision auto")
    if split and (FP32 not in given or asked.auto):
        raise UsageError("--split writes the steps in fp32: add --precision fp32, or leave --split out")
    formats = {form for one in given for form in _formats(one)}
    _require_needed(asked, formats)
    return asked


def _require_needed(asked: Asked, formats: set[str]) -> None:
    """What is given is for something."""
    if asked.weight_bits is not None:
        if asked.weight_bits not in LARGEST_CODE:
            raise UsageError(f"--weight-bits {asked.weight_bits}: choose one of {', '.join(map(str, LARGEST_CODE))}")
        if "int8" not in formats and not asked.auto:
            raise UsageError(f"--weight-bits are of int8 weights, and {_words(formats)} has none: add --precision int8")
    if asked.photos is not None:
        if not asked.auto and not formats.intersection(NEEDS_PHOTOS):
            raise UsageError(
                f"--photos are for calibration, and {_words(formats)} needs none: add --precision int8, or leave them out"
            )
        require_folder(asked.photos)


def _formats(precision: Precision) -> set[str]:
    return {precision} if isinstance(precision, str) else Recipe.read(precision).formats


def _words(formats: set[str]) -> str:
    return " and ".join(sorted(formats))
