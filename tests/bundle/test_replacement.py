from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from icf_deploy.bundle import replacement
from icf_deploy.bundle.replacement import check_output, new_folder
from icf_deploy.bundle.store import Bundle, NewGraph, open_bundle, write_bundle
from icf_deploy.errors import WorkError


def model(name: str) -> bytes:
    """The smallest ONNX model there is: an IR version, a producer's name, an empty graph."""
    return b"\x08\x0a\x12" + bytes([len(name)]) + name.encode() + b"\x3a\x00"


@pytest.fixture(params=[True, False], ids=["exchange", "two steps"])
def can_exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Once as on Linux, where two folders are exchanged in one step, and once as where that is not possible."""
    if not request.param:
        monkeypatch.setattr(replacement, "exchanged", lambda first, second: False)
    elif sys.platform != "linux":
        pytest.skip("needs renameat2")
    return bool(request.param)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def other(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "graphs": [NewGraph("fp32", model("a newer graph"), "fp32", (64, 96))]}


def test_an_existing_bundle_needs_overwrite_and_is_left_alone_without(bundle: Bundle, fields: dict[str, Any]) -> None:
    with pytest.raises(WorkError, match=r"edge\.icf exists.*--overwrite"):
        write_bundle(bundle.path, **other(fields))
    assert open_bundle(bundle.path).graph().data == model("the graph")


@pytest.mark.usefixtures("can_exchange")
def test_overwrite_replaces_the_whole_bundle_and_leaves_nothing_of_the_old_one(bundle: Bundle, fields: dict[str, Any]) -> None:
    write_bundle(bundle.path, **other(fields), overwrite=True)
    assert open_bundle(bundle.path).graph().data == model("a newer graph")
    assert names(bundle.path / "graphs") == ["fp32.onnx"]
    assert names(bundle.path.parent) == ["edge.icf"]


def test_a_damaged_bundle_can_be_overwritten(bundle: Bundle, fields: dict[str, Any]) -> None:
    (bundle.path / "manifest.json").write_text("damaged")
    write_bundle(bundle.path, **fields, overwrite=True)
    assert open_bundle(bundle.path).verify()


@pytest.mark.parametrize("foreign", ["notes.txt", "graphs/notes.txt"])
def test_a_bundle_folder_that_holds_something_else_is_not_replaced(
    bundle: Bundle, fields: dict[str, Any], foreign: str
) -> None:
    (bundle.path / foreign).write_text("mine")
    with pytest.raises(WorkError, match=rf"is not replaced: it holds {foreign}"):
        write_bundle(bundle.path, **fields, overwrite=True)
    assert (bundle.path / foreign).read_text() == "mine"


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, fields: dict[str, Any]) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("words")
    (tmp_path / "photo.jpg").write_bytes(b"pixels")
    for name in ("thesis", "photo.jpg"):
        with pytest.raises(WorkError, match="not a bundle"):
            write_bundle(tmp_path / name, **fields, overwrite=True)
    assert (tmp_path / "thesis/chapter.txt").read_text() == "words"
    assert (tmp_path / "photo.jpg").read_bytes() == b"pixels"


def test_a_link_is_not_replaced(bundle: Bundle, fields: dict[str, Any]) -> None:
    link = bundle.path.with_name("current.icf")
    link.symlink_to(bundle.path)
    with pytest.raises(WorkError, match="is a link"):
        write_bundle(link, **fields, overwrite=True)


def test_a_folder_that_does_not_exist_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"nowhere does not exist: mkdir -p .*nowhere"):
        check_output(tmp_path / "nowhere" / "edge.icf", overwrite=False)


@pytest.mark.parametrize("path", ["", ".", ".."])
def test_a_path_without_a_name_is_refused(path: str) -> None:
    with pytest.raises(WorkError):
        check_output(Path(path), overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "failure, expected",
    [
        (OSError(errno.ENOSPC, "No space left on device"), WorkError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (RuntimeError("a bug"), RuntimeError),
    ],
    ids=["disk full", "interrupted", "bug"],
)
def test_a_failure_while_writing_leaves_no_trace(
    bundle: Bundle, failure: BaseException, expected: type[BaseException], overwrite: bool
) -> None:
    path = bundle.path if overwrite else bundle.path.with_name("new.icf")
    with pytest.raises(expected), new_folder(path, overwrite=overwrite) as folder:
        (folder / "manifest.json").write_text("half")
        raise failure
    assert names(bundle.path.parent) == ["edge.icf"]
    assert open_bundle(bundle.path).verify()


def test_a_full_disk_is_a_work_error_that_says_so(
    tmp_path: Path, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(WorkError, match=r"edge\.icf could not be written: No space left on device"):
        write_bundle(tmp_path / "edge.icf", **fields)
    assert names(tmp_path) == []


def test_when_the_new_bundle_cannot_take_its_place_the_old_one_comes_back(
    bundle: Bundle, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    rename = Path.rename

    def refuse(first: Path, second: Path) -> bool:
        raise OSError(errno.EACCES, "Permission denied")

    def refuse_new(path: Path, target: Path) -> Path:
        if path.suffix == ".new":
            raise OSError(errno.EACCES, "Permission denied")
        return rename(path, target)

    if can_exchange:
        monkeypatch.setattr(replacement, "exchanged", refuse)
    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(WorkError, match="Permission denied"):
        write_bundle(bundle.path, **other(fields), overwrite=True)
    assert names(bundle.path.parent) == ["edge.icf"]
    assert open_bundle(bundle.path).graph().data == model("the graph")


def test_an_old_bundle_that_cannot_be_removed_is_said_with_its_place(
    bundle: Bundle, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    remove = shutil.rmtree
    suffix = ".new" if can_exchange else ".old"  # what was exchanged has the new one's temporary name

    def refuse_old(path: Path, ignore_errors: bool = False) -> None:
        if path.suffix == suffix:
            raise OSError(errno.EBUSY, "Device or resource busy")
        remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", refuse_old)
    with pytest.raises(WorkError, match=rf"is written, but .* remove .*\{suffix} yourself"):
        write_bundle(bundle.path, **other(fields), overwrite=True)
    assert open_bundle(bundle.path).graph().data == model("a newer graph")


def test_something_that_appears_meanwhile_is_not_replaced_without_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "edge.icf"
    with pytest.raises(WorkError, match="could not be written"), new_folder(path, overwrite=False):
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    assert (path / "mine.txt").read_text() == "mine"
    assert names(tmp_path) == ["edge.icf"]
