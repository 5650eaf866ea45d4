"""A trained baseline on disk: an .npz of plain arrays, read without unpickling anything and checked before it is used.

| array | of | holds |
|---|---|---|
| format, kind, training | both | `icf-baseline 1`, `knn` or `svr`, and as JSON what it was trained on |
| centre, spread | both | float32 [F]: scaling of the features |
| features, ab, count | knn | float32 [N,F], float32 [N,2], neighbours asked |
| vectors_a, weights_a, bias_a, gamma_a and the same of b | svr | float32 [n,F], float32 [n], two numbers |
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from icf_deploy.errors import ArtefactError, WorkError
from icf_deploy.training.baseline_models import KNN, Baseline, Machine, Model, Neighbours, SupportVectors
from icf_deploy.training.config import BASELINES
from icf_deploy.training.local_features import FEATURES

FORMAT = "icf-baseline 1"
SUFFIX = ".npz"
Arrays = dict[str, npt.NDArray[Any]]


def save_baseline(baseline: Baseline, path: Path, training: dict[str, Any]) -> None:
    """Write atomically; raise WorkError (and keep the previous file) where the disk does not take it."""
    arrays: Arrays = {
        "format": np.array(FORMAT),
        "kind": np.array(baseline.kind),
        "training": np.array(json.dumps(training, sort_keys=True)),
        "centre": baseline.centre,
        "spread": baseline.spread,
        **_arrays_of(baseline.model),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # numpy's stub takes a keyword for another
        temporary.replace(path)
    except OSError as error:
        raise WorkError(f"{path}: the baseline could not be written ({error.strerror or error}); free some space") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_baseline(path: Path) -> Baseline:
    """Read one back. Raises WorkError for a file that cannot be read, ArtefactError for one that is no baseline."""
    try:
        with path.open("rb") as stream:
            opened = np.load(stream, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise ArtefactError(f"{path}: expected a baseline (.npz), found a single array")
            arrays: Arrays = {name: opened[name] for name in opened.files}
    except OSError as error:
        raise WorkError(f"{path}: cannot read the baseline: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, KeyError) as error:
        # Without the error's own text, which may advise to unpickle the file.
        raise ArtefactError(
            f"{path}: expected a baseline that `icf-deploy train --baseline` wrote, found something else or half of one: "
            "train it again"
        ) from error
    return _checked(path, arrays)


def _arrays_of(model: Model) -> Arrays:
    if isinstance(model, Neighbours):
        return {"features": model.features, "ab": model.ab, "count": np.array(model.count)}
    return {
        f"{part}_{name}": np.asarray(getattr(machine, part))
        for name, machine in (("a", model.a), ("b", model.b))
        for part in ("vectors", "weights", "bias", "gamma")
    }


def _checked(path: Path, arrays: Arrays) -> Baseline:
    found = str(arrays.get("format", ""))
    if found != FORMAT:
        raise ArtefactError(f"{path}: expected a baseline of format {FORMAT!r}, found {found!r}: train it again")
    kind = str(arrays.get("kind", ""))
    if kind not in BASELINES:
        raise ArtefactError(f"{path}: a baseline is one of {', '.join(BASELINES)}, found {kind!r}: train it again")
    take = _Taker(path, arrays)
    centre, spread = take.floats("centre", (FEATURES,)), take.floats("spread", (FEATURES,))
    if not (spread > 0).all():
        raise ArtefactError(f"{path}: a feature's spread is not above 0: train it again")
    if kind == KNN:
        features = take.floats("features", (-1, FEATURES))
        count = int(take.number("count"))
        if not 1 <= count <= len(features):
            raise ArtefactError(f"{path}: asks {count} neighbours of {len(features)} samples: train it again")
        return Baseline(kind, centre, spread, Neighbours(features, take.floats("ab", (len(features), 2)), count))
    return Baseline(kind, centre, spread, SupportVectors(take.machine("a"), take.machine("b")))


class _Taker:
    """Takes arrays out of a file, checked; ArtefactError names the one that is missing or of another kind."""

    def __init__(self, path: Path, arrays: Arrays) -> None:
        self._path = path
        self._arrays = arrays

    def floats(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """A finite float32 array of `shape`, where -1 stands for at least one."""
        array = self._arrays.get(name)
        fits = (
            array is not None
            and array.dtype == np.float32
            and array.ndim == len(shape)
            and all(n == want or (want < 0 < n) for n, want in zip(array.shape, shape, strict=True))
            and bool(np.isfinite(array).all())
        )
        if array is None or not fits:
            what = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise ArtefactError(
                f"{self._path}: expected {name} as finite float32 {list(shape)}, found {what}: train the baseline again"
            )
        return np.asarray(array, np.float32)

    def number(self, name: str) -> float:
        array = self._arrays.get(name)
        if array is None or array.shape != () or array.dtype.kind not in "fiu" or not np.isfinite(array):
            raise ArtefactError(f"{self._path}: expected {name} as one number: train the baseline again")
        return float(array)

    def machine(self, name: str) -> Machine:
        vectors = self.floats(f"vectors_{name}", (-1, FEATURES))
        weights = self.floats(f"weights_{name}", (len(vectors),))
        return Machine(vectors, weights, self.number(f"bias_{name}"), self.number(f"gamma_{name}"))
