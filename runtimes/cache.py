"""The cache of engines on this device: a folder of entries, bounded in size, shared by all processes of one user.

An entry is found only under a key that names everything that changes the result, is written beside its place and moved there,
and is checked when it is read. Reading takes no lock. Building does, one per key: two processes that ask at once build once.
A folder that cannot be used costs a rebuild each time, and a warning; it never costs the engine.

    ICF_DEPLOY_CACHE         the folder; "off" keeps nothing
    ICF_DEPLOY_CACHE_LIMIT   its size in MiB (default 4096)
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from icf_deploy.bundle.lock import locked
from icf_deploy.errors import UsageError
from icf_deploy.runtimes.cache_entry import (
    SUFFIX,
    DamagedEntryError,
    EngineKey,
    Entry,
    Header,
    header_for,
    read_content,
    read_header,
)
from icf_deploy.runtimes.cache_folder import FOLDER_VARIABLE, OFF, default_folder, refusal

_log = logging.getLogger(__name__)

LIMIT_VARIABLE = "ICF_DEPLOY_CACHE_LIMIT"
MIB = 2**20
DEFAULT_LIMIT = 4096 * MIB  # about fifteen engines of DDColor-tiny, or two hundred of icf-edge
UNFINISHED = ".unfinished"
ABANDONED_SECONDS = 24 * 3600  # no build takes that long: what is unfinished and older was left by a process that died
LOCK_DIGITS = 2  # hex digits of a key that name its lock file: 256 of them, never removed, so nobody locks a removed file


@dataclass(frozen=True)
class FieldChange:
    """One field of a key that differs from an entry's."""

    name: str
    before: str
    after: str


