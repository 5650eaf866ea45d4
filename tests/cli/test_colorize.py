from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import icf_deploy


@pytest.fixture
def run(icf: Callable[..., Any], tiny_bundle: Path) -> Callable[..., Any]:
    """colorize with the tiny bundle."""
    return lambda *arguments: icf("colorize", *arguments, "--bundle", tiny_bundle)


@pytest.fixture
def coffee(tmp_path: Path, photos_dir: Path) -> Path:
    return Path(shutil.copy(photos_dir / "coffee.png", tmp_path / "coffee.png"))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_one_photo_becomes_what_the_library_makes_of_it(run, coffee: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    found = run(coffee, "-o", tmp_path / "out.png")
    assert (found.status, found.out, found.err) == (0, f"{tmp_path / 'out.png'}\n", "")
    with icf_deploy.load(tiny_bundle, "ort") as colorizer:
        expected = np.asarray(colorizer.colorize(coffee))
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), expected)
    assert np.ptp(expected.astype(int), axis=2).max() > 20  # there is colour


def test_saturation_0_gives_the_gray_photo_and_more_gives_more(run, coffee: Path, tmp_path: Path) -> None:
    spread = []
    for saturation in ("0", "0.5", "1"):
        assert run(coffee, "-o", tmp_path / f"{saturation}.png", "--saturation", saturation).status == 0
        spread.append(np.ptp(pixels(tmp_path / f"{saturation}.png").astype(int), axis=2).mean())
    assert spread[0] <= 1 < spread[1] < spread[2]


