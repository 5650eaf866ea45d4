from __future__ import annotations

import errno
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icf_deploy.errors import ArtefactError, WorkError
from icf_deploy.training.baseline_file import load_baseline, save_baseline
from icf_deploy.training.baseline_models import Baseline, Machine, Neighbours, SupportVectors
from icf_deploy.training.local_features import FEATURES, SIZE

RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return RANDOM.normal(size=shape).astype(np.float32)


def knn() -> Baseline:
    return Baseline("knn", floats(FEATURES), np.ones(FEATURES, np.float32), Neighbours(floats(40, FEATURES), floats(40, 2), 3))


def svr() -> Baseline:
    machines = [Machine(floats(9, FEATURES), floats(9), 0.5, 1 / FEATURES) for _ in range(2)]
    return Baseline("svr", floats(FEATURES), np.ones(FEATURES, np.float32), SupportVectors(*machines))


@pytest.mark.parametrize("baseline", [knn(), svr()], ids=["knn", "svr"])
def test_a_baseline_comes_back_with_the_same_predictions(baseline: Baseline, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save_baseline(baseline, path, {"photos": 3})
    gray = RANDOM.random((1, 1, *SIZE), dtype=np.float32)
    assert np.array_equal(load_baseline(path).predict_ab(gray), baseline.predict_ab(gray))
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_previous_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    save_baseline(svr(), path, {})
    before = path.read_bytes()

    def full(stream: Any, **_: object) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(WorkError, match=r"x\.npz.*No space left on device"):
        save_baseline(knn(), path, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('exploded').touch()",)


@pytest.mark.parametrize("kind", ["code", "text", "empty", "array", "zip", "truncated", "missing"])
def test_a_file_that_is_no_baseline_is_refused_and_its_code_never_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.npz"
    if kind == "code":
        with path.open("wb") as stream:
            np.savez(stream, format=np.array("icf-baseline 1"), kind=np.array([_Bomb()], object))
    elif kind == "array":
        with path.open("wb") as stream:
            np.save(stream, floats(3))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("hello.txt", "hello")
    elif kind == "truncated":
        save_baseline(knn(), path, {})
        path.write_bytes(path.read_bytes()[:-200])
    elif kind != "missing":
        path.write_bytes(b"hello" if kind == "text" else b"")
    with pytest.raises((ArtefactError, WorkError), match=r"x\.npz") as caught:
        load_baseline(path)
    assert isinstance(caught.value, WorkError) == (kind == "missing")
    assert "pickle" not in str(caught.value)  # no advice to run what is in the file
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": np.array("icf-baseline 2")}, "'icf-baseline 1', found 'icf-baseline 2'"),
        ({"kind": np.array("forest")}, "one of knn, svr, found 'forest'"),
        ({"features": None}, "expected features as finite float32"),
        ({"features": floats(40, FEATURES - 1)}, rf"found float32 \[40, {FEATURES - 1}\]"),
        ({"ab": floats(39, 2)}, r"expected ab as finite float32 \[40, 2\], found float32 \[39, 2\]"),
        ({"ab": np.full((40, 2), np.nan, np.float32)}, "expected ab as finite"),
        ({"ab": np.zeros((40, 2))}, "found float64"),
        ({"count": np.array(41)}, "asks 41 neighbours of 40 samples"),
        ({"count": np.array([3])}, "expected count as one number"),
        ({"spread": np.zeros(FEATURES, np.float32)}, "spread is not above 0"),
    ],
)
def test_an_array_that_does_not_fit_is_named(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save_baseline(knn(), path, {})
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files} | change
    with path.open("wb") as stream:
        np.savez(stream, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ArtefactError, match=text):
        load_baseline(path)
