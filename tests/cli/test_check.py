from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def drifting(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, gray: np.ndarray) -> Path:
    """The same graph, and a reference that is 2 units of a away from it."""
    from icf_deploy.bundle.reference import ReferenceSet
    from icf_deploy.bundle.store import NewGraph, open_bundle, write_bundle

    opened = open_bundle(tiny_bundle)
    ab = opened.reference().ab.copy()
    ab[:, 0] += 2
    return write_bundle(
        tmp_path_factory.mktemp("drifting") / "drifting.icf",
        preset="tiny",
        stride=2,
        size=(64, 64),
        graphs=[NewGraph("fp32", opened.graph().data, "fp32", (64, 64))],
        reference=ReferenceSet(opened.reference().names, gray, ab),
        parity=opened.manifest.parity,
        provenance=opened.manifest.provenance,
    ).path


def test_engines_that_compute_as_pytorch_does_keep_the_budget(icf, tiny_bundle: Path) -> None:
    found = icf("check", tiny_bundle, "--engine", "ort", "--engine", "openvino", "--budget", "de2000_p95<=0.01,ab_psnr>=60")
    assert (found.status, found.err) == (0, "")
    assert sum("kept" in line for line in found.out.splitlines()) == 2
    assert max(map(len, found.out.splitlines())) <= 90


def test_json_has_the_whole_drift_table(icf, drifting: Path) -> None:
    found = icf("check", drifting, "--engine", "ort", "--json")
    assert found.status == 0
    document = found.document
    assert document["schema"] == "icf-check 2"
    engine = document["engines"][0]
    assert engine["formats"].keys() == {"fp32"}
    assert engine["drift"]["metrics"]["dab_mean"] == pytest.approx(2, abs=1e-4)
    assert [photo["photo"] for photo in engine["drift"]["photos"]] == document["photos"] == ["astronaut", "coffee"]


def test_a_missed_budget_says_by_how_much_and_has_status_3(icf, drifting: Path) -> None:
    found = icf("check", drifting, "--engine", "ort", "--budget", "dab_mean<=1.5", "--json")
    assert found.status == 3
    assert "dab_mean is 2" in found.error and "allowed 1.5" in found.error
    assert found.document["engines"][0]["within_budget"] is False
    assert icf("check", drifting, "--engine", "ort", "--budget", "dab_mean<=2.5").status == 0


@pytest.mark.parametrize("budget", ["nonsense<=1", "de2000_p95=1", "de2000_p95>=1", ""])
def test_a_budget_that_makes_no_sense_is_a_usage_error(icf, budget: str, tiny_bundle: Path) -> None:
    found = icf("check", tiny_bundle, "--budget", budget)
    assert (found.status, found.out) == (2, "")
    assert found.error


def test_an_engine_that_cannot_run_has_its_status_and_the_others_are_checked(icf, tiny_bundle: Path) -> None:
    found = icf("check", tiny_bundle, "--engine", "pytorch", "--engine", "ort", "--json")
    assert found.status == 5
    assert [engine["drift"] is None for engine in found.document["engines"]] == [True, False]
    assert "--with-checkpoint" in found.error


