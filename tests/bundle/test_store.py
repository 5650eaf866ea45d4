from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import icf_deploy.data
from icf_deploy.bundle import store
from icf_deploy.bundle.manifest import Source
from icf_deploy.bundle.reference import ReferenceSet
from icf_deploy.bundle.store import Bundle, NewGraph, open_bundle, write_bundle
from icf_deploy.errors import IntegrityError, UsageError

GIB = 2**30
WEIGHTS = (2).to_bytes(8, "little") + b"{}"  # the smallest safetensors file


def model(name: str) -> bytes:
    """The smallest ONNX model there is: an IR version, a producer's name, an empty graph."""
    return b"\x08\x0a\x12" + bytes([len(name)]) + name.encode() + b"\x3a\x00"


def test_what_is_written_is_what_is_read(bundle: Bundle, fields: dict[str, Any], reference: ReferenceSet) -> None:
    opened = open_bundle(bundle.path)
    graph = opened.graph("int8-bf16")
    assert (graph.data, graph.recipe, graph.size, graph.stride, graph.preset) == (
        model("another graph"),
        "int8+bf16",
        (128, 128),
        4,
        "icf-edge",
    )
    assert graph.sha256 == hashlib.sha256(model("another graph")).hexdigest()
    assert opened.graph().data == model("the graph")
    assert opened.manifest.provenance == fields["provenance"]
    assert opened.manifest.parity == fields["parity"]
    assert opened.manifest.graphs[0].lowering == fields["graphs"][0].lowering
    assert opened.manifest.graphs[0].measurements == {"gmac": 0.5, "nodes": [1, 2]}
    read = opened.reference()
    assert read.names == ("astronaut", "coffee")
    assert read.gray.tobytes() == reference.gray.tobytes()
    assert read.ab.tobytes() == reference.ab.tobytes()


def test_a_bundle_is_exactly_the_documented_files(bundle: Bundle) -> None:
    files = sorted(str(path.relative_to(bundle.path)) for path in bundle.path.rglob("*") if path.is_file())
    assert files == ["graphs/fp32.onnx", "graphs/int8-bf16.onnx", "manifest.json", "reference.npz"]


def test_equal_content_makes_equal_bytes(tmp_path: Path, fields: dict[str, Any]) -> None:
    first, second = (write_bundle(tmp_path / name, **fields) for name in ("a.icf", "b.icf"))
    assert first.digest == second.digest
    assert first.digest == hashlib.sha256((first.path / "manifest.json").read_bytes()).hexdigest()


def test_opening_reads_the_manifest_only(bundle: Bundle) -> None:
    shutil.rmtree(bundle.path / "graphs")
    (bundle.path / "reference.npz").unlink()
    assert open_bundle(bundle.path).manifest.preset == "icf-edge"


def test_a_graph_is_read_once(bundle: Bundle) -> None:
    first = bundle.graph()
    (bundle.path / "graphs/fp32.onnx").unlink()
    assert bundle.graph("fp32") is first


def test_an_unknown_graph_is_a_usage_error_that_lists_those_there_are(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="no graph 'fp16': choose one of fp32, int8-bf16"):
        bundle.graph("fp16")


def test_an_altered_graph_is_an_integrity_error_that_names_file_and_digests(bundle: Bundle) -> None:
    (bundle.path / "graphs/fp32.onnx").write_bytes(model("the grapf"))
    expected, found = (hashlib.sha256(data).hexdigest()[:12] for data in (model("the graph"), model("the grapf")))
    with pytest.raises(
        IntegrityError, match=rf"graphs/fp32\.onnx is not what was written.*{expected}.*{found}.*Copy the bundle"
    ):
        bundle.graph()
    assert bundle.graph("int8-bf16").data == model("another graph")


@pytest.mark.parametrize("file", ["graphs/fp32.onnx", "graphs/int8-bf16.onnx", "reference.npz"])
def test_verify_finds_a_flipped_bit_in_any_file(bundle: Bundle, file: str) -> None:
    assert open_bundle(bundle.path).verify() == [
        "manifest.json",
        "graphs/fp32.onnx",
        "graphs/int8-bf16.onnx",
        "reference.npz",
    ]
    data = bytearray((bundle.path / file).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / file).write_bytes(data)
    with pytest.raises(IntegrityError, match=file):
        open_bundle(bundle.path).verify()


def test_a_missing_file_is_an_integrity_error_that_names_it(bundle: Bundle) -> None:
    (bundle.path / "graphs/fp32.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"edge\.icf: graphs/fp32\.onnx is missing"):
        bundle.graph()


def test_a_bundle_that_is_not_there_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"no bundle .*nowhere\.icf.*icf-deploy export"):
        open_bundle(tmp_path / "nowhere.icf")


