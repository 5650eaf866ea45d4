from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def test_the_table_stands_beside_doing_nothing(icf, tiny_bundle: Path, photos_dir: Path) -> None:
    found = icf("evaluate", tiny_bundle, "--photos", photos_dir)
    assert (found.status, found.err) == (0, "")
    rows = {line.split("  ")[0]: line for line in found.out.splitlines()}
    assert {"prediction", "no colour", "own mean colour"} <= rows.keys()
    assert "6 photos" in found.out and "gain" in found.out
    assert " 0.00 " in rows["no colour"]  # dB over itself


def test_json_is_what_the_library_scores(icf, tiny_bundle: Path, photo, tmp_path: Path) -> None:
    import icf_deploy
    from icf_deploy.training.evaluate import evaluate
    from icf_deploy.training.protocols import PhotoFolder

    for name in ("chelsea", "coffee"):
        Image.fromarray(photo(name)[:200, :300]).save(tmp_path / f"{name}.png")
    document = icf("evaluate", tiny_bundle, "--photos", tmp_path, "--gain", "0.5", "--protocol", "full", "--json").document
    with icf_deploy.load(tiny_bundle) as colorizer:
        expected = evaluate(colorizer, PhotoFolder([tmp_path]), gain=0.5, protocol="full")
    assert document["schema"] == "icf-evaluation 1"
    assert document["summary"]["prediction"]["psnr"]["mean"] == expected.summary["prediction"]["psnr"].mean
    assert len(document["photos"]) == 2 and document["gain"] == 0.5


def test_the_contact_sheet_is_a_picture_of_the_chosen_photos(icf, tiny_bundle: Path, photos_dir: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert icf("evaluate", tiny_bundle, "--photos", photos_dir, "--contact-sheet", sheet, "--sheet", "all").status == 0
    picture = np.asarray(Image.open(sheet))
    assert picture.shape[0] > 500 and picture.shape[1] > 1000
    assert np.ptp(picture.astype(int), axis=2).max() > 50
    found = icf("evaluate", tiny_bundle, "--photos", photos_dir, "--contact-sheet", sheet)
    assert found.status == 1 and "--overwrite" in found.error


def test_photos_without_colour_are_left_out_and_named(icf, tiny_bundle: Path, photo, tmp_path: Path) -> None:
    Image.fromarray(photo("coffee")).save(tmp_path / "coffee.png")
    Image.fromarray(photo("coffee")).convert("L").save(tmp_path / "gray.png")
    found = icf("evaluate", tiny_bundle, "--photos", tmp_path, "--json")
    assert list(found.document["skipped"]) == ["gray.png"]
    assert "left out: gray.png" in found.err


def test_a_checkpoint_is_scored_in_pytorch(icf, photos_dir: Path, tmp_path: Path) -> None:
    import torch

    from icf_deploy.network import presets
    from icf_deploy.network.checkpoint import save_checkpoint

    torch.manual_seed(0)
    save_checkpoint(presets.build("icf-edge").eval(), tmp_path / "x.safetensors")
    found = icf("evaluate", tmp_path / "x.safetensors", "--photos", photos_dir, "--size", "64x96", "--json")
    assert found.status == 0
    assert "stretched to 64x96" in found.document["protocol"]
    assert icf("evaluate", tmp_path / "x.safetensors", "--photos", photos_dir, "--size", "65").status == 2
    assert icf("evaluate", tmp_path / "x.safetensors", "--photos", photos_dir, "--engine", "ort").status == 2


@pytest.fixture
def places(tiny_bundle: Path, photos_dir: Path, tmp_path: Path) -> Path:
    """A folder that holds a bundle, a checkpoint that is none, folders with photos and without."""
    (tmp_path / "tiny.icf").symlink_to(tiny_bundle)
    (tmp_path / "photos").symlink_to(photos_dir)
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "photos", "status"), [("none.pth", "photos", 6), ("text.pth", "photos", 4), ("", "none", 2), ("", "empty", 1)]
)
def test_what_is_not_there_or_not_what_it_should_be(icf, source: str, photos: str, status: int, places: Path) -> None:
    found = icf("evaluate", places / (source or "tiny.icf"), "--photos", places / photos)
    assert (found.status, found.out) == (status, "")
    assert found.error
