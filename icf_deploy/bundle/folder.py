"""Reading a bundle's folder without trusting it: only plain files, no link followed, never more than was announced."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from icf_deploy.bundle.manifest import ENGINE_FOLDER, ENGINE_LIMIT, GRAPH_FOLDER, GRAPH_LIMIT
from icf_deploy.errors import IntegrityError

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
FILE_FLAGS = os.O_RDONLY | NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe must not block us
FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
# Windows calls a junction a folder; only its reparse tag tells. (Names that `stat` has on Windows alone.)
LINK_TAGS = frozenset(getattr(stat, name, -1) for name in ("IO_REPARSE_TAG_SYMLINK", "IO_REPARSE_TAG_MOUNT_POINT"))
NAME_LIMIT = GRAPH_LIMIT + ENGINE_LIMIT + 64  # entries that a folder is searched for; what a desktop leaves behind fits, too
AGAIN = "Copy the bundle again, or write it again with `icf-deploy export --overwrite`"


class Folder:
    """The folder form of a bundle. `root` itself may be reached through a link: the user named it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, file: str, limit: int) -> bytes:
        """The whole content of `file` (path in the bundle, "/" between its parts), at most `limit` bytes.

        Raises IntegrityError where it is missing, unreadable, too long, or not a plain file inside the folder. Where the
        system can, every part of the path is opened below the one before, so that a swap on the way leads nowhere.
        """
        try:
            with contextlib.ExitStack() as opened, open(self._open(file, opened), "rb") as stream:  # noqa: PTH123  # a descriptor
                facts = os.fstat(stream.fileno())
                self._require_file(facts, file)
                if facts.st_size > limit:
                    raise IntegrityError(
                        f"{self.root.name}: {file} has {facts.st_size} bytes, and at most {limit} were expected. {AGAIN}"
                    )
                data = stream.read(facts.st_size + 1)
        except FileNotFoundError as error:
            raise IntegrityError(f"{self.root.name}: {file} is missing. Copy the bundle again, all of it") from error
        except OSError as error:
            raise IntegrityError(f"{self.root.name}: {file} cannot be read: {error.strerror}") from error
        if len(data) != facts.st_size:
            raise IntegrityError(f"{self.root.name}: {file} changed while it was read. Try again")
        return data

    def names(self) -> tuple[str, ...]:
        """Paths of everything in the folder, whether or not it belongs there. IntegrityError for links and too much of it."""
        found: list[str] = []
        try:
            for prefix in ("", f"{GRAPH_FOLDER}/", f"{ENGINE_FOLDER}/"):
                place = self.root / prefix
                if prefix and not os.path.lexists(place):
                    continue
                if prefix:
                    self._require_folder(place.lstat(), prefix.rstrip("/"))
                with os.scandir(place) as entries:
                    for entry in entries:
                        name = prefix + entry.name
                        if name not in (GRAPH_FOLDER, ENGINE_FOLDER):
                            found.append(name)
                        if len(found) > NAME_LIMIT:
                            raise IntegrityError(f"{self.root.name} holds more than {NAME_LIMIT} files: it is no bundle")
        except OSError as error:
            raise IntegrityError(f"{self.root.name} cannot be read: {error.strerror}") from error
        return tuple(sorted(found))

    def _open(self, file: str, opened: contextlib.ExitStack) -> int:
        """A descriptor of the file. What is no plain file is refused before it is opened: opening a device can do things."""
        *folders, name = file.split("/")
        if os.open not in os.supports_dir_fd or os.stat not in os.supports_dir_fd or not NO_FOLLOW:
            path = self.root
            for part in folders:
                path /= part
                self._require_folder(path.lstat(), part)
            path /= name
            self._require_file(path.lstat(), file)
            return os.open(path, FILE_FLAGS)
        here = os.open(self.root, FOLDER_FLAGS)
        opened.callback(os.close, here)
        for part in folders:
            self._require_folder(os.stat(part, dir_fd=here, follow_symlinks=False), part)
            here = os.open(part, FOLDER_FLAGS | NO_FOLLOW, dir_fd=here)
            opened.callback(os.close, here)
        self._require_file(os.stat(name, dir_fd=here, follow_symlinks=False), file)
        return os.open(name, FILE_FLAGS, dir_fd=here)

    def _require_folder(self, facts: os.stat_result, name: str) -> None:
        if not stat.S_ISDIR(facts.st_mode) or _is_link(facts):
            raise IntegrityError(f"{self.root.name}: {name} is not a plain folder; a bundle holds no links")

    def _require_file(self, facts: os.stat_result, name: str) -> None:
        if not stat.S_ISREG(facts.st_mode) or _is_link(facts):
            raise IntegrityError(f"{self.root.name}: {name} is not a plain file; a bundle holds no links")


def _is_link(facts: os.stat_result) -> bool:
    return getattr(facts, "st_reparse_tag", 0) in LINK_TAGS
