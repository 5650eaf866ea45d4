from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def rich_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """With rewrites and measurements in its manifest."""
    from icf_deploy.bundle.manifest import Lowering, SkippedRewrite
    from icf_deploy.bundle.store import NewGraph, open_bundle, write_bundle

    opened = open_bundle(tiny_bundle)
    graph = NewGraph(
        "fp32",
        opened.graph().data,
        "fp32",
        (64, 64),
        lowering=Lowering(("batch_norm",), (SkippedRewrite("layer_norm", "there is none"),)),
        measurements={"gmac": 1.25, "parameters": 4_200_000, "before": {"gmac": 2.5}},
    )
    return write_bundle(
        tmp_path / "rich.icf",
        preset="tiny",
        stride=2,
        size=(64, 64),
        graphs=[graph],
        reference=opened.reference(),
        parity=opened.manifest.parity,
        provenance=opened.manifest.provenance,
    ).path


def test_it_shows_what_the_bundle_holds(icf, rich_bundle: Path) -> None:
    found = icf("inspect", rich_bundle)
    assert (found.status, found.err) == (0, "")
    manifest = rich_bundle / "manifest.json"
    graph_digest = hashlib.sha256((rich_bundle / "graphs/fp32.onnx").read_bytes()).hexdigest()
    for expected in (
        hashlib.sha256(manifest.read_bytes()).hexdigest(), graph_digest[:12], "2 photos: astronaut, coffee", "64x64, stride 2",
        "rewrite applied: batch_norm", "rewrite skipped: layer_norm: there is none", "gmac: 1.25", "parameters: 4,200,000",
        "    gmac: 2.5", "verified    3 files",
    ):  # fmt: skip
        assert expected in found.out


def test_json_holds_the_manifest_word_for_word(icf, rich_bundle: Path) -> None:
    document = icf("inspect", rich_bundle, "--json").document
    assert document["manifest"] == json.loads((rich_bundle / "manifest.json").read_text())
    assert document["verified"] == ["manifest.json", "graphs/fp32.onnx", "reference.npz"]
    assert document["path"] == str(rich_bundle)


@pytest.mark.parametrize("file", ["manifest.json", "graphs/fp32.onnx", "reference.npz"])
def test_every_altered_file_is_found(icf, file: str, tiny_bundle: Path, tmp_path: Path) -> None:
    altered = shutil.copytree(tiny_bundle, tmp_path / "altered.icf")
    data = (altered / file).read_bytes()
    (altered / file).write_bytes(data[: len(data) // 2])
    found = icf("inspect", altered)
    assert (found.status, found.out) == (6, "")
    assert Path(file).name in found.error


def test_what_is_no_bundle_has_status_6(icf, tmp_path: Path) -> None:
    assert icf("inspect", tmp_path).status == 6
    assert icf("inspect", tmp_path / "none").status == 6
