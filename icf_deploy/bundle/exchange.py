"""Exchanging two paths in one step, where the system can: nobody ever finds one of them missing."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

AT_FDCWD = -100  # paths are relative to the working folder (linux/fcntl.h)
RENAME_EXCHANGE = 2  # linux/fs.h
CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)  # of a kernel or file system that does not know it


def exchanged(first: Path, second: Path) -> bool:
    """Exchange what stands at two paths of one file system; False where that is not possible. OSError where it fails.

    Linux only, by renameat2(2), since 3.15 and in glibc 2.28: elsewhere the caller has to do it in two steps.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(second))
