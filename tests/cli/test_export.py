from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from icf_deploy.bundle.store import Bundle, NewGraph, open_bundle, write_bundle


@pytest.fixture
def asked(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of export_bundle, which gives the tiny bundle instead of working."""
    seen: dict[str, Any] = {}

    def export_bundle(source: Any, output: Any, *, progress: Any, **options: Any) -> Bundle:
        progress("working")
        seen.update(options, source=source, output=output)
        return open_bundle(tiny_bundle)

    monkeypatch.setattr("icf_deploy.export.pipeline.export_bundle", export_bundle)
    return seen


def test_without_options_the_defaults_of_the_library_hold(icf, asked: dict[str, Any], tiny_bundle: Path) -> None:
    found = icf("export")
    assert found.status == 0
    assert found.out == f"{tiny_bundle}\n"
    assert found.err.splitlines()[0] == "working ..."
    assert asked.pop("command").startswith("icf-deploy")
    where = {"source": None, "output": None, "size": (256, 256), "overwrite": False, "with_checkpoint": False}
    assert asked == {**where, "precision": "fp32", "photos": None}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["x.pth"], {"source": "x.pth"}),
        (["-o", "y.icf"], {"output": Path("y.icf")}),
        (["--size", "512"], {"size": (512, 512)}),
        (["--size", "256x384"], {"size": (256, 384)}),
        (["--overwrite"], {"overwrite": True}),
        (["--with-checkpoint"], {"with_checkpoint": True}),
        (["--no-lowering"], {"lowering": False}),
        (["--keep", "a", "--keep", "b"], {"keep": ("a", "b")}),
        (["--portable-ops"], {"portable_ops": True}),
        (["--split"], {"split": True}),
        (["--engine", "trt", "--target", "rtx40, sm86", "--target", "rtx50"], {"targets": ["rtx40", "sm86", "rtx50"]}),
        (["--precision", "int8", "--photos", "d"], {"precision": ["int8"], "photos": Path("d")}),
        (["--precision", "int8", "--precision", "fp32"], {"precision": ["int8", "fp32"]}),
        (["--precision", "int8", "--weight-bits", "7"], {"weight_bits": 7}),
        (["--recipe", "f.json"], {"precision": [Path("f.json")], "photos": None}),
        (["--precision", "fp32", "--recipe", "f.json"], {"precision": ["fp32", Path("f.json")]}),
        (["--precision", "auto"], {"precision": ["auto"], "photos": None}),
        (["--precision", "auto", "--engine", "ort", "--engine", "openvino:cpu"], {"search_on": ["ort", "openvino:cpu"]}),
        (
            ["--precision", "auto", "--engine", "trt", "--target", "rtx40", "--engine", "ort"],
            {"targets": ["rtx40"], "search_on": ["ort"]},
        ),
    ],
)
def test_every_option_reaches_the_library(icf, arguments: list[str], expected: dict[str, Any], asked: dict[str, Any]) -> None:
    assert icf("export", *arguments).status == 0
    assert {name: asked[name] for name in expected} == expected


def test_json_names_the_bundle_and_its_parity(icf, asked: dict[str, Any], tiny_bundle: Path) -> None:
    document = icf("export", "--json").document
    assert document["bundle"] == str(tiny_bundle)
    assert document["max_abs_ab"] == 0


def test_the_real_export_refuses_an_existing_output_and_a_checkpoint_that_is_none(icf, tmp_path: Path) -> None:
    (tmp_path / "x.icf").mkdir()
    (tmp_path / "x.pth").write_text("no weights")
    assert icf("export", tmp_path / "x.pth", "-o", tmp_path / "x.icf").status == 1
    assert icf("export", tmp_path / "x.pth", "-o", tmp_path / "y.icf").status == 4
    assert not (tmp_path / "y.icf").exists()
    assert icf("export", "--size", "250").status == 2


def test_a_device_without_torch_is_told_what_to_install(icf, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name, *rest))
    for arguments in (["export"], ["train", "--photos", ".", "-o", "x.safetensors", "--steps", "1"]):
        found = icf(*arguments)
        assert found.status == 5 and "pip install 'icf-deploy[" in found.error and "torch" in found.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "rtx40"], "add --engine trt"),
        (["--engine", "trt"], "add --target rtx30,rtx40,rtx50"),
        (["--graph", "fp32"], "name the bundle"),
        (["--engine", "ort", "--target", "rtx40"], "'ort' is not 'trt'"),
    ],
)
def test_engines_need_their_targets_and_targets_their_engine(icf, arguments: list[str], message: str) -> None:
    found = icf("export", *arguments)
    assert (found.status, found.out) == (2, "")
    assert message in found.error


def test_a_bundle_is_no_checkpoint_and_the_way_to_engines_is_said(icf, tiny_bundle: Path) -> None:
    found = icf("export", tiny_bundle)
    assert found.status == 2
    assert "is a bundle already" in found.error and "--engine trt --target" in found.error


def test_every_graph_is_told_and_how_to_add_the_float32_one(
    icf, asked: dict[str, Any], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(_source: Any, _output: Any, **_options: Any) -> Bundle:
        bundle = open_bundle(tiny_bundle)
        graph = bundle.manifest.graphs[0]
        names = ("fp32", "int8") if "fp32" in _options["precision"] else ("int8",)
        new = [NewGraph(name, bundle.graph().data, name, graph.size) for name in names]
        manifest = bundle.manifest
        return write_bundle(
            tmp_path / f"{len(names)}.icf", preset=manifest.preset, stride=manifest.stride, size=manifest.size, graphs=new,
            reference=bundle.reference(), parity=manifest.parity, provenance=manifest.provenance,
        )  # fmt: skip

    monkeypatch.setattr("icf_deploy.export.pipeline.export_bundle", written)
    alone = icf("export", "--precision", "int8")
    assert "--precision int8 --precision fp32 adds the float32 graph" in alone.err
    both = icf("export", "--precision", "fp32", "--precision", "int8")
    assert "graph int8: " in both.err and "adds the float32 graph" not in both.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8", "--engine", "ort"], "to search number formats on an engine, add --precision auto"),
        (["--precision", "auto", "--engine", "orth"], "no engine 'orth'"),
        (["--precision", "auto", "--engine", "pytorch"], "recipes are for graphs"),
        (["--precision", "auto", "--split"], "--split writes the steps in fp32"),
    ],
)
def test_engines_to_search_on_are_looked_at_before_any_work(icf, arguments: list[str], message: str, tmp_path: Path) -> None:
    found = icf("export", *arguments, "-o", tmp_path / "x.icf")
    assert found.status == 2 and message in found.error
    assert not (tmp_path / "x.icf").exists()


@pytest.mark.parametrize("precision", ["int8", "auto"])
def test_a_calibration_folder_that_is_none_is_an_error_of_one_line(
    icf, precision: str, tmp_path: Path, photos_dir: Path
) -> None:
    asked = ("export", "--precision", precision, "-o", tmp_path / "x.icf", "--photos")
    missing = icf(*asked, tmp_path / "nowhere")
    assert missing.status == 1 and "there is no such folder" in missing.error
    folder = tmp_path / "photos"
    folder.mkdir()
    for complaint in ("no photos to calibrate on", "at least 4 photos, found 0; 1 could not be read: broken.jpg"):
        found = icf(*asked, folder)
        assert found.status == 1 and complaint in found.error
        (folder / "broken.jpg").write_bytes(b"no photo")
    (folder / "one.png").write_bytes((photos_dir / "astronaut.png").read_bytes())
    found = icf(*asked, folder)
    assert found.status == 1 and "at least 4 photos, found 1; 1 could not be read: broken.jpg" in found.error
    assert not (tmp_path / "x.icf").exists()
