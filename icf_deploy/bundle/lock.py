"""One writer at a time: a lock that the system takes back when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from icf_deploy.errors import WorkError

LOCK_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
ATTEMPTS = 100  # another writer may remove the lock file between our opening and our locking of it; it can't go on for long


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
        _release(descriptor, place)


class _HeldError(Exception):
    """Somebody else holds the lock."""


def _acquired(place: Path) -> tuple[int, bool]:
    for _ in range(ATTEMPTS):
        descriptor = os.open(place, LOCK_FLAGS, 0o600)
        try:
            held = _lock(descriptor)
            if _is_at(descriptor, place):
                return descriptor, held
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise _HeldError


def _is_at(descriptor: int, place: Path) -> bool:
    """Whether the locked file is still the one that others will find."""
    try:
        return os.path.samestat(os.fstat(descriptor), place.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise _HeldError from error
        return True

    def _release(descriptor: int, place: Path) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        os.close(descriptor)
        with contextlib.suppress(OSError):  # somebody else has opened it meanwhile, and removes it after use
            place.unlink()

else:
    import fcntl

    NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)  # of a file system that knows none

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _HeldError from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return False
        return True

    def _release(descriptor: int, place: Path) -> None:
        place.unlink(missing_ok=True)  # while it is held: who opened it before us sees that it is gone, and opens another
        os.close(descriptor)
