"""The sensitivity table: it survives the way through a bundle, names causes, and nothing in it is trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icf_deploy.bundle.packing import pack
from icf_deploy.bundle.sensitivity import Gain, Part, Point, Ratio, Run, Sensitivity
from icf_deploy.bundle.store import add_engines, open_bundle, write_bundle
from icf_deploy.bundle.verification import verify_bundle
from icf_deploy.errors import ArtefactError, IntegrityError, UsageError

GAIN = Gain("openvino:cpu", Ratio(0.9, 0.88, 0.92), 4.5, 5.0)
TABLE = Sensitivity(
    preset="icf-edge",
    size=(64, 96),
    network="ab" * 32,
    photos="the packaged photos",
    views=16,
    machine="a processor",
    parts=(
        Part("fusion", "fusion", "int8", "ort:cpu", 0.2, 0.1, (GAIN,)),
        Part("backbone.0", "backbone.0", "int8", "ort:cpu", 1.9, 0.8),
        Part("backbone.0", "backbone.0", "bf16", "openvino:cpu", 0.3, 0.1),
        Part("color_decoder", "color_decoder", "bf16", "openvino:cpu", 0.9, 0.4),
        Part("backbone.stem.0/Conv", "backbone.0", "int8", "ort:cpu", math.inf, math.inf),
    ),
    points=(
        Point("fp32", {"backbone.0": "fp32", "color_decoder": "fp32", "fusion": "fp32"}, {}, (Run("ort:cpu", 0.0, 0.0),)),
        Point(
            "int8-bf16",
            {"backbone.0": "int8", "color_decoder": "fp32", "fusion": "int8"},
            {"backbone.stem.0/Conv": "fp32"},
            (Run("openvino:cpu", 1.4, 0.6, predicted=4.1, milliseconds=4.2, time=Ratio(0.8, 0.7, 0.9)),),
        ),
        Point(None, {"backbone.0": "int8", "color_decoder": "int8", "fusion": "int8"}, {}, ()),
    ),
)


def test_a_table_survives_the_way_through_json_an_infinite_drift_included() -> None:
    assert Sensitivity.from_json(TABLE.to_json()) == TABLE
    assert b"Infinity" not in TABLE.to_json()


def test_the_causes_of_a_graphs_drift_are_its_blocks_worst_first_in_the_formats_that_they_have_there() -> None:
    assert [(part.name, part.de2000_p95) for part in TABLE.causes("int8-bf16")] == [("backbone.0", 1.9), ("fusion", 0.2)]
    assert TABLE.causes("fp32") == ()
    assert [part.name for part in TABLE.causes("fp32", wide="bf16")] == ["color_decoder", "backbone.0"]
    assert [part.name for part in TABLE.causes("int8-bf16", wide="bf16")] == ["backbone.0", "color_decoder", "fusion"]
    assert TABLE.causes("of another bundle") == ()
    assert [part.name for part in TABLE.nodes] == ["backbone.stem.0/Conv"]


def test_a_bundle_carries_verifies_packs_and_keeps_it(tmp_path: Path, fields: dict[str, Any]) -> None:
    bundle = write_bundle(tmp_path / "with.icf", **fields, sensitivity=TABLE)
    assert bundle.sensitivity() == TABLE
    checked = {found.file: found.found for found in verify_bundle(bundle)}
    assert checked["sensitivity.json"] == "5 parts of the network and 3 recipes, with their drift"
    packed = pack(bundle, tmp_path / "one.icf")
    assert packed.digest == bundle.digest and packed.sensitivity() == TABLE
    assert add_engines(bundle, tmp_path / "more.icf", []).sensitivity() == TABLE


def test_a_bundle_without_one_says_nothing_of_it(tmp_path: Path, fields: dict[str, Any]) -> None:
    bundle = write_bundle(tmp_path / "without.icf", **fields)
    assert bundle.sensitivity() is None
    assert b"sensitivity" not in bundle.manifest_bytes and not (bundle.path / "sensitivity.json").exists()


def test_a_table_that_was_changed_or_lies_elsewhere_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    bundle = write_bundle(tmp_path / "with.icf", **fields, sensitivity=TABLE)
    file = bundle.path / "sensitivity.json"
    file.write_bytes(file.read_bytes().replace(b"1.9", b"0.1"))
    with pytest.raises(IntegrityError, match=r"sensitivity\.json is not what was written"):
        bundle.sensitivity()
    manifest = json.loads(bundle.manifest_bytes)
    manifest["sensitivity"]["file"] = "../sensitivity.json"
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=r"sensitivity: file: expected 'sensitivity\.json'"):
        open_bundle(bundle.path)


Change = Callable[[dict[str, Any]], object]
WRONG: dict[str, tuple[Change, str]] = {
    "no parts": (lambda t: t.pop("parts"), "'parts' is missing"),
    "a format that is none": (lambda t: t["parts"][0].update(format="int4"), r"parts\[0\]: format: expected one of fp32"),
    "a negative drift": (lambda t: t["parts"][1].update(de2000_p95=-1), "0 or more"),
    "a drift that is a text": (lambda t: t["parts"][1].update(de2000_mean="low"), "0 or more"),
    "gains as an object": (lambda t: t["parts"][0].update(gains={}), "a list of at most"),
    "a ratio of one number": (lambda t: t["parts"][0]["gains"][0].update(time=0.9), "expected an object"),
    "a block in no format": (lambda t: t["points"][0].update(blocks={"fusion": "best"}), "blocks: fusion: expected one of"),
    "a block in a number": (lambda t: t["points"][0].update(blocks={"fusion": 8}), "blocks: fusion: expected one of"),
    "blocks as a list": (lambda t: t["points"][0].update(blocks=["fusion"]), "blocks: expected an object"),
    "a graph that is a number": (lambda t: t["points"][0].update(graph=1), "graph: expected a text"),
    "an escape sequence": (lambda t: t["parts"][0].update(name="\x1b[2J"), "unprintable"),
    "a short digest": (lambda t: t.update(network="ab"), "64 hexadecimal digits"),
    "no views": (lambda t: t.update(views=0), "views: expected a whole number"),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG.keys())
def test_a_malformed_table_is_an_integrity_error_that_says_where(change: Change, message: str) -> None:
    values = json.loads(TABLE.to_json())
    change(values)
    with pytest.raises(IntegrityError, match=message):
        Sensitivity.from_json(json.dumps(values).encode())


def test_a_newer_table_asks_for_an_upgrade_and_a_wrong_one_is_never_written(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(ArtefactError, match=r"format 2.*reads up to 1.*pip install --upgrade"):
        Sensitivity.from_json(b'{"format": 2}')
    wrong = Sensitivity("icf-edge", (64, 96), "no digest", "", 1, "", (), ())
    with pytest.raises(UsageError, match="do not make a bundle"):
        write_bundle(tmp_path / "wrong.icf", **fields, sensitivity=wrong)
    assert not (tmp_path / "wrong.icf").exists()
