"""Reading a file of a bundle's folder without trusting the folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from icf_deploy.errors import IntegrityError

READ_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_file(root: Path, file: str, limit: int) -> bytes:
    """The whole content of `file` (path in the bundle, "/" between its parts), at most `limit` bytes.

    Raises IntegrityError where it is missing, unreadable, too long, or not a plain file inside `root`: no link is followed,
    neither at the end of the path nor on the way.
    """
    path = root
    try:
        for part in file.split("/")[:-1]:
            path /= part
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise IntegrityError(f"{root.name}: {part} is not a plain folder; a bundle holds no links")
        path = root / file
        if not stat.S_ISREG(path.lstat().st_mode):
            raise IntegrityError(f"{root.name}: {file} is not a plain file; a bundle holds no links")
        with open(os.open(path, READ_FLAGS), "rb") as stream:  # noqa: PTH123  # a path cannot say O_NOFOLLOW
            length = os.fstat(stream.fileno()).st_size
            if length > limit:
                raise IntegrityError(f"{root.name}: {file} has {length} bytes, and at most {limit} were expected")
            data = stream.read(length + 1)
    except FileNotFoundError as error:
        raise IntegrityError(f"{root.name}: {file} is missing. Copy the bundle again, all of it") from error
    except OSError as error:
        raise IntegrityError(f"{root.name}: {file} cannot be read: {error.strerror}") from error
    if len(data) != length:
        raise IntegrityError(f"{root.name}: {file} changed while it was read. Try again")
    return data
