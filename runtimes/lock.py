"""One process at a time: an advisory lock on a file, which the operating system frees when its holder dies, however it dies.

`flock` on Linux and macOS, `LockFile` (through `msvcrt.locking`) on Windows. Both belong to the open file, so two threads of
one process exclude each other as two processes do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # Windows has no lock call that waits as long as it takes


@contextlib.contextmanager
def locked(path: Path, purpose: str) -> Iterator[None]:
    """Hold the lock of `path` (created, never removed) inside the block; wait for it as long as another one holds it.

    purpose: what the other one is doing, for the log. Raises OSError where the file or its file system cannot be locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _try_lock(descriptor):
            _log.info("waiting for another process: %s", purpose)
            _wait_lock(descriptor)
        yield
    finally:
        os.close(descriptor)  # frees the lock, too


if sys.platform == "win32":
    import msvcrt
    import time

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, 0, os.SEEK_SET)  # a region from here on is locked
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:  # EACCES: another one has it
            return False
        return True

    def _wait_lock(descriptor: int) -> None:
        while not _try_lock(descriptor):
            time.sleep(POLL_SECONDS)

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
