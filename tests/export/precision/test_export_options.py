"""What `export_bundle` refuses before it loads anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icf_deploy.errors import UsageError, WorkError
from icf_deploy.export.pipeline import export_bundle
from icf_deploy.export.precision.recipe import Recipe


def test_precisions_that_make_no_sense_are_usage_errors(tmp_path: Path) -> None:
    output = tmp_path / "x.icf"
    with pytest.raises(UsageError, match="no precision 'int4': choose one of fp32, fp16, bf16, int8"):
        export_bundle(output=output, precision="int4")
    with pytest.raises(UsageError, match="--split writes the steps in fp32"):
        export_bundle(output=output, precision="int8", split=True)
    with pytest.raises(UsageError, match="--photos are for calibration, and fp32 needs none"):
        export_bundle(output=output, photos=tmp_path)
    assert not output.exists()


def test_several_precisions_must_go_together(tmp_path: Path) -> None:
    output = tmp_path / "x.icf"
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(Recipe("icf-edge", (256, 256), "0" * 64, "bf16").document()))
    for precision, message in (
        (["auto", "int8"], "--precision auto writes the float32 graph"),
        ([recipe, tmp_path / "second.json"], "give --recipe once"),
        ([], "no precision is asked for"),
        (["fp32", "int4"], "no precision 'int4'"),
    ):
        with pytest.raises(UsageError, match=message):
            export_bundle(output=output, precision=precision)
    with pytest.raises(UsageError, match="--split writes the steps in fp32: add --precision fp32"):
        export_bundle(output=output, precision=["int8", "bf16"], split=True)
    assert not output.exists()


def test_weight_bits_are_7_or_8_and_for_int8(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--weight-bits 6: choose one of 8, 7"):
        export_bundle(output=tmp_path / "x.icf", precision="int8", weight_bits=6)
    with pytest.raises(UsageError, match="bf16 and fp32 has none: add --precision int8"):
        export_bundle(output=tmp_path / "x.icf", precision=["fp32", "bf16"], weight_bits=7)


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"missing\.json: cannot read the recipe"):
        export_bundle(tmp_path / "no.pth", tmp_path / "x.icf", precision=tmp_path / "missing.json")


def test_photos_that_are_not_there_or_not_needed_are_named(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"nowhere: there is no such folder of photos"):
        export_bundle(tmp_path / "no.pth", tmp_path / "x.icf", precision="int8", photos=tmp_path / "nowhere")
    recipe = tmp_path / "wide.json"
    recipe.write_text(json.dumps(Recipe("icf-edge", (256, 256), "0" * 64, "bf16").document()))
    with pytest.raises(UsageError, match="bf16 needs none"):
        export_bundle(tmp_path / "no.pth", tmp_path / "x.icf", precision=recipe, photos=tmp_path)
