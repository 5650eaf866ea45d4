"""Drift and latency of recipes on the engines of this machine: what a search asks, and what its ledger remembers."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from icf_deploy.benchmarks import Candidate, compare
from icf_deploy.errors import ArtefactError
from icf_deploy.export.precision.apply import AppliedGraph, apply_recipe
from icf_deploy.export.precision.calibration import Calibration
from icf_deploy.export.precision.ledger import Ledger, recipe_key
from icf_deploy.export.precision.probe import PROBE_ENGINE, DriftProbe, HasDrift, Probe
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.export.precision.search import Drifted, Timed
from icf_deploy.export.precision.space import INT8, Choice, Parts, Space
from icf_deploy.runtimes.base import FloatArray
from icf_deploy.runtimes.cache_folder import FOLDER_VARIABLE, OFF

MEAN = "de2000_mean"
TOGETHER = 4  # recipes in one comparison, the wide graph not counted: each lives in a process, with its memory
SECONDS, CALLS = 0.2, 3  # of one turn, at least
TIMED_PHOTOS = 4  # that calls walk through; latency hardly depends on the picture
WIDE_LABEL = "wide"
MILLISECOND = 1e6  # nanoseconds

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How long a latency is measured. rounds: in all. processes: fresh ones of each engine, whose spread counts if several."""

    rounds: int
    processes: int


LOOK = Effort(rounds=6, processes=1)  # for what only guides a search
PROOF = Effort(rounds=9, processes=3)  # for what is chosen among


class Measuring:
    """Measures recipes of one network, each once: what the ledger has is not measured again.

    model: the float32 graph. metric: of the budgets. probe: of the same model and calibration.
    """

    def __init__(
        self, model: onnx.ModelProto, calibration: Calibration, probe: DriftProbe, *, metric: str, ledger: Ledger, say: Progress
    ) -> None:
        self._model, self._calibration, self._probe = model, calibration, probe
        self.metric, self._ledger, self._say = metric, ledger, say

    @property
    def model(self) -> onnx.ModelProto:
        """The float32 graph."""
        return self._model

    @property
    def probe(self) -> DriftProbe:
        """What measures drift, without the ledger."""
        return self._probe

    def drift(self, engine: str, recipe: Recipe, what: str) -> Drifted:
        """Drift of a recipe on an engine; infinite where the engine does not take its graph. what: it is, in words."""
        key = ("drift", engine, _key(recipe))
        known = self._ledger.get(*key)
        if known is None:
            try:
                with engines_kept_in(None):
                    table, _ = self._probe.measure(recipe, engine=engine)
                value, mean = table.value(self.metric), table.value(MEAN)
                self._say(f"{what} on {engine}: {self.metric} {value:.2f}.")
            except ArtefactError as error:
                value = mean = math.inf
                self._say(f"{what} on {engine}: refused: {error}.")
            known = {"value": _json(value), "mean": _json(mean)}
            self._ledger.put(known, *key)
        return Drifted(_number(known["value"]), _number(known["mean"]))

    def remembering(self) -> Probe:
        """A probe that measures no recipe twice. Its graphs are empty: it is for finding a recipe."""
        return _Remembering(self)

    def time(self, engine: str, recipes: Sequence[tuple[Recipe, str]], wide: Recipe, effort: Effort) -> list[Timed | None]:
        """Latency of recipes (each with what it is, in words) side by side with the wide one; None for one that failed."""
        keys = [("time", engine, str(effort.processes), _key(recipe)) for recipe, _ in recipes]
        missing = [(key, *recipe) for key, recipe in zip(keys, recipes, strict=True) if self._ledger.get(*key) is None]
        for start in range(0, len(missing), TOGETHER):
            self._compare(engine, missing[start : start + TOGETHER], wide, effort)
        found = [self._ledger.get(*key) for key in keys]
        return [Timed(**known) if known else None for known in found]

    def _compare(self, engine: str, batch: Sequence[tuple[tuple[str, ...], Recipe, str]], wide: Recipe, effort: Effort) -> None:
        with tempfile.TemporaryDirectory(prefix="icf-search-") as folder, engines_kept_in(Path(folder) / "engines"):
            rows = [self._candidate(WIDE_LABEL, engine, wide, Path(folder) / "wide.onnx")]
            for number, (_, recipe, what) in enumerate(batch):
                rows.append(self._candidate(f"{number} {what}", engine, recipe, Path(folder) / f"{number}.onnx"))
            found = compare(
                rows,
                rounds=effort.rounds,
                processes=effort.processes,
                seconds_per_turn=SECONDS,
                calls_per_turn=CALLS,
                inputs=self._photos,
            )
        if found.interrupted:
            raise KeyboardInterrupt
        baseline = found.row(WIDE_LABEL)
        if baseline.error is not None:
            raise baseline.error
        for (key, _, what), row in zip(batch, rows[1:], strict=True):
            measured, ratio = found.row(row.label), found.ratio(row.label)
            if measured.error is not None or ratio is None:
                self._say(f"{what} on {engine}: failed: {measured.error}.")
                self._ledger.put({}, *key)
                continue
            timed = Timed(ratio.ratio, ratio.low, ratio.high, _median(measured.samples), _median(baseline.samples))
            self._ledger.put(asdict(timed), *key)
            self._say(f"{what} on {engine}: {timed.milliseconds:.2f} ms, {timed.ratio:.3f} of {timed.baseline:.2f} ms.")

    def _candidate(self, label: str, engine: str, recipe: Recipe, path: Path) -> Candidate:
        applied = apply_recipe(self._model, recipe, self._calibration)
        path.write_bytes(applied.model.SerializeToString())
        return Candidate(label, engine, file=path, options={"recipe": applied.label})

    @property
    def _photos(self) -> FloatArray:
        return self._probe.gray[:TIMED_PHOTOS]


