from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from icf_deploy.bundle import lock
from icf_deploy.bundle.lock import only_writer
from icf_deploy.errors import WorkError

HOLD = "from pathlib import Path\nfrom icf_deploy.bundle.lock import only_writer\n" + (
    "import sys\nwith only_writer(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edge.icf"


def test_another_process_is_refused_at_once_and_may_write_when_the_first_is_done(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(WorkError, match=r"edge\.icf is being written by another process: wait for it"), only_writer(path):
            pass
        holder.communicate(b"")
    with only_writer(path) as held:
        assert held
    assert list(path.parent.iterdir()) == []


def test_a_process_that_is_killed_holds_nothing(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    assert [entry.name for entry in path.parent.iterdir()] == [".edge.icf.lock"]
    with only_writer(path) as held:
        assert held
    assert list(path.parent.iterdir()) == []


def test_of_many_threads_one_writes_at_a_time(path: Path) -> None:
    inside, most, written = 0, 0, 0
    counting = threading.Lock()

    def write() -> None:
        nonlocal inside, most, written
        for _ in range(200):
            try:
                with only_writer(path):
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


@pytest.mark.skipif(os.name == "nt", reason="flock is POSIX")
def test_a_file_system_without_locks_can_be_written_to_and_says_that_nothing_is_held(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with only_writer(path) as held:
        assert not held


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_in_place_of_the_lock_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / ".edge.icf.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkError, match=r"edge\.icf could not be written: .*\.edge\.icf\.lock"), only_writer(path):
        pass
    assert not (tmp_path / "elsewhere").exists()
