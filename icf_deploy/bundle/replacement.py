"""Writing a bundle's folder or file: as a whole or not at all, also when the process is killed in the middle.

What is being written lies beside its place as `.NAME.XXXXXXXX.new`. It is complete and on the disk before it moves. Where the
system can exchange two folders in one step (Linux), the place never stands empty; elsewhere what stood there moves to
`.NAME.XXXXXXXX.old` first, and who is killed between the two steps leaves it there, complete. The next writer, who then holds
the lock, removes what the killed one has left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from icf_deploy.bundle.exchange import exchanged
from icf_deploy.bundle.lock import only_writer
from icf_deploy.bundle.manifest import (
    CHECKPOINT_FILE,
    ENGINE_FOLDER,
    ENGINE_SUFFIX,
    GRAPH_FOLDER,
    GRAPH_SUFFIX,
    MANIFEST_FILE,
    REFERENCE_FILE,
)
from icf_deploy.errors import WorkError

SUFFIXES = {GRAPH_FOLDER: GRAPH_SUFFIX, ENGINE_FOLDER: ENGINE_SUFFIX}
ARCHIVE_BEGIN = b"PK\x03\x04"
ARCHIVE_NAME_AT = 30  # bytes; the name of a zip file's first entry begins there


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise WorkError where a bundle may not be written to `path`. Worth calling before an hour of work, too."""
    if not path.name or path.name == "..":
        raise WorkError(f"{str(path)!r} is no name for a bundle: choose one like NAME.icf")
    if not path.parent.is_dir():
        raise WorkError(f"folder {path.parent} does not exist: mkdir -p {path.parent}")
    if path.is_symlink():
        raise WorkError(f"{path} is a link: name the folder that it points to, or another output")
    if not path.exists():
        old = stranded(path)
        if old is not None and not overwrite:
            raise WorkError(
                f"{path} was being replaced when that was interrupted: mv {old} {path}, or replace it with --overwrite"
            )
        return
    if not overwrite:
        raise WorkError(f"{path} exists: choose another output, or replace it with --overwrite")
    foreign = _foreign(path)
    if foreign is not None:
        raise WorkError(f"{path} is not replaced: {foreign}. Choose another output, or move it away yourself")


def stranded(path: Path) -> Path | None:
    """The bundle that stood at `path`, where a writer was killed after moving it aside; None if there is none."""
    try:
        return next(iter(_leftovers(path, "old")), None)
    except OSError:
        return None


@contextlib.contextmanager
def new_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place when the block ends, and vanishes when the block raises.

    Raises WorkError as `check_output`, where another process is writing there, and for what the disk refuses.
    """
    with _replacing(path, overwrite=overwrite) as temporary:
        temporary.mkdir()
        yield temporary
        for folder in (*(entry for entry in temporary.iterdir() if entry.is_dir()), temporary):
            _to_disk(folder)


@contextlib.contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """The path of a temporary file beside `path`, for the block to write; otherwise as `new_folder`."""
    with _replacing(path, overwrite=overwrite) as temporary:
        yield temporary


def write_through(path: Path, data: bytes) -> None:
    """Write a new file, and wait until the disk has it."""
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def _replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    check_output(path, overwrite=overwrite)
    old = None
    with only_writer(path) as alone:
        check_output(path, overwrite=overwrite)  # again: another writer may have been quicker
        temporary = _sibling(path, "new")
        try:
            if alone:
                _remove_leftovers(path, "new")
            yield temporary
            old = _swap(temporary, path, overwrite=overwrite)
            with contextlib.suppress(OSError):  # it is there; only a power cut could still undo it
                _to_disk(path.parent)
        except OSError as error:
            raise WorkError(f"{path} could not be written: {error.strerror or error}. Nothing was changed") from error
        finally:
            if old is None:
                _remove(temporary, ignore_errors=True)
        try:
            if old is not None:
                _remove(old)
            if alone:
                _remove_leftovers(path, "old")
        except OSError as error:
            raise WorkError(f"{path} is written, but the one that it replaced is still there: remove {old} yourself") from error


def _swap(new: Path, path: Path, *, overwrite: bool) -> Path | None:
    """Move `new` to `path`; the path to which what stood there was moved, if anything did."""
    if not overwrite or not path.exists():
        if new.is_dir():
            new.rename(path)  # fails where something has appeared there meanwhile
        else:
            _place_file(new, path)
        return None
    if exchanged(new, path):
        return new
    if not new.is_dir() and not path.is_dir():
        new.replace(path)
        return None
    old = _sibling(path, "old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    return old


def _place_file(new: Path, path: Path) -> None:
    """Move a file to where nothing stands. FileExistsError where something has appeared there meanwhile."""
    try:
        os.link(new, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(f"{path} has appeared meanwhile") from None
        new.rename(path)


def _sibling(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.{kind}")


def _leftovers(path: Path, kind: str) -> list[Path]:
    """What killed writers to `path` have left."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.{kind}")
    return sorted(entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name))


def _remove_leftovers(path: Path, kind: str) -> None:
    for leftover in _leftovers(path, kind):
        _remove(leftover)


def _remove(path: Path, *, ignore_errors: bool = False) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=ignore_errors)
    else:
        path.unlink(missing_ok=True)


def _to_disk(folder: Path) -> None:
    """Wait until the disk has the folder's list of names. (Windows has no such call, and some file systems have not.)"""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def _foreign(path: Path) -> str | None:
    """Why `path` is not a bundle, or holds more than one: replacing it would lose something that is not ours."""
    if not path.is_dir():
        return None if path.is_file() and _begins_as_archive(path) else "it is not a bundle"
    entries = {entry.name for entry in path.iterdir()}
    if MANIFEST_FILE not in entries:
        return f"it has no {MANIFEST_FILE}, so it is not a bundle"
    foreign = sorted(entries - {MANIFEST_FILE, REFERENCE_FILE, CHECKPOINT_FILE, *SUFFIXES})
    for name, suffix in SUFFIXES.items():
        if (path / name).is_dir():
            foreign += sorted(f"{name}/{entry.name}" for entry in (path / name).iterdir() if entry.suffix != suffix)
    return f"it holds {foreign[0]}, which is no part of a bundle" if foreign else None


def _begins_as_archive(path: Path) -> bool:
    """Whether `pack` wrote it, as far as its beginning tells: a damaged bundle may be replaced, a photo may not."""
    name = MANIFEST_FILE.encode()
    with path.open("rb") as stream:
        begin = stream.read(ARCHIVE_NAME_AT + len(name))
    return begin.startswith(ARCHIVE_BEGIN) and begin[ARCHIVE_NAME_AT:] == name
