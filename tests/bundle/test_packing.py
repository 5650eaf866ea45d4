from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from icf_deploy.bundle.archive import ARCHIVE_LIMIT, write_archive
from icf_deploy.bundle.packing import pack, unpack
from icf_deploy.bundle.store import Bundle, NewEngine, open_bundle, write_bundle
from icf_deploy.errors import IntegrityError, WorkError

CHECKPOINT = (2).to_bytes(8, "little") + b"{}"


@pytest.fixture
def full(tmp_path: Path, fields: dict[str, Any]) -> Bundle:
    """A bundle with everything that one can hold."""
    engine = NewEngine("fp32-sm86", b"code", "trt", "sm86", "tensorrt_rtx 1.7.1", "fp32", {"batch": [1, 8]})
    return write_bundle(tmp_path / "full.icf", **fields, checkpoint=CHECKPOINT, engines=[engine])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_both_forms_have_the_same_digest_and_give_the_same_bytes(full: Bundle, tmp_path: Path) -> None:
    packed = pack(full, tmp_path / "packed.icf")
    assert packed.path.is_file()
    assert packed.digest == full.digest == hashlib.sha256((full.path / "manifest.json").read_bytes()).hexdigest()
    assert packed.verify() == full.verify()
    assert packed.graph("int8-bf16").data == full.graph("int8-bf16").data
    assert packed.reference().ab.tobytes() == full.reference().ab.tobytes()
    checkpoint = packed.checkpoint()
    assert checkpoint is not None
    assert checkpoint.data == CHECKPOINT
    assert open_bundle(packed.path, trust_engines=True).engine("fp32-sm86") == b"code"


def test_a_bundle_survives_the_way_there_and_back_byte_for_byte(full: Bundle, tmp_path: Path) -> None:
    packed = pack(full, tmp_path / "packed.icf")
    back = unpack(packed, tmp_path / "back.icf")
    assert tree(back.path) == tree(full.path)
    again = pack(back, tmp_path / "again.icf")
    assert again.path.read_bytes() == packed.path.read_bytes()


def test_the_same_bundle_makes_the_same_file_whenever_and_wherever(full: Bundle, tmp_path: Path) -> None:
    first = pack(full, tmp_path / "first.icf").path.read_bytes()
    copy = tmp_path / "elsewhere" / "other name.icf"
    shutil.copytree(full.path, copy)
    for path in copy.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert pack(open_bundle(copy), tmp_path / "second.icf").path.read_bytes() == first


def test_other_tools_read_the_file(full: Bundle, tmp_path: Path) -> None:
    packed = pack(full, tmp_path / "packed.icf")
    with zipfile.ZipFile(packed.path) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "manifest.json"
        assert {name: archive.read(name) for name in archive.namelist()} == tree(full.path)
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-q", packed.path, "-d", tmp_path / "unzipped"], check=True)
        assert open_bundle(tmp_path / "unzipped").digest == full.digest


def test_a_file_that_another_tool_stored_is_read(full: Bundle, tmp_path: Path) -> None:
    if not shutil.which("zip"):
        pytest.skip("needs Info-ZIP")
    subprocess.run(["zip", "-q", "-0", "-X", "-D", "-r", tmp_path / "zipped.icf", "."], cwd=full.path, check=True)
    bundle = open_bundle(tmp_path / "zipped.icf")
    assert bundle.verify()
    assert bundle.digest == full.digest


def test_opening_the_file_reads_no_content(full: Bundle, tmp_path: Path) -> None:
    packed = pack(full, tmp_path / "packed.icf").path
    data = bytearray(packed.read_bytes())
    at = data.index(b"the graph")
    data[at] ^= 1
    packed.write_bytes(data)
    bundle = open_bundle(packed)
    with pytest.raises(IntegrityError, match=r"graphs/fp32\.onnx is not what was written"):
        bundle.graph()


def test_a_damaged_bundle_is_not_packed(full: Bundle, tmp_path: Path) -> None:
    (full.path / "reference.npz").write_bytes(b"damaged")
    for write in (pack, unpack):
        with pytest.raises(IntegrityError, match=r"reference\.npz"):
            write(full, tmp_path / "out.icf")
    assert not (tmp_path / "out.icf").exists()


def test_an_existing_file_needs_overwrite_and_only_a_bundle_is_replaced(full: Bundle, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "packed.icf"
    pack(full, path)
    with pytest.raises(WorkError, match=r"packed\.icf exists.*--overwrite"):
        pack(bundle, path)
    assert open_bundle(path).digest == full.digest
    pack(bundle, path, overwrite=True)
    assert open_bundle(path).digest == bundle.digest
    path.write_bytes(path.read_bytes()[:100])  # damaged, but it was a bundle
    pack(full, path, overwrite=True)
    (tmp_path / "photo.jpg").write_bytes(b"pixels")
    with zipfile.ZipFile(tmp_path / "thesis.zip", "w") as archive:
        archive.writestr("thesis.txt", "words")
    for name in ("photo.jpg", "thesis.zip"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(WorkError, match="is not replaced: it is not a bundle"):
            pack(full, tmp_path / name, overwrite=True)
        assert (tmp_path / name).read_bytes() == before


def test_one_form_replaces_the_other(full: Bundle, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "x.icf"
    pack(full, path)
    assert unpack(bundle, path, overwrite=True).path.is_dir()
    assert pack(full, path, overwrite=True).path.is_file()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["edge.icf", "full.icf", "x.icf"]


def test_a_bundle_can_be_packed_onto_itself(full: Bundle) -> None:
    digest, path = full.digest, full.path
    assert pack(full, path, overwrite=True).path.is_file()
    assert unpack(open_bundle(path), path, overwrite=True).path.is_dir()
    assert open_bundle(path).digest == digest
    assert open_bundle(path).verify()


def test_something_that_appears_meanwhile_is_not_replaced_without_overwrite(full: Bundle, tmp_path: Path) -> None:
    from icf_deploy.bundle.replacement import new_file

    path = tmp_path / "x.icf"
    with pytest.raises(WorkError, match="could not be written"), new_file(path, overwrite=False) as temporary:
        temporary.write_bytes(b"new")
        path.write_bytes(b"mine")
    assert path.read_bytes() == b"mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["full.icf", "x.icf"]


def test_a_bundle_that_is_too_large_for_one_file_says_so(tmp_path: Path) -> None:
    class Endless(bytes):
        """Claims to be as long as an archive can be."""

        def __len__(self) -> int:
            return ARCHIVE_LIMIT - 100

    with (tmp_path / "x").open("wb") as stream, pytest.raises(WorkError, match="which one file cannot hold: ship its folder"):
        write_archive(stream, [("manifest.json", Endless())])
