"""Write a text file that a user asked for: complete or not at all, and never over another one unasked."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from icf_deploy.errors import WorkError


def require_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse an output before any work is done. Raises WorkError where it exists, or could not be written."""
    if path.is_dir():
        raise WorkError(f"{path} is a folder: name a file to write")
    if not overwrite and os.path.lexists(path):
        raise WorkError(f"{path} exists: choose another name, or give --overwrite to replace it")
    if not path.parent.is_dir():
        raise WorkError(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise WorkError(f"{path} cannot be written: the folder {path.parent} may not be written to")


def write_text(text: str, path: Path, *, overwrite: bool) -> None:
    """Write UTF-8. Raises as `require_writable`, and WorkError where the disk refuses; what was there is then still whole."""
    unfinished = path.with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        require_writable(path, overwrite=overwrite)  # somebody else may have written it meanwhile
        unfinished.replace(path)
    except OSError as error:
        raise WorkError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
