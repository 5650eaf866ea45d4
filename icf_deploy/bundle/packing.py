"""A bundle's two forms, and the way from one to the other: a folder, and the same in one file. Their digest is the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from icf_deploy.bundle.archive import write_archive
from icf_deploy.bundle.manifest import MANIFEST_FILE
from icf_deploy.bundle.opening import Bundle, open_bundle
from icf_deploy.bundle.replacement import check_output, new_file
from icf_deploy.bundle.store import write_folder
from icf_deploy.bundle.verification import verify_bundle


def pack(bundle: Bundle, output: str | os.PathLike[str], *, overwrite: bool = False) -> Bundle:
    """Write `bundle` as one file and open that: the same bytes for the same bundle, complete or not at all.

    Raises IntegrityError for a bundle that is not whole, WorkError where `output` may not be written or is too large.
    """
    path = Path(output)
    check_output(path, overwrite=overwrite)
    verify_bundle(bundle)
    with new_file(path, overwrite=overwrite) as temporary, temporary.open("xb") as stream:
        write_archive(stream, _files(bundle))
        stream.flush()
        os.fsync(stream.fileno())
    return open_bundle(path, expect_digest=bundle.digest)


def unpack(bundle: Bundle, output: str | os.PathLike[str], *, overwrite: bool = False) -> Bundle:
    """Write `bundle` as a folder and open that; otherwise as `pack`."""
    path = Path(output)
    check_output(path, overwrite=overwrite)
    verify_bundle(bundle)
    return write_folder(path, _files(bundle), overwrite=overwrite)


def _files(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """Paths and contents, the manifest first; every content is checked again, since it is read again."""
    yield MANIFEST_FILE, bundle.manifest_bytes
    for entry in bundle.manifest.files():
        yield entry.file, bundle.content(entry)
