"""The drift that a recipe causes, measured: its graph against the float32 one, on the calibration photos, in a real engine."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx

from icf_deploy.export.precision.apply import AppliedGraph, apply_recipe
from icf_deploy.export.precision.calibration import Calibration
from icf_deploy.export.precision.photos import CalibrationPhotos
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.quality.drift import drift
from icf_deploy.quality.table import DriftTable
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import FloatArray, Graph, Target

PROBE_ENGINE = "ort"  # comes with the extra `export`, and loads a graph in a tenth of a second
MOST_PROBED = 16  # views of photos; a probe is repeated for every block and many nodes


class DriftProbe:
    """Measures recipes of one network. engine: what runs them; it must execute their formats.

    The reference is the float32 graph on the same engine. At most MOST_PROBED views, spread over those given, are used.
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
        self._reference = self._run(model.SerializeToString(), "fp32")

    def measure(self, recipe: Recipe) -> tuple[DriftTable, AppliedGraph]:
        """Drift of the recipe, and its graph. Raises as `apply_recipe` and the engine."""
        applied = apply_recipe(self._model, recipe, self._calibration)
        ab = self._run(applied.model.SerializeToString(), applied.label)
        return drift(ab, self._reference, self._gray, self._names), applied

    def _run(self, data: bytes, label: str) -> FloatArray:
        height, width = self._gray.shape[2:]
        graph = Graph(data, hashlib.sha256(data).hexdigest(), (height, width), self._stride, label, "")
        runtime = registry.get(self._engine)
        _, device = registry.split(self._engine)
        with runtime.open(runtime.build(graph, Target(device))) as session:
            return np.concatenate([session.run(photo[None]) for photo in self._gray])
