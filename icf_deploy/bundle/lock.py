"""One process at a time: an advisory lock on a file, which the operating system frees when its holder dies, however it dies.

`flock` on Linux and macOS, `LockFile` (through `msvcrt.locking`) on Windows. Both belong to the open file, so two threads of
one process exclude each other as two processes do.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from icf_deploy.errors import WorkError

_log = logging.getLogger(__name__)

LOCK_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
ATTEMPTS = 100  # another writer may remove the lock file between our opening and our locking of it; it can't go on for long
POLL_SECONDS = 0.05  # Windows has no lock call that waits as long as it takes
NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)  # of a file system that knows none


@contextlib.contextmanager
def locked(path: Path, purpose: str) -> Iterator[None]:
    """Hold the lock of `path` (created, never removed) inside the block; wait for it as long as another one holds it.

    purpose: what the other one is doing, for the log. Raises OSError where the file or its file system cannot be locked.
    """
    descriptor = os.open(path, LOCK_FLAGS, 0o600)
    try:
        if not _try_lock(descriptor):
            _log.info("waiting for another process: %s", purpose)
            _wait_lock(descriptor)
        yield
    finally:
        os.close(descriptor)  # frees the lock, too


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[bool]:
    """Hold the lock for writing to `path`: a file `.NAME.lock` beside it, which is removed again.

    Yields whether it is held: some network file systems know no locks, and there nobody can say who else is writing.
    Raises WorkError where another process, or another thread, is writing there. It does not wait: what the other one writes
    is what the caller would have to decide about.
    """
    place = path.with_name(f".{path.name}.lock")
    try:
        descriptor, held = _acquired(place)
    except _HeldError:
        raise WorkError(f"{path} is being written by another process: wait for it, or choose another output") from None
    except OSError as error:
        raise WorkError(f"{path} could not be written: {place}: {error.strerror or error}") from error
    try:
        yield held
    finally:
        _close_and_remove(descriptor, place)


class _HeldError(Exception):
    """Somebody else holds the lock."""


def _acquired(place: Path) -> tuple[int, bool]:
    """A descriptor of the lock file, and whether it is locked, which a file system without locks does not allow."""
    for _ in range(ATTEMPTS):
        descriptor = os.open(place, LOCK_FLAGS, 0o600)
        try:
            held = _lock_at_once(descriptor)
            if _is_at(descriptor, place):
                return descriptor, held
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise _HeldError


def _lock_at_once(descriptor: int) -> bool:
    try:
        if not _try_lock(descriptor):
            raise _HeldError
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _is_at(descriptor: int, place: Path) -> bool:
    """Whether the locked file is still the one that others will find."""
    try:
        return os.path.samestat(os.fstat(descriptor), place.stat())
    except FileNotFoundError:
        return False


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

    def _close_and_remove(descriptor: int, place: Path) -> None:
        os.close(descriptor)  # an open file cannot be removed
        with contextlib.suppress(OSError):  # somebody else has opened it meanwhile, and removes it after use
            place.unlink()

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

    def _close_and_remove(descriptor: int, place: Path) -> None:
        place.unlink(missing_ok=True)  # while it is held: who opened it before us sees that it is gone, and opens another
        os.close(descriptor)
