"""What `export --precision` and `--recipe` do: from the float32 graph of a network to the graph of that precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from icf_deploy.bundle.fields import Json
from icf_deploy.export.precision.apply import AppliedGraph, apply_recipe
from icf_deploy.export.precision.calibrating import Calibrating
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.int8 import METRIC, choose_int8
from icf_deploy.export.precision.probe import DriftProbe
from icf_deploy.export.precision.recipe import Recipe

Say = Callable[[str], None]


@dataclass(frozen=True)
class NarrowGraph:
    """A graph with its recipe. facts: for the graph's `measurements` in the manifest: recipe, formats, what stayed wide."""

    applied: AppliedGraph
    recipe: Recipe
    facts: dict[str, Json] = field(repr=False)


def narrow(
    model: onnx.ModelProto,
    precision: str | Path,
    *,
    preset: str,
    size: tuple[int, int],
    stride: int,
    calibrating: Calibrating | None = None,
    weight_bits: int | None = None,
    say: Say | None = None,
) -> NarrowGraph:
    """Write a precision, or the recipe in a file, into a copy of a float32 graph.

    precision: one of `asked.PRECISIONS` but auto (int8 is the recipe that `int8.choose_int8` finds), or the path of a recipe.
    calibrating: of the same graph; None: on the packaged photos. weight_bits: of int8 weights; None: the recipe's own.
    Raises UsageError for an unknown precision, ArtefactError for a recipe of another network, WorkError for a folder without
    photos, BudgetError where int8 does not keep its drift target.
    """
    tell = say or (lambda _: None)
    digest = network_digest(model)
    asked = precision if isinstance(precision, str) else None
    recipe = Recipe.read(precision) if isinstance(precision, Path) else Recipe(preset, size, digest, str(asked))
    recipe = recipe if weight_bits is None else replace(recipe, weight_bits=weight_bits)
    if not recipe.needs_photos:
        applied = apply_recipe(model, recipe, digest=digest)
        return NarrowGraph(applied, recipe, facts_of(applied, recipe))
    calibrating = calibrating or Calibrating(model, size, say=say)
    calibration = calibrating.calibration(recipe.weight_bits)
    facts = calibrating.facts()
    if asked == "int8":
        tell("measuring which parts int8 leaves in float32")
        probe = DriftProbe(model, calibration, calibrating.photos, stride=stride)
        choice = choose_int8(recipe, calibration, probe, given=calibrating.left_wide, say=tell)
        recipe, applied = choice.recipe, choice.applied
        facts["drift_on_calibration"] = {METRIC: round(choice.drift, 4)}
    else:
        applied = apply_recipe(model, recipe, calibration, digest=digest)
    for key, reason in applied.kept.items():
        tell(f"{key} stays in float32: {reason}.")
    for key in sorted(recipe.reasons):
        chosen_format = recipe.nodes.get(key) or recipe.blocks.get(key)
        tell(f"{key}{f' in {chosen_format}' if chosen_format else ''}: {recipe.reasons[key]}.")
    return NarrowGraph(applied, recipe, facts | facts_of(applied, recipe))


def facts_of(applied: AppliedGraph, recipe: Recipe) -> dict[str, Json]:
    """What a graph's `measurements` in the manifest say about its precision."""
    counts: dict[str, Json] = dict(sorted(Counter(applied.formats.values()).items()))
    return {"recipe": recipe.document(), "formats": counts, "kept": dict(applied.kept)}