def test_an_altered_file_has_status_6(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    altered = shutil.copytree(tiny_bundle, tmp_path / "altered.icf")
    manifest = json.loads((altered / "manifest.json").read_text())
    reference = altered / manifest["reference"]["file"]
    reference.write_bytes(reference.read_bytes()[:-1] + b"x")
    assert icf("check", altered, "--engine", "ort").status == 6


def test_without_engines_all_that_are_installed_are_checked(icf, tiny_bundle: Path) -> None:
    from icf_deploy.runtimes import registry

    found = icf("check", tiny_bundle, "--json").document
    expected = [name for name in registry.preferred() if not registry.line(name).runs_checkpoint]
    assert [engine["engine"] for engine in found["engines"]] == expected


@pytest.fixture(scope="module")
def two_graphs(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph in fp32, and the same one that says it were fp8, which no engine here executes."""
    from icf_deploy.bundle.store import NewGraph, open_bundle, write_bundle

    opened = open_bundle(tiny_bundle)
    manifest, data = opened.manifest, opened.graph().data
    return write_bundle(
        tmp_path_factory.mktemp("two") / "two.icf",
        preset=manifest.preset,
        stride=manifest.stride,
        size=manifest.size,
        graphs=[NewGraph("fp32", data, "fp32", manifest.size), NewGraph("fp8", data, "fp8", manifest.size)],
        reference=opened.reference(),
        parity=manifest.parity,
        provenance=manifest.provenance,
    ).path


def test_every_graph_is_checked_and_a_format_that_an_engine_refuses_is_an_answer(icf, two_graphs: Path) -> None:
    found = icf("check", two_graphs, "--engine", "ort", "--json")
    assert found.status == 0
    assert [(row["graph"], row["drift"] is None) for row in found.document["engines"]] == [("fp32", False), ("fp8", True)]
    assert "would not execute fp8" in found.document["engines"][1]["error"]
    table = icf("check", two_graphs, "--engine", "ort")
    assert table.status == 0 and "refused" in table.out and "ort, graph fp8: " in table.out


def test_a_named_graph_that_nothing_executes_has_status_4(icf, two_graphs: Path) -> None:
    found = icf("check", two_graphs, "--engine", "ort", "--engine", "openvino", "--graph", "fp8", "--graph", "fp32")
    assert found.status == 4
    assert found.err.count("error: ") == 2 and "fp8" in found.err
    assert icf("check", two_graphs, "--engine", "ort", "--graph", "fp32").status == 0
    assert "choose one of fp32, fp8" in icf("check", two_graphs, "--graph", "fp4").error


@pytest.fixture
def colour_photos(tmp_path: Path, photo) -> Path:  # type: ignore[no-untyped-def]
    """Two small colour photos, a gray one and one that cannot be read."""
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("coffee", "astronaut"):
        Image.fromarray(photo(name)[:160, :160]).save(folder / f"{name}.png")
    Image.fromarray(photo("chelsea")[:96, :96, 1]).save(folder / "gray.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


def test_own_photos_are_compared_with_the_wide_graph_and_with_their_own_colours(
    icf, tiny_bundle: Path, colour_photos: Path
) -> None:
    budget = "ab_psnr_drop<=0.02,rgb_ssim>=0.99"
    found = icf("check", tiny_bundle, "--engine", "openvino", "--photos", colour_photos, "--budget", budget)
    assert (found.status, found.err) == (0, "")
    assert "drift to graph fp32 on ort" in found.out and "kept" in found.out and "rgb_ssim" in found.out
    assert "1 file could not be read" in found.out and "broken.jpg" in found.out
    assert "1 photo gray: no true colours to compare with" in found.out and "gray.png" in found.out
    document = icf("check", tiny_bundle, "--engine", "openvino", "--photos", colour_photos, "--json").document
    assert document["photos"] == ["astronaut.png", "coffee.png", "gray.png"]
    assert document["gray"] == ["gray.png"] and list(document["skipped"]) == ["broken.jpg"]
    metrics = document["engines"][0]["drift"]["metrics"]
    assert abs(metrics["ab_psnr_drop"]) < 0.001 and 0 < metrics["true_ab_psnr"] < 40


def test_the_truth_needs_photos_and_colours(icf, tiny_bundle: Path, tmp_path: Path, colour_photos: Path) -> None:
    found = icf("check", tiny_bundle, "--budget", "ab_psnr_drop<=0.02")
    assert found.status == 2 and "give a folder of colour photos with --photos" in found.error
    for name in ("coffee.png", "astronaut.png", "broken.jpg"):
        (colour_photos / name).unlink()
    gray = icf("check", tiny_bundle, "--engine", "ort", "--photos", colour_photos, "--budget", "ab_psnr_drop<=0.02")
    assert gray.status == 1 and "are gray: name a folder of colour photos" in gray.error
    (tmp_path / "empty").mkdir()
    empty = icf("check", tiny_bundle, "--engine", "ort", "--photos", tmp_path / "empty")
    assert empty.status == 1 and "holds no photo" in empty.error


def test_a_bundle_without_a_wide_graph_has_no_reference_on_own_photos(
    icf, two_graphs: Path, colour_photos: Path, tmp_path: Path
) -> None:
    from icf_deploy.bundle.store import NewGraph, open_bundle, write_bundle

    opened = open_bundle(two_graphs)
    manifest = opened.manifest
    narrow = write_bundle(
        tmp_path / "narrow.icf",
        preset=manifest.preset,
        stride=manifest.stride,
        size=manifest.size,
        graphs=[NewGraph("int8", opened.graph().data, "int8", manifest.size)],
        reference=opened.reference(),
        parity=manifest.parity,
        provenance=manifest.provenance,
    ).path
    found = icf("check", narrow, "--engine", "ort", "--photos", colour_photos)
    assert found.status == 2 and "narrow.icf has no graph in float32" in found.error


def test_the_gallery_shows_the_worst_photos_of_each_and_fetches_nothing(
    icf, drifting: Path, tmp_path: Path, colour_photos: Path
) -> None:
    page = tmp_path / "worst.html"
    assert icf("check", drifting, "--engine", "ort", "--gallery", page).status == 0
    text = page.read_text(encoding="utf-8")
    assert text.count('src="data:image/jpeg;base64,') == 4 and text.count('src="data:image/png;base64,') == 2
    assert "astronaut" in text and "coffee" in text and "ort, graph fp32" in text and "<script" not in text
    again = icf("check", drifting, "--engine", "ort", "--gallery", page)
    assert again.status == 1 and "exists" in again.error
    arguments = ("--gallery", page, "--overwrite", "--photos", colour_photos)
    assert icf("check", drifting, "--engine", "ort", *arguments).status == 0
    assert page.read_text(encoding="utf-8").count("true colours</figcaption>") == 1
