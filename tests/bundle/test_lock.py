from __future__ import annotations

import errno
import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from icf_deploy.bundle import lock
from icf_deploy.bundle.lock import locked, only_writer
from icf_deploy.errors import WorkError

Locked = Callable[[Path, str], AbstractContextManager[None]]

HOLD = """
import sys, time
from pathlib import Path
from icf_deploy.bundle.lock import locked

with locked(Path(sys.argv[1]), "it holds"):
    print("held", flush=True)
    time.sleep(60)
"""

WRITE = "from pathlib import Path\nfrom icf_deploy.bundle.lock import only_writer\n" + (
    "import sys\nwith only_writer(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


class PlayedWindows:
    """`msvcrt.locking` as Windows documents it: a byte of an open file, not even twice for one process, refused with EACCES."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.holders: dict[int, int] = {}  # inode -> descriptor
        self.refused = 0

    def locking(self, descriptor: int, mode: int, count: int) -> None:
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
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module as it is on this system, and as it is on Windows, there on a played msvcrt."""
    if request.param == "here":
        return lock
    played = PlayedWindows()
    with monkeypatch.context() as windows:
        windows.setitem(sys.modules, "msvcrt", played)  # type: ignore[arg-type]
        windows.setattr(sys, "platform", "win32")
        spec = importlib.util.spec_from_file_location("lock_on_windows", str(lock.__file__))
        assert spec is not None and spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)

    def close(descriptor: int) -> None:
        played.close(descriptor)
        os.close(descriptor)

    names = {name: getattr(os, name) for name in ("open", "lseek", "fstat", "path", "SEEK_SET")}
    monkeypatch.setattr(found, "os", SimpleNamespace(close=close, **names))
    return found


@pytest.fixture
def either(module: Any) -> Locked:
    return cast("Locked", module.locked)


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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edge.icf"


def test_another_process_is_refused_at_once_and_may_write_when_the_first_is_done(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(WorkError, match=r"edge\.icf is being written by another process: wait for it"), only_writer(path):
            pass
        holder.communicate(b"")
    with only_writer(path) as held:
        assert held
    assert list(path.parent.iterdir()) == []


def test_a_writer_that_is_killed_holds_nothing(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    assert [entry.name for entry in path.parent.iterdir()] == [".edge.icf.lock"]
    with only_writer(path) as held:
        assert held
    assert list(path.parent.iterdir()) == []


def test_of_many_threads_one_writes_at_a_time(module: Any, path: Path) -> None:
    inside, most, written = 0, 0, 0
    counting = threading.Lock()

    def write() -> None:
        nonlocal inside, most, written
        for _ in range(200):
            try:
                with module.only_writer(path):
                    with counting:
                        inside += 1
                        most = max(most, inside)
                        written += 1
                    with counting:
                        inside -= 1
            except WorkError:
                pass

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert written >= 8
    assert list(path.parent.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="flock is POSIX")
def test_a_file_system_without_locks_can_be_written_to_and_says_that_nothing_is_held(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with only_writer(path) as held:
        assert not held


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_in_place_of_the_lock_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / ".edge.icf.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkError, match=r"edge\.icf could not be written: .*\.edge\.icf\.lock"), only_writer(path):
        pass
    assert not (tmp_path / "elsewhere").exists()