def test_a_folder_or_file_that_is_no_bundle_says_so(tmp_path: Path) -> None:
    (tmp_path / "file.icf").write_text("hello")
    with pytest.raises(IntegrityError, match=r"file\.icf is not a bundle: .*.icf-deploy pack"):
        open_bundle(tmp_path / "file.icf")
    with pytest.raises(IntegrityError, match=r"is not a bundle: it has no manifest\.json"):
        open_bundle(tmp_path)


def test_a_digest_that_is_trusted_pins_every_byte_of_the_bundle(bundle: Bundle, tmp_path: Path, fields: dict[str, Any]) -> None:
    assert open_bundle(bundle.path, expect_digest=bundle.digest.upper()).digest == bundle.digest
    forged = [NewGraph("fp32", model("the evil graph"), "fp32", (64, 96))]  # with hashes that fit
    write_bundle(bundle.path, **{**fields, "graphs": forged}, overwrite=True)
    assert open_bundle(bundle.path).graph().data == model("the evil graph")
    with pytest.raises(IntegrityError, match="is not the bundle that was asked for"):
        open_bundle(bundle.path, expect_digest=bundle.digest)


def test_a_checkpoint_travels_in_the_bundle(tmp_path: Path, fields: dict[str, Any]) -> None:
    graph = write_bundle(tmp_path / "with.icf", **fields, checkpoint=WEIGHTS).checkpoint()
    assert graph is not None
    assert (graph.data, graph.recipe, graph.size, graph.stride) == (WEIGHTS, "fp32", (64, 96), 4)
    (tmp_path / "with.icf/checkpoint.safetensors").write_bytes(WEIGHTS[:-1])
    with pytest.raises(IntegrityError, match=r"checkpoint\.safetensors is not what was written"):
        open_bundle(tmp_path / "with.icf").checkpoint()


def test_a_bundle_without_checkpoint_has_none_even_if_the_package_has_it(bundle: Bundle) -> None:
    assert bundle.checkpoint() is None


@pytest.mark.parametrize("same", [True, False])
def test_the_shipped_bundle_takes_the_packaged_checkpoint_only_if_it_was_exported_from_that(
    same: bool, tmp_path: Path, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(icf_deploy.data, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / store.SHIPPED_CHECKPOINT).write_bytes(WEIGHTS)
    digest = hashlib.sha256(WEIGHTS if same else b"older").hexdigest()
    provenance = type(fields["provenance"])(**{**vars(fields["provenance"]), "source": Source("w.safetensors", digest)})
    write_bundle(tmp_path / store.SHIPPED, **{**fields, "provenance": provenance})
    checkpoint = open_bundle().checkpoint()
    assert (checkpoint is not None and checkpoint.data == WEIGHTS) is same
    assert open_bundle(tmp_path / store.SHIPPED).checkpoint() is None


@pytest.mark.parametrize("where", ["graphs/fp32.onnx", "graphs", "manifest.json", "reference.npz"])
def test_a_link_inside_a_bundle_is_not_followed(bundle: Bundle, tmp_path: Path, where: str) -> None:
    inside, outside = bundle.path / where, tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(IntegrityError, match="holds no links"):
        open_bundle(bundle.path).verify()


def test_a_bundle_may_itself_be_reached_through_a_link(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "current.icf").symlink_to(bundle.path)
    assert open_bundle(tmp_path / "current.icf").graph().data == model("the graph")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_place_of_a_graph_is_refused_and_does_not_block(bundle: Bundle) -> None:
    (bundle.path / "graphs/fp32.onnx").unlink()
    os.mkfifo(bundle.path / "graphs/fp32.onnx")
    with pytest.raises(IntegrityError, match="not a plain file"):
        bundle.graph()


def test_a_graph_beyond_what_protobuf_can_hold_is_refused_without_reading_it(bundle: Bundle) -> None:
    with (bundle.path / "graphs/fp32.onnx").open("wb") as stream:
        stream.truncate(3 * GIB)  # sparse
    with pytest.raises(IntegrityError, match=rf"{3 * GIB} bytes, and at most"):
        bundle.graph()


def test_fields_that_do_not_make_a_readable_bundle_are_refused_before_anything_is_written(
    tmp_path: Path, fields: dict[str, Any], reference: ReferenceSet
) -> None:
    off_grid = ReferenceSet(reference.names, reference.gray * np.float32(0.9), reference.ab)
    not_finite = ReferenceSet(reference.names, reference.gray, np.full_like(reference.ab, np.nan))
    wrong = {
        "at least one graph": {"graphs": []},
        "lower-case": {"graphs": [NewGraph("../fp32", b"x", "fp32", (64, 96))]},
        "no whole graph": {"default_graph": "int8-bf16"},
        "multiples of 1/255": {"reference": off_grid},
        "NaN": {"reference": not_finite},
        "ab: expected": {"stride": 2},
        "two graphs": {"graphs": [fields["graphs"][0]] * 2},
    }
    for message, change in wrong.items():
        with pytest.raises(UsageError, match=message):
            write_bundle(tmp_path / "edge.icf", **{**fields, **change})
    assert list(tmp_path.iterdir()) == []
