from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def small_photos(folder: Path, photo, *names: str) -> Path:  # type: ignore[no-untyped-def]
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(photo(name)[:200, :300]).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory, photo) -> tuple[Path, Path]:
    """knn.npz and svr.npz, fitted to very few samples."""
    from icf_deploy.training.baseline_file import save_baseline
    from icf_deploy.training.baselines import draw_samples, fit
    from icf_deploy.training.photos import Photo

    folder = tmp_path_factory.mktemp("baselines")
    photos = [Photo(name, name, photo(name), np.zeros((16, 16), np.float32)) for name in ("coffee", "astronaut")]
    paths = []
    for kind in ("knn", "svr"):
        paths.append(folder / f"{kind}.npz")
        save_baseline(fit(kind, draw_samples(photos, 200, 0)), paths[-1], {})
    return paths[0], paths[1]


def test_the_table_stands_beside_doing_nothing(icf, tiny_bundle: Path, photos_dir: Path) -> None:
    found = icf("evaluate", tiny_bundle, "--photos", photos_dir)
    assert (found.status, found.err) == (0, "")
    rows = {re.split(r"  +| (?=[\d+-])", line)[0]: line for line in found.out.splitlines()}
    assert {"prediction", "no colour", "own mean colour"} <= rows.keys()
    assert "6 photos" in found.out and "gain" in found.out
    assert " +0.00 " in rows["no colour"]  # dB over itself
    assert "prediction: at 60% of the true colourfulness " in found.out


def test_every_score_has_its_interval_below_it(icf, tiny_bundle: Path, photos_dir: Path) -> None:
    document = icf("evaluate", tiny_bundle, "--photos", photos_dir, "--json").document
    psnr = document["summary"]["no colour"]["psnr"]
    lines = icf("evaluate", tiny_bundle, "--photos", photos_dir).out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("no colour"))
    assert f"{psnr['mean']:.2f}" in lines[at]
    assert lines[at + 1].split()[:3] == ["95", "%", f"{psnr['low']:.1f}..{psnr['high']:.1f}"]


def test_json_is_what_the_library_scores(icf, tiny_bundle: Path, photo, tmp_path: Path) -> None:
    import icf_deploy
    from icf_deploy.training.evaluate import evaluate
    from icf_deploy.training.protocols import PhotoFolder

    small_photos(tmp_path, photo, "chelsea", "coffee")
    document = icf("evaluate", tiny_bundle, "--photos", tmp_path, "--gain", "0.5", "--protocol", "full", "--json").document
    with icf_deploy.load(tiny_bundle) as colorizer:
        expected = evaluate(colorizer, PhotoFolder([tmp_path]), gain=0.5, protocol="full")
    assert document["schema"] == "icf-evaluation 1"
    assert document["summary"]["prediction"]["psnr"]["mean"] == expected.summary["prediction"]["psnr"].mean
    assert len(document["photos"]) == 2 and document["gain"] == 0.5
    assert document["seconds"]["prediction"] > 0


def test_baselines_get_rows_of_their_own_with_their_time(icf, tiny_bundle: Path, baselines, photo, tmp_path: Path) -> None:
    folder = small_photos(tmp_path / "photos", photo, "chelsea")
    knn, svr = baselines
    arguments = ("evaluate", tiny_bundle, "--photos", folder, "--baselines", knn, "--baselines", svr)
    document = icf(*arguments, "--json").document
    assert list(document["summary"]) == ["prediction", "knn", "svr", "no colour", "own mean colour"]
    assert set(document["seconds"]) == set(document["curves"]) == {"prediction", "knn", "svr"}
    assert document["summary"]["knn"]["psnr"] != document["summary"]["svr"]["psnr"]
    shown = icf(*arguments).out
    assert re.search(r"^knn .*\d$", shown, re.M) and re.search(r"^svr .*\d$", shown, re.M)


def test_a_baseline_alone_scores_as_it_does_beside_another(icf, tiny_bundle: Path, baselines, photo, tmp_path: Path) -> None:
    folder = small_photos(tmp_path / "photos", photo, "chelsea")
    alone = icf("evaluate", baselines[0], "--photos", folder, "--json").document
    beside = icf("evaluate", baselines[1], "--photos", folder, "--baselines", baselines[0], "--json").document
    assert alone["summary"]["prediction"] == beside["summary"]["knn"]


def test_definitions_mark_what_reaches_the_papers_claim(icf, tiny_bundle: Path, photo, tmp_path: Path) -> None:
    folder = small_photos(tmp_path / "photos", photo, "chelsea")
    document = icf("evaluate", tiny_bundle, "--photos", folder, "--definitions", "--json").document
    found = document["definitions"]
    assert found["no colour"]["PSNR RGB"] == document["summary"]["no colour"]["psnr"]["mean"]
    assert found["half the true colour"]["PSNR RGB"] > found["no colour"]["PSNR RGB"] + 4
    shown = icf("evaluate", tiny_bundle, "--photos", folder, "--definitions").out
    luma = next(line for line in shown.splitlines() if line.startswith("SSIM luma"))
    assert luma.count("*") == 4  # even without colour
    assert "30 dB" in shown
    assert "definitions" not in icf("evaluate", tiny_bundle, "--photos", folder).out


