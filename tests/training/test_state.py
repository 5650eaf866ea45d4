from __future__ import annotations

import errno
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from icf_deploy.errors import ArtefactError, WorkError
from icf_deploy.training.state import RunState, load_state, save_state, state_path


def state(step: int = 3) -> RunState:
    tensors = {"weight": torch.arange(6.0).view(2, 3)}
    return RunState({"lr": 0.1}, "digest", 10, step, tensors, tensors, {"state": {}, "param_groups": []}, [{"step": 2}], 1.5)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_state(state(), tmp_path / "run.training.pt")
    back = load_state(tmp_path / "run.training.pt")
    assert (back.config, back.photos, back.total, back.step, back.history, back.seconds) == (
        {"lr": 0.1}, "digest", 10, 3, [{"step": 2}], 1.5,
    )  # fmt: skip
    assert torch.equal(back.network["weight"], state().network["weight"])
    assert list(tmp_path.iterdir()) == [tmp_path / "run.training.pt"]


def test_a_state_from_before_losses_could_learn_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "run.training.pt"
    save_state(state(), path)
    stored = torch.load(path, weights_only=True)
    del stored["learnt"]
    torch.save(stored, path)
    assert load_state(path).learnt == {}
    assert load_state(path).step == 3


def test_it_stands_beside_the_output() -> None:
    assert state_path(Path("a/edge.safetensors")) == Path("a/edge.training.pt")


def test_a_full_disk_leaves_the_previous_state_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.training.pt"
    save_state(state(3), path)

    def full(_: object, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WorkError, match="No space left on device"):
        save_state(state(4), path)
    assert load_state(path).step == 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_state_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="leave --resume out"):
        load_state(tmp_path / "run.training.pt")


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('exploded').touch()",)


@pytest.mark.parametrize("kind", ["code", "text", "empty", "other", "truncated"])
def test_a_file_that_is_no_state_is_refused_and_its_code_never_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.training.pt"
    if kind == "code":
        torch.save({"format": "icf-training-state 1", "config": _Bomb()}, path)
        assert pickle.dumps(_Bomb())
    elif kind == "other":
        torch.save({"params": {}}, path)
    elif kind == "truncated":
        save_state(state(), path)
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.write_bytes(b"hello" if kind == "text" else b"")
    with pytest.raises(ArtefactError, match=r"run\.training\.pt"):
        load_state(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files are POSIX")
def test_a_disk_that_really_takes_no_more_leaves_the_previous_state(tmp_path: Path) -> None:
    """Not a pretended error: the kernel refuses the bytes, wherever in torch's writer that happens."""
    code = """
import pathlib, resource, signal, torch
from icf_deploy.errors import WorkError
from icf_deploy.training.state import RunState, load_state, save_state
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = pathlib.Path("run.training.pt")
def state(step):
    weights = {"weight": torch.full((200_000,), float(step))}
    return RunState({}, "digest", 10, step, weights, weights, {})
save_state(state(3), path)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
try:
    save_state(state(4), path)
except WorkError as error:
    print(error)
assert [p.name for p in pathlib.Path().iterdir()] == [path.name], "rubbish is left"
assert load_state(path).step == 3 and float(load_state(path).network["weight"][-1]) == 3
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "could not be written" in done.stdout and "--resume" in done.stdout
