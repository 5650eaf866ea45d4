from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from icf_deploy.bundle.packing import pack
from icf_deploy.bundle.store import NewEngine, open_bundle, write_bundle


@pytest.fixture(params=["folder", "file"])
def bundle(request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path: Path) -> Path:
    """The same bundle in both forms."""
    if request.param == "file":
        return pack(open_bundle(tiny_bundle), tmp_path / "tiny.icf").path
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny.icf"))


def test_it_prints_every_file_and_what_was_checked(icf, bundle: Path, tiny_bundle: Path) -> None:
    found = icf("verify", bundle)
    assert (found.status, found.err) == (0, "")
    for file in ("manifest.json", "graphs/fp32.onnx", "reference.npz"):
        assert hashlib.sha256((tiny_bundle / file).read_bytes()).hexdigest()[:12] in found.out
        assert f"{file}: " in found.out
    assert "ONNX, all its weights inside, no machine code" in found.out
    assert "2 photos, shapes and values in range" in found.out
    assert hashlib.sha256((tiny_bundle / "manifest.json").read_bytes()).hexdigest() in found.out


def test_json_holds_the_digests(icf, bundle: Path, tiny_bundle: Path) -> None:
    document = icf("verify", bundle, "--json").document
    assert document["digest"] == hashlib.sha256((tiny_bundle / "manifest.json").read_bytes()).hexdigest()
    assert {file["file"]: file["sha256"] for file in document["files"]} == {
        file: hashlib.sha256((tiny_bundle / file).read_bytes()).hexdigest()
        for file in ("manifest.json", "graphs/fp32.onnx", "reference.npz")
    }


def test_a_digest_that_is_expected_is_compared(icf, bundle: Path) -> None:
    digest = icf("verify", bundle, "--json").document["digest"]
    found = icf("verify", bundle, "--expect-digest", digest.upper())
    assert found.status == 0
    assert "as asked" in found.out
    assert icf("verify", bundle, "--expect-digest", "0" * 64).status == 6
    assert icf("verify", bundle, "--expect-digest", "abc").status == 2


def test_one_altered_byte_is_found(icf, bundle: Path) -> None:
    path = bundle / "reference.npz" if bundle.is_dir() else bundle
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = icf("verify", bundle)
    assert (found.status, found.out) == (6, "")


def test_engines_inside_are_shown_as_what_they_are(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    opened = open_bundle(tiny_bundle)
    manifest = opened.manifest
    from icf_deploy.bundle.store import NewGraph

    path = write_bundle(
        tmp_path / "engines.icf",
        preset=manifest.preset,
        stride=manifest.stride,
        size=manifest.size,
        graphs=[NewGraph("fp32", opened.graph().data, "fp32", manifest.size)],
        reference=opened.reference(),
        parity=manifest.parity,
        provenance=manifest.provenance,
        engines=[NewEngine("fp32-sm86", b"code", "trt", "sm86", "tensorrt_rtx 1.7.1", "fp32")],
    ).path
    assert "engines/fp32-sm86.engine: machine code of tensorrt_rtx 1.7.1 for sm86, not looked into" in icf("verify", path).out
    assert "engine fp32-sm86: tensorrt_rtx 1.7.1 for sm86, of graph fp32" in icf("inspect", path).out
    assert json.loads((path / "manifest.json").read_text())["engines"][0]["runtime"] == "trt"
