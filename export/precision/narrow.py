"""What `export --precision` and `--recipe` do: from the float32 graph of a network to the graph of that precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from icf_deploy.bundle.fields import Json
from icf_deploy.errors import UsageError
from icf_deploy.export.precision.apply import AppliedGraph, apply_recipe
from icf_deploy.export.precision.calibration import DEFAULT_METHOD
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.int8 import METRIC, choose_int8
from icf_deploy.export.precision.photos import CalibrationPhotos, packaged_photos, photos_of, require_folder
from icf_deploy.export.precision.probe import DriftProbe
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.export.precision.scale_cache import calibrated
from icf_deploy.export.precision.trained import TrainedRanges, as_trained

AUTO = "auto"  # several graphs, by measuring: `auto.find_front`
PRECISIONS = ("fp32", "fp16", "bf16", "int8", AUTO)
NEEDS_PHOTOS = ("fp16", "int8", "fp8", AUTO)
NAMED = 3  # how many skipped files a line names

Say = Callable[[str], None]


@dataclass(frozen=True)
class NarrowGraph:
    """A graph with its recipe. facts: for the graph's `measurements` in the manifest: recipe, formats, what stayed wide."""

    applied: AppliedGraph
    recipe: Recipe
    facts: dict[str, Json] = field(repr=False)


def require_precision(precision: str | Path, photos: Path | None = None) -> None:
    """Look at what was asked for before any work: UsageError for a precision that is none, and for photos that are not needed;
    WorkError for a recipe that cannot be read and photos that are no folder."""
    if isinstance(precision, str) and precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if photos is None and isinstance(precision, str):
        return
    wanted = {precision} if isinstance(precision, str) else _formats_of(Recipe.read(precision))
    if photos is not None and not wanted.intersection(NEEDS_PHOTOS):
        raise UsageError(
            f"--photos are for calibration, and {' and '.join(sorted(wanted))} needs none: "
            "add --precision int8, or leave them out"
        )
    if photos is not None:
        require_folder(photos)


def _formats_of(recipe: Recipe) -> set[str]:
    return {recipe.default, *recipe.blocks.values(), *recipe.nodes.values()}


def narrow(
    model: onnx.ModelProto,
    precision: str | Path,
    *,
    preset: str,
    size: tuple[int, int],
    stride: int,
    photos: Path | None = None,
    method: str = DEFAULT_METHOD,
    trained: TrainedRanges | None = None,
    say: Say | None = None,
) -> NarrowGraph:
    """Write a precision, or the recipe in a file, into a copy of a float32 graph.

    precision: one of PRECISIONS (int8 is the recipe that `int8.choose_int8` finds), or the path of a recipe. photos: a folder
    to calibrate on; None: the packaged ones. trained: what `train --qat` left in the checkpoint; int8 takes it as it is.
    Raises UsageError for an unknown precision or method, ArtefactError for a recipe of another network, WorkError for a folder
    without photos, BudgetError where int8 does not keep its drift target.
    """
    tell = say or (lambda _: None)
    asked = precision if isinstance(precision, str) else None
    digest = network_digest(model)
    if asked is not None:
        require_precision(asked)
        recipe = Recipe(preset, size, digest, asked)
    else:
        assert isinstance(precision, Path)
        recipe = Recipe.read(precision)
    if not _formats_of(recipe).intersection(NEEDS_PHOTOS):
        applied = apply_recipe(model, recipe)
        return NarrowGraph(applied, recipe, facts_of(applied, recipe))
    chosen = packaged_photos(size) if photos is None else photos_of(photos, size)
    tell_photos(chosen, tell)
    calibration = calibrated(model, chosen, method=method)
    facts: dict[str, Json] = {"calibration": {"photos": len(chosen.names), "digest": chosen.digest, "method": method}}
    if trained is not None:
        tell("int8 with the ranges and weights that train --qat fitted to each other")
        calibration = as_trained(model, calibration, trained)
        facts["trained_ranges"] = {"size": list(trained.size), "count": len(trained.ranges)}
    if asked == "int8":
        tell("measuring which parts int8 leaves in float32")
        probe = DriftProbe(model, calibration, chosen, stride=stride)
        left = {} if trained is None else dict.fromkeys(trained.wide, "train --qat left it wide")
        choice = choose_int8(recipe, calibration, probe, given=left)
        recipe, applied = choice.recipe, choice.applied
        facts["drift_on_calibration"] = {METRIC: round(choice.drift, 4)}
    else:
        applied = apply_recipe(model, recipe, calibration)
    for key, reason in applied.kept.items():
        tell(f"{key} stays in float32: {reason}")
    for key in sorted(recipe.reasons):
        chosen_format = recipe.nodes.get(key) or recipe.blocks.get(key)
        tell(f"{key}{f' in {chosen_format}' if chosen_format else ''}: {recipe.reasons[key]}")
    return NarrowGraph(applied, recipe, facts | facts_of(applied, recipe))


def facts_of(applied: AppliedGraph, recipe: Recipe) -> dict[str, Json]:
    """What a graph's `measurements` in the manifest say about its precision."""
    counts: dict[str, Json] = dict(sorted(Counter(applied.formats.values()).items()))
    return {"recipe": recipe.document(), "formats": counts, "kept": dict(applied.kept)}


def tell_photos(photos: CalibrationPhotos, tell: Say) -> None:
    """Say what is calibrated on, and which files could not be read."""
    tell(f"calibrating on {photos.source}: {len(photos.names)} views")
    if photos.skipped:
        names = ", ".join(name for name, _ in photos.skipped[:NAMED])
        tell(f"skipped {len(photos.skipped)} files that could not be read: {names}")
