"""The drift that a recipe causes, measured: its graph against the float32 one, on the calibration photos, in a real engine."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import onnx

from icf_deploy.export.precision.apply import AppliedGraph, apply_recipe
from icf_deploy.export.precision.calibration import Calibration
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.photos import CalibrationPhotos
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.export.precision.tail import Tails
from icf_deploy.quality.drift import drift
from icf_deploy.quality.table import DriftTable
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import FloatArray, Graph, Target

PROBE_ENGINE = "ort"  # comes with the extra `export`, and loads a graph in a tenth of a second
MOST_PROBED = 16  # views of photos; a probe is repeated for every block and many nodes


class HasDrift(Protocol):
    """A drift table, or as much of one as somebody remembers."""

    def value(self, metric: str) -> float:
        """The value of a metric."""
        ...


class Probe(Protocol):
    """Measures the drift of recipes."""

    def measure(self, recipe: Recipe) -> tuple[HasDrift, AppliedGraph]:
        """Drift of the recipe, and its graph."""
        ...


class DriftProbe:
    """Measures recipes of one network. engine: what runs them; it must execute their formats.

    The reference is the float32 graph on PROBE_ENGINE, which computes float32 as it is written. At most MOST_PROBED views,
    spread over those given, are used.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration: Calibration,
        photos: CalibrationPhotos,
        *,
        stride: int,
        engine: str = PROBE_ENGINE,
    ) -> None:
        chosen = np.unique(np.linspace(0, len(photos.names) - 1, MOST_PROBED).round().astype(int))
        self._names = tuple(photos.names[i] for i in chosen)
        self._gray = np.ascontiguousarray(photos.gray[chosen])
        self._model, self._calibration, self._stride, self._engine = model, calibration, stride, engine
        self._digest = network_digest(model)
        self._reference = self._run(model.SerializeToString(), "fp32", PROBE_ENGINE)
        self._tails = Tails(model, self._gray)

    @property
    def gray(self) -> FloatArray:
        """What is measured on: float32 [N,1,H,W] in 0..1."""
        return self._gray

    def measure(self, recipe: Recipe, *, engine: str | None = None) -> tuple[DriftTable, AppliedGraph]:
        """Drift of the recipe on `engine` (None: this probe's), and its graph. Raises as `apply_recipe` and the engine."""
        applied = apply_recipe(self._model, recipe, self._calibration, digest=self._digest)
        engine = self._engine if engine is None else engine
        ab = self._tails.run(applied) if _computes(engine, applied) else None
        if ab is None:
            ab = self._run(applied.model.SerializeToString(), applied.label, engine)
        return drift(ab, self._reference, self._gray, self._names), applied

    def _run(self, data: bytes, label: str, engine: str) -> FloatArray:
        height, width = self._gray.shape[2:]
        graph = Graph(data, hashlib.sha256(data).hexdigest(), (height, width), self._stride, label, "")
        runtime = registry.get(engine)
        _, device = registry.split(engine)
        with runtime.open(runtime.build(graph, Target(device))) as session:
            return np.concatenate([session.run(photo[None]) for photo in self._gray])


def _computes(engine: str, applied: AppliedGraph) -> bool:
    """Whether an engine is the one that `tail.Tails` runs on, and executes what the graph asks for."""
    name, device = registry.split(engine)
    same = (name, device) == registry.split(PROBE_ENGINE)
    return same and set(applied.formats.values()) <= set(registry.get(engine).formats(device))
