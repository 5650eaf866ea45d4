"""What a search has measured, on disk as it goes: an interrupted one goes on where it was.

One JSON object a line, appended when it is known: {"key": [...], "value": {...}}. A line that was cut off by a crash is left
out when the file is read. The file's name is a digest of everything that the measurements depend on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icf_deploy.runtimes.cache_folder import default_folder, refusal

FOLDER = "search"
CODE = 2  # raised when the same recipe would be measured in another way

_log = logging.getLogger(__name__)


class Ledger:
    """Measurements by key. path None: nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._values: dict[str, dict[str, Any]] = {}
        if path is not None and path.is_file():
            self._read(path)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, *key: str) -> dict[str, Any] | None:
        """What was measured under `key`."""
        return self._values.get(json.dumps(key))

    def put(self, value: dict[str, Any], *key: str) -> None:
        """Keep a measurement. A disk that refuses costs measuring again after an interruption, and nothing else."""
        self._values[json.dumps(key)] = value
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"key": key, "value": value}) + "\n")
        except OSError as error:
            _log.warning("what the search measures is not kept: %s", error)
            self.path = None

    def _read(self, path: Path) -> None:
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                self._values[json.dumps(entry["key"])] = dict(entry["value"])
            except (ValueError, KeyError, TypeError):
                _log.info("%s: a line that was cut off is left out", path.name)


def ledger_for(*parts: str, folder: Path | None = None) -> Ledger:
    """The ledger of a search that depends on `parts`. folder: where; None: in this device's cache."""
    if folder is None:
        root = default_folder()
        why = "" if root is None else refusal(root)
        if why:
            _log.warning("what the search measures is not kept: %s", why)
        folder = None if root is None or why else root / FOLDER
    if folder is None:
        return Ledger(None)
    digest = hashlib.sha256(json.dumps([CODE, *parts]).encode()).hexdigest()
    path = folder / f"{digest}.jsonl"
    _end_line(path)
    return Ledger(path)


def recipe_key(formats: Sequence[object]) -> str:
    """Hex digest of what a recipe asks for."""
    return hashlib.sha256(json.dumps(formats, sort_keys=True).encode()).hexdigest()


def _end_line(path: Path) -> None:
    """A line that was cut off is ended, so that the next one stands alone."""
    if path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
        with path.open("ab") as stream:
            stream.write(b"\n")