def test_robustness_prints_a_line_per_corruption(icf, tiny_bundle: Path, photo, tmp_path: Path) -> None:
    folder = small_photos(tmp_path / "photos", photo, "chelsea")
    found = icf("evaluate", tiny_bundle, "--photos", folder, "--robustness")
    assert (found.status, found.err) == (0, "")
    for label in ("undamaged", "underexposed, mild", "scratched print, strong", "occluded, medium"):
        assert any(line.startswith(label) for line in found.out.splitlines())
    assert "28 conditions" in found.out and "corrupted L" in " ".join(found.out.split())
    document = icf("evaluate", tiny_bundle, "--photos", folder, "--robustness", "--json").document
    assert document["schema"] == "icf-robustness 1" and len(document["conditions"]) == 28
    refused = icf("evaluate", tiny_bundle, "--photos", folder, "--robustness", "--definitions")
    assert refused.status == 2 and "table of its own" in refused.error


def test_the_contact_sheet_is_a_picture_of_the_chosen_photos(icf, tiny_bundle: Path, photos_dir: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert icf("evaluate", tiny_bundle, "--photos", photos_dir, "--contact-sheet", sheet, "--sheet", "ranks").status == 0
    picture = np.asarray(Image.open(sheet))
    assert picture.shape[0] > 500 and picture.shape[1] > 1000
    assert np.ptp(picture.astype(int), axis=2).max() > 50
    found = icf("evaluate", tiny_bundle, "--photos", photos_dir, "--contact-sheet", sheet)
    assert found.status == 1 and "--overwrite" in found.error


def test_photos_that_cannot_be_scored_are_counted_and_named(icf, tiny_bundle: Path, photo, tmp_path: Path) -> None:
    small_photos(tmp_path, photo, "coffee")
    Image.fromarray(photo("coffee")).convert("L").save(tmp_path / "gray.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    found = icf("evaluate", tiny_bundle, "--photos", tmp_path, "--json")
    assert (found.status, list(found.document["skipped"])) == (0, ["broken.jpg", "gray.png"])
    assert "2 of 3 photos left out" in found.err
    assert "left out: gray.png: gray" in found.err and "left out: broken.jpg" in found.err


def test_folders_without_a_colour_photo_are_refused_with_the_reason(icf, tiny_bundle: Path, photo, tmp_path: Path) -> None:
    found = icf("evaluate", tiny_bundle, "--photos", tmp_path)
    assert found.status == 1 and "no photos in it" in found.error
    Image.fromarray(photo("coffee")).convert("L").save(tmp_path / "gray.png")
    for option in ((), ("--robustness",)):
        found = icf("evaluate", tiny_bundle, "--photos", tmp_path, *option)
        assert found.status == 1 and "none of 1 files is a colour photo (gray.png: gray" in found.error


def test_a_checkpoint_is_scored_in_pytorch(icf, photo, tmp_path: Path) -> None:
    folder = small_photos(tmp_path / "photos", photo, "chelsea")
    import torch

    from icf_deploy.network import presets
    from icf_deploy.network.checkpoint import save_checkpoint

    torch.manual_seed(0)
    save_checkpoint(presets.build("icf-edge").eval(), tmp_path / "x.safetensors")
    found = icf("evaluate", tmp_path / "x.safetensors", "--photos", folder, "--size", "64x96", "--json", "--threads", "1")
    assert found.status == 0
    assert "stretched to 64x96" in found.document["protocol"]
    assert icf("evaluate", tmp_path / "x.safetensors", "--photos", folder, "--size", "65").status == 2


def test_the_name_of_the_shipped_network_stands_for_it(icf, photo, tmp_path: Path, monkeypatch) -> None:
    folder = small_photos(tmp_path / "photos", photo, "chelsea")
    monkeypatch.chdir(tmp_path)
    named, default = (icf("evaluate", *source, "--photos", folder, "--json").document for source in (("icf-edge",), ()))
    assert named["summary"] == default["summary"]


def test_what_is_missing_or_does_not_fit_is_said(icf, tiny_bundle: Path, photos_dir: Path, baselines, tmp_path: Path) -> None:
    assert icf("evaluate", tmp_path / "none.safetensors", "--photos", photos_dir).status == 6
    assert icf("evaluate", "--photos", tmp_path / "none").status == 2
    (tmp_path / "text.pth").write_text("no weights")
    assert icf("evaluate", tmp_path / "text.pth", "--photos", photos_dir).status == 4
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    found = icf("evaluate", tmp_path / "x.safetensors", "--photos", photos_dir, "--engine", "ort")
    assert found.status == 2 and "bundles" in found.error
    (tmp_path / "x.npz").write_bytes(b"nothing")
    for arguments in ((tmp_path / "x.npz",), (tiny_bundle, "--baselines", tmp_path / "x.npz")):
        found = icf("evaluate", *arguments, "--photos", photos_dir)
        assert found.status == 4 and "expected a baseline" in found.error
    found = icf("evaluate", tiny_bundle, "--photos", photos_dir, "--baselines", baselines[0], "--baselines", baselines[0])
    assert found.status == 2 and "same name" in found.error


def test_baselines_get_as_many_threads_as_networks(icf, baselines, photo, tmp_path: Path, monkeypatch) -> None:
    from threadpoolctl import threadpool_info

    from icf_deploy.training.baseline_models import Baseline

    seen: list[int] = []
    predict = Baseline.predict_ab

    def spy(self, gray):  # type: ignore[no-untyped-def]
        seen.extend(pool["num_threads"] for pool in threadpool_info())
        return predict(self, gray)

    monkeypatch.setattr(Baseline, "predict_ab", spy)
    folder = small_photos(tmp_path / "photos", photo, "chelsea")
    for threads in (1, 2):
        seen.clear()
        assert icf("evaluate", baselines[1], "--photos", folder, "--threads", str(threads), "--json").status == 0
        assert set(seen) == {threads}
