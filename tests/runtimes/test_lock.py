from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest

from icf_deploy.runtimes import lock
from icf_deploy.runtimes.lock import locked

Locked = Callable[[Path, str], AbstractContextManager[None]]

HOLD = """
import sys, time
from pathlib import Path
from icf_deploy.runtimes.lock import locked

with locked(Path(sys.argv[1]), "it holds"):
    print("held", flush=True)
    time.sleep(60)
"""


class PlayedWindows:
    """`msvcrt.locking` as Windows documents it: a byte of an open file, not even twice for one process, refused with EACCES."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.holders: dict[int, int] = {}  # inode -> descriptor
        self.refused = 0

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        import os

        assert (mode, count) == (self.LK_NBLCK, 1)
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        inode = os.fstat(descriptor).st_ino
        holder = self.holders.setdefault(inode, descriptor)
        if holder != descriptor:
            self.refused += 1
            raise PermissionError(13, "Permission denied")

    def close(self, descriptor: int) -> None:
        self.holders = {inode: holder for inode, holder in self.holders.items() if holder != descriptor}


@pytest.fixture(params=["here", "windows"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Locked:
    """The lock of this system, and that of Windows on a played msvcrt."""
    if request.param == "here":
        return locked
    import os

    played = PlayedWindows()
    monkeypatch.setitem(sys.modules, "msvcrt", played)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "platform", "win32")
    spec = importlib.util.spec_from_file_location("lock_on_windows", str(lock.__file__))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.undo()

    def close(descriptor: int) -> None:
        played.close(descriptor)
        os.close(descriptor)

    names = {name: getattr(os, name) for name in ("open", "lseek", "O_RDWR", "O_CREAT", "SEEK_SET")}
    monkeypatch.setattr(module, "os", SimpleNamespace(close=close, **names))
    found: Locked = module.locked
    return found


def test_it_is_held_by_one_at_a_time_among_threads_too(either: Locked, tmp_path: Path) -> None:
    inside, most, done = [], [], []

    def work(_: int) -> None:
        with either(tmp_path / "lock", "it works"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.001)
            inside.pop()
            done.append(1)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(12)))
    assert (max(most), len(done)) == (1, 12)


def test_it_is_free_again_after_an_exception(either: Locked, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), either(tmp_path / "lock", "it fails"):
        raise RuntimeError
    with either(tmp_path / "lock", "it works"):
        pass


def test_waiting_is_said_once_with_what_the_other_one_does(
    either: Locked, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with either(tmp_path / "lock", "it holds"):
            held.set()
            assert may_end.wait(30)

    def wait() -> None:
        with either(tmp_path / "lock", "it builds the engine of trt"):
            pass

    with caplog.at_level(logging.INFO), ThreadPoolExecutor(2) as pool:
        holding = pool.submit(hold)
        assert held.wait(30)
        waiting = pool.submit(wait)
        while "waiting" not in caplog.text:
            time.sleep(0.001)
        may_end.set()
        holding.result()
        waiting.result()
    assert caplog.text.count("waiting for another process: it builds the engine of trt") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9")
def test_a_process_that_is_killed_holds_it_no_longer(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.communicate()
    with locked(tmp_path / "lock", "it works"):
        pass


def test_a_place_that_does_not_exist_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "nowhere" / "lock", "it works"):
        pass