def test_parity_and_threads_are_passed_on(run, coffee: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    assert run(coffee, "-o", tmp_path / "p.png", "--parity", "--threads", "1").status == 0
    with icf_deploy.load(tiny_bundle, "ort", threads=1) as colorizer:
        np.testing.assert_array_equal(pixels(tmp_path / "p.png"), np.asarray(colorizer.colorize(coffee, parity=True)))


def test_a_folder_gives_a_folder_of_results_with_the_same_names(run, photos_dir: Path, tmp_path: Path) -> None:
    found = run(photos_dir, "-o", tmp_path / "new/out")
    assert found.status == 0
    assert sorted(path.name for path in (tmp_path / "new/out").iterdir()) == sorted(path.name for path in photos_dir.iterdir())
    assert len(found.out.splitlines()) == 6


def test_a_folder_with_one_photo_still_gives_a_folder(run, coffee: Path, tmp_path: Path) -> None:
    assert run(coffee.parent, "-o", tmp_path / "out").status == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["coffee.png"]


def test_one_photo_into_an_existing_folder_keeps_its_name(run, coffee: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run(coffee, "-o", tmp_path / "out").status == 0
    assert (tmp_path / "out/coffee.png").is_file()


def test_results_of_equal_names_do_not_replace_each_other(run, photo, tmp_path: Path) -> None:
    for folder, name, picture in (("a", "x.png", "coffee"), ("b", "X.png", "astronaut"), ("c", "x.gif", "chelsea")):
        (tmp_path / folder).mkdir()
        Image.fromarray(photo(picture)).save(tmp_path / folder / name)
    found = run(tmp_path / "a/x.png", tmp_path / "b/X.png", tmp_path / "c", "-o", tmp_path / "out")
    assert found.status == 0
    sizes = {path.name: Image.open(path).size for path in (tmp_path / "out").iterdir()}
    assert sizes == {"x.png": (600, 400), "X-2.png": (512, 512), "x-3.png": (451, 300)}


def test_a_photo_that_is_named_twice_is_coloured_once(run, coffee: Path, tmp_path: Path) -> None:
    found = run(coffee, coffee.parent, coffee.parent / "." / "coffee.png", "-o", tmp_path / "out", "--json")
    assert found.document["done"] == 1


def test_of_a_folder_only_the_photos_are_taken(run, coffee: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    found = run(tmp_path, "-o", tmp_path / "out")
    assert (found.status, len(found.out.splitlines())) == (0, 1)


def test_one_bad_photo_among_ten_is_named_and_the_others_are_done(run, photos_dir: Path, tmp_path: Path) -> None:
    photos = [shutil.copy(photos_dir / "chelsea.png", tmp_path / f"{number}.png") for number in range(9)]
    bad = tmp_path / "bad.jpg"
    bad.write_text("not a photo")
    found = run(*photos[:5], bad, *photos[5:], "-o", tmp_path / "out")
    assert found.status == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{number}.png" for number in range(9)]
    line, summary = found.err.splitlines()
    assert line.startswith("error: ") and str(bad) in line
    assert summary == "1 of 10 photos failed"


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "missing", "folder without photos"])
def test_a_bad_photo_is_one_line_and_leaves_nothing_behind(run, kind: str, photo, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    if kind == "folder without photos":
        bad.mkdir()
    elif kind == "truncated":
        Image.fromarray(photo("coffee")).save(bad)
        bad.write_bytes(bad.read_bytes()[:20_000])
    elif kind != "missing":
        bad.write_bytes(b"" if kind == "empty" else b"hello, world")
    before = sorted(tmp_path.iterdir())
    found = run(bad, "-o", tmp_path / "out.png")
    assert (found.status, found.out) == (1, "")
    assert str(bad) in found.error
    assert sorted(tmp_path.iterdir()) == before


def test_json_is_one_document_with_every_photo(run, coffee: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    found = run(tmp_path, "-o", tmp_path / "out", "--json")
    assert found.status == 1
    document = found.document
    assert (document["engine"], document["done"], document["failed"]) == ("ort", 1, 1)
    bad, good = document["photos"]
    assert "is empty" in bad["error"] and "output" not in bad
    assert good == {"input": str(coffee), "output": str(tmp_path / "out/coffee.png"), "width": 600, "height": 400}


def test_an_existing_result_is_kept_unless_it_may_be_replaced(run, coffee: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    out.write_text("mine")
    found = run(coffee, "-o", out)
    assert found.status == 1 and "--overwrite" in found.error
    assert out.read_text() == "mine"
    assert run(coffee, "-o", out, "--overwrite").status == 0
    assert pixels(out).shape == (400, 600, 3)


def test_existing_results_are_found_before_any_photo_is_coloured(run, photos_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "rocket.png").write_text("mine")
    found = run(photos_dir, "-o", tmp_path)
    assert found.status == 1 and "1 of 6 results exist already" in found.error and "rocket.png" in found.error
    assert [path.name for path in tmp_path.iterdir()] == ["rocket.png"]
    assert run(photos_dir, "-o", tmp_path, "--overwrite").status == 0
    assert pixels(tmp_path / "rocket.png").ndim == 3


@pytest.mark.parametrize("into_folder", [False, True])
def test_a_result_never_replaces_its_own_photo(run, coffee: Path, into_folder: bool) -> None:
    before = coffee.read_bytes()
    found = run(coffee, "-o", coffee.parent if into_folder else coffee, "--overwrite")
    assert found.status == 2 and "would replace the photo itself" in found.error
    assert coffee.read_bytes() == before


def test_many_photos_do_not_fit_into_one_file(run, photos_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "out.png").write_text("mine")
    found = run(photos_dir, "-o", tmp_path / "out.png", "--overwrite")
    assert found.status == 2 and "need a folder" in found.error


@pytest.mark.parametrize(("name", "status"), [("out.xyz", 2), ("out", 2), ("none/out.png", 1)])
def test_an_output_that_could_not_be_written_is_refused_at_once(
    run, name: str, status: int, coffee: Path, tmp_path: Path
) -> None:
    found = run(coffee, "-o", tmp_path / name)
    assert (found.status, found.out) == (status, "")
    assert name.split("/", maxsplit=1)[0] in found.error


def test_an_unknown_engine_is_a_usage_error(run, coffee: Path, tmp_path: Path) -> None:
    found = run(coffee, "-o", tmp_path / "out.png", "--engine", "orc")
    assert found.status == 2 and "orc" in found.error


def test_an_engine_that_is_not_installed_has_its_own_status(
    run, coffee: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = run(coffee, "-o", tmp_path / "out.png", "--engine", "ort")
    assert found.status == 5 and "pip install 'icf-deploy[cpu]'" in found.error
    assert not (tmp_path / "out.png").exists()


def test_a_bundle_that_is_none_or_was_altered_has_its_own_status(icf, coffee: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    altered = shutil.copytree(tiny_bundle, tmp_path / "altered.icf")
    graph = altered / "graphs/fp32.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"Tanh", b"Relu"))
    (tmp_path / "file.icf").write_text("x")
    for bundle in (altered, tmp_path / "none.icf", tmp_path / "file.icf"):
        found = icf("colorize", coffee, "-o", tmp_path / "out.png", "--bundle", bundle)
        assert found.status == 6 and bundle.name in found.error
    assert not (tmp_path / "out.png").exists()


def test_a_process_gives_its_status_and_keeps_standard_output_clean(process, coffee: Path, tiny_bundle: Path) -> None:
    (coffee.parent / "bad.png").write_bytes(b"")
    found = process("colorize", coffee.parent, "-o", coffee.parent / "out", "--bundle", tiny_bundle, "--json")
    assert found.status == 1
    assert found.document["done"] == 1
    assert found.err.splitlines()[0].startswith("error: ")