class EngineCache:
    """A folder of entries. folder None: nothing is kept. limit: bytes of all entries together."""

    def __init__(self, folder: Path | None, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = folder
        self.limit = limit

    def get(self, key: EngineKey) -> bytes | None:
        """The content kept under `key`; None where there is none, or a damaged one."""
        return self._look(key)[0]

    def put(self, key: EngineKey, content: bytes, why: str = "", seconds: float = 0.0) -> None:
        """Keep `content` under `key`, in place of what is there. seconds: how long it took to make."""
        self._write(key, content, seconds=seconds, why=why)

    def get_or_build(self, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        """The content kept under `key`, else what `build` gives, which is kept. What `build` raises goes to the caller.

        Where another process is building it already, this one waits, and takes that.
        """
        content, _ = self._look(key)
        if content is not None:
            return content
        with self._lock(key):
            content, why = self._look(key)
            if content is not None:
                return content
            _log.info("building %s: %s", describe(key), why)
            start = time.perf_counter()
            content = build()
            self._write(key, content, seconds=time.perf_counter() - start, why=why)
            return content

    def remove(self, key: EngineKey) -> None:
        """Forget what is kept under `key`: its content has turned out to be of no use."""
        if self.folder is not None:
            _remove(self.folder / key.file_name)

    def entries(self) -> list[Entry]:
        """Every readable entry, the one used last first. UsageError where the cache is off or its folder cannot be used."""
        folder = self._require_folder()
        found = [entry for path in folder.glob(f"*{SUFFIX}") if (entry := _entry(path)) is not None]
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self, kinds: frozenset[str] | None = None) -> tuple[int, int]:
        """Remove all entries (or those of `kinds`), damaged ones too: how many, and their bytes. UsageError as `entries`."""
        count = size = 0
        for path in self._require_folder().glob(f"*{SUFFIX}"):
            if kinds is None or path.name.partition("-")[0] in kinds:
                found = _size(path)
                if _remove(path):
                    count, size = count + 1, size + found
        return count, size

    def changes(self, key: EngineKey) -> list[FieldChange] | None:
        """Fields in which `key` differs from the nearest entry: [] where it is kept, None where nothing comes near.

        Near is an entry of the same kind, runtime and graph; the nearest differs in the fewest fields, and is the newest.
        """
        with contextlib.suppress(UsageError):
            near = [entry.header for entry in self.entries() if _comparable(entry.header.key, key)]
            if near:
                return min((_differences(header.key, key) for header in sorted(near, key=_newest_first)), key=len)
        return None

    def explain(self, key: EngineKey) -> str:
        """Why an engine of `key` would have to be built now, in words; "" where it is kept and sound."""
        content, why = self._look(key)
        return "" if content is not None else why

    def _look(self, key: EngineKey) -> tuple[bytes | None, str]:
        """The content, or why there is none."""
        folder = self._usable_folder()
        if folder is None:
            return None, "nothing is kept"
        path = folder / key.file_name
        try:
            with path.open("rb") as file:
                content = read_content(file, key)
            with contextlib.suppress(OSError):
                os.utime(path)  # the time of its last use
            return content, ""
        except FileNotFoundError:
            return None, self._why_missing(key)
        except (DamagedEntryError, OSError) as error:
            return None, f"the entry is damaged: {error}"

    def _why_missing(self, key: EngineKey) -> str:
        changes = self.changes(key)
        if changes is None:
            return "nothing for this graph is in the cache yet"
        return "; ".join(f"{change.name} was {change.before}, is {change.after}" for change in changes)

    def _write(self, key: EngineKey, content: bytes, *, seconds: float, why: str) -> None:
        folder = self._usable_folder()
        if folder is None:
            return
        header = header_for(key, content, created=time.time(), seconds=seconds, why=why)
        unfinished = folder / f"{key.file_name}.{os.getpid()}-{os.urandom(4).hex()}{UNFINISHED}"
        try:
            # No fsync: an entry that a power cut leaves half written is found out by its hash.
            with unfinished.open("xb") as file:
                file.write(header.encode())
                file.write(content)
            unfinished.replace(folder / key.file_name)
        except OSError as error:
            _log.warning("%s could not be kept in %s: %s", describe(key), folder, error.strerror or error)
        finally:
            _remove(unfinished)
        self._trim(folder, keep=folder / key.file_name)

    def _trim(self, folder: Path, keep: Path) -> None:
        """Remove what is used least until the limit is kept, and what processes that died have left behind."""
        paths = {path: found for path in folder.glob(f"*{SUFFIX}") if (found := _stat(path)) is not None}
        total = sum(found.st_size for found in paths.values())
        for path, found in sorted(paths.items(), key=lambda item: item[1].st_mtime):
            if total <= self.limit:
                break
            if path != keep and _remove(path):
                total -= found.st_size
        for path in folder.glob(f"*{UNFINISHED}"):
            left = _stat(path)
            if left is not None and left.st_mtime < time.time() - ABANDONED_SECONDS:
                _remove(path)

    @contextlib.contextmanager
    def _lock(self, key: EngineKey) -> Iterator[None]:
        """The lock of this key; where the file system has none, each process builds for itself."""
        with contextlib.ExitStack() as stack:
            folder = self._usable_folder()
            if folder is not None:
                path = folder / f"{key.kind}-{key.digest[:LOCK_DIGITS]}.lock"
                try:
                    stack.enter_context(locked(path, f"it builds {describe(key)}"))
                except OSError as error:
                    _log.warning("%s cannot be locked: %s", path, error.strerror or error)
            yield

    def _usable_folder(self) -> Path | None:
        """The folder, created where it is missing; None, with a warning, where it cannot be used."""
        if self.folder is None:
            return None
        reason = refusal(self.folder)
        if reason:
            _log.warning("engines are not kept: %s", reason)
            return None
        return self.folder

    def _require_folder(self) -> Path:
        if self.folder is None:
            raise UsageError(f"the cache is off: {FOLDER_VARIABLE}={OFF}")
        reason = refusal(self.folder)
        if reason:
            raise UsageError(reason)
        return self.folder


def default_cache() -> EngineCache:
    """The cache of this user, as the environment says. UsageError for a limit that is no number."""
    limit = os.environ.get(LIMIT_VARIABLE, "")
    if limit and not limit.isdigit():
        raise UsageError(f"{LIMIT_VARIABLE}={limit} is no number of MiB: unset it, or write one such as 4096")
    return EngineCache(default_folder(), int(limit) * MIB if limit else DEFAULT_LIMIT)


def describe(key: EngineKey) -> str:
    """A key in a few words, for messages."""
    device = key.fields.get("device", "")
    return f"the {key.kind} of {key.fields.get('runtime', '?')}{f' for {device}' if device else ''}"


def _entry(path: Path) -> Entry | None:
    try:
        with path.open("rb") as file:
            header = read_header(file)
            found = os.fstat(file.fileno())
    except (DamagedEntryError, OSError):
        return None
    return Entry(path, header, found.st_mtime, found.st_size)


def _comparable(kept: EngineKey, asked: EngineKey) -> bool:
    return kept.kind == asked.kind and all(kept.fields.get(name) == asked.fields.get(name) for name in ("runtime", "graph"))


def _newest_first(header: Header) -> float:
    return -header.created


def _differences(before: EngineKey, after: EngineKey) -> list[FieldChange]:
    names = sorted(before.fields.keys() | after.fields.keys())
    pairs = [(name, before.fields.get(name, "not a field"), after.fields.get(name, "not a field")) for name in names]
    return [FieldChange(name, old, new) for name, old, new in pairs if old != new]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # another process has removed it
        return None


def _size(path: Path) -> int:
    found = _stat(path)
    return found.st_size if found is not None else 0


def _remove(path: Path) -> bool:
    """Remove a file; False where it is gone already, or in use (on Windows)."""
    try:
        path.unlink()
    except OSError:
        return False
    return True
