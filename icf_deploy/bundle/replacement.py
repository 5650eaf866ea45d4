"""Replacing a bundle's folder: as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from icf_deploy.bundle.manifest import CHECKPOINT_FILE, GRAPH_FOLDER, MANIFEST_FILE, REFERENCE_FILE
from icf_deploy.errors import WorkError


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise WorkError where a bundle may not be written to `path`. Worth calling before an hour of work, too."""
    if not path.name or path.name == "..":
        raise WorkError(f"{str(path)!r} is no name for a bundle: choose one like NAME.icf")
    if not path.parent.is_dir():
        raise WorkError(f"folder {path.parent} does not exist: mkdir -p {path.parent}")
    if path.is_symlink():
        raise WorkError(f"{path} is a link: name the folder that it points to, or another output")
    if not path.exists():
        return
    if not overwrite:
        raise WorkError(f"{path} exists: choose another output, or replace it with --overwrite")
    foreign = _foreign_entry(path)
    if foreign is not None:
        raise WorkError(f"{path} is not replaced: {foreign}. Choose another output, or move it away yourself")


@contextlib.contextmanager
def new_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place when the block ends, and vanishes when the block raises.

    An existing bundle is moved aside, and removed only when the new one is in place. Raises WorkError as `check_output`, and
    for what the disk refuses.
    """
    check_output(path, overwrite=overwrite)
    temporary = _sibling(path, "new")
    try:
        temporary.mkdir()
        yield temporary
        old = _swap(temporary, path, overwrite=overwrite)
    except OSError as error:
        raise WorkError(f"{path} could not be written: {error.strerror or error}. Nothing was changed") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if old is not None:
        try:
            shutil.rmtree(old)
        except OSError as error:
            raise WorkError(f"{path} is written, but the one that it replaced is still there: remove {old} yourself") from error


def _swap(new: Path, path: Path, *, overwrite: bool) -> Path | None:
    """Move `new` to `path`; the path to which what stood there was moved, if anything did."""
    if not overwrite or not path.exists():
        new.rename(path)  # fails where something has appeared there meanwhile
        return None
    old = _sibling(path, "old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    return old


def _sibling(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.{kind}")


def _foreign_entry(path: Path) -> str | None:
    """Why `path` is not a bundle, or holds more than one: replacing it would lose something that is not ours."""
    if not path.is_dir():
        return "it is a file, not a bundle"
    entries = {entry.name for entry in path.iterdir()}
    if MANIFEST_FILE not in entries:
        return f"it has no {MANIFEST_FILE}, so it is not a bundle"
    foreign = sorted(entries - {MANIFEST_FILE, REFERENCE_FILE, CHECKPOINT_FILE, GRAPH_FOLDER})
    graphs = path / GRAPH_FOLDER
    if graphs.is_dir():
        foreign += sorted(f"{GRAPH_FOLDER}/{entry.name}" for entry in graphs.iterdir() if entry.suffix != ".onnx")
    return f"it holds {foreign[0]}, which is no part of a bundle" if foreign else None
