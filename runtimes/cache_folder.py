"""Where the cache of this user is, and whether it may be used."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER_VARIABLE = "ICF_DEPLOY_CACHE"
OFF = "off"
OTHERS_MAY_WRITE = 0o022  # permission bits


def default_folder() -> Path | None:
    """The folder that the environment names, else the platform's place for caches; None where nothing is to be kept."""
    chosen = os.environ.get(FOLDER_VARIABLE, "")
    if chosen:
        return None if chosen.lower() == OFF else Path(chosen)
    try:
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "icf-deploy" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "icf-deploy"
        chosen = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache") / "icf-deploy"
    except RuntimeError:  # no home folder
        return None


def refusal(folder: Path) -> str:
    """Why `folder` is not used; "" where it can be. It is made where it is missing.

    Engines are machine code: a folder in which others may write is not trusted.
    """
    advice = f"choose another folder with {FOLDER_VARIABLE}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        return f"{folder} cannot be used: {error.strerror or error}; {advice}"
    if sys.platform != "win32":
        if found.st_uid != os.geteuid():
            return f"{folder} belongs to another user; {advice}"
        if found.st_mode & OTHERS_MAY_WRITE:
            return f"others may write in {folder}: chmod go-w {folder}, or {advice}"
    return ""