@dataclass(frozen=True)
class _Remembering:
    """See `Measuring.remembering`."""

    measuring: Measuring

    def measure(self, recipe: Recipe) -> tuple[HasDrift, AppliedGraph]:
        narrow = sum(form == recipe.default for form in recipe.nodes.values())
        what = (
            f"int8 but {len(recipe.nodes)} products"
            if recipe.default == INT8
            else f"{len(recipe.nodes) - narrow} products int8"
        )
        return _Remembered(self.measuring.metric, self.measuring.drift(PROBE_ENGINE, recipe, what)), _NO_GRAPH


@dataclass(frozen=True)
class _Remembered:
    metric: str
    drift: Drifted

    def value(self, metric: str) -> float:
        return {self.metric: self.drift.value, MEAN: self.drift.mean}[metric]


_NO_GRAPH = AppliedGraph(onnx.ModelProto(), {}, {})


@dataclass(frozen=True)
class EngineOracle:
    """Answers a search about one engine (`search.Oracle`)."""

    measuring: Measuring
    engine: str
    parts: Parts
    space: Space

    def drift(self, choice: Choice) -> Drifted:
        """Its drift."""
        return self.measuring.drift(self.engine, self._recipe(choice), self.space.words(choice))

    def time(self, choices: Sequence[Choice]) -> Sequence[Timed | None]:
        """Latencies: a look for single blocks, a proof for whole recipes."""
        single = len(choices) > 0 and all(self.space.is_alone(choice) for choice in choices)
        recipes = [(self._recipe(choice), self.space.words(choice)) for choice in choices]
        return self.measuring.time(self.engine, recipes, self._recipe(self.space.base), LOOK if single else PROOF)

    def _recipe(self, choice: Choice) -> Recipe:
        return self.parts.recipe(self.space.blocks, choice)


@contextlib.contextmanager
def engines_kept_in(folder: Path | None) -> Iterator[None]:
    """Keep engines that are compiled inside, here and in processes that start meanwhile, in `folder`, or nowhere (None).

    A search compiles dozens of graphs that nobody will run again; in the device's cache they would push out the useful ones.
    """
    before = os.environ.get(FOLDER_VARIABLE)
    os.environ[FOLDER_VARIABLE] = OFF if folder is None else str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[FOLDER_VARIABLE]
        else:
            os.environ[FOLDER_VARIABLE] = before


def _key(recipe: Recipe) -> str:
    return recipe_key([recipe.default, dict(recipe.blocks), dict(recipe.nodes)])


def _median(samples: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    return float(np.median(samples)) / MILLISECOND


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.inf if value is None else value
