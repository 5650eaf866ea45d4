from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from icf_deploy.training.config import TrainConfig

NEEDED = ("--photos", "photos", "-o", "out.safetensors", "--steps", "5")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """The configurations with which training would have started."""
    seen: list[TrainConfig] = []

    def train(config: TrainConfig, *, progress: Any, notice: Any) -> Path:
        seen.append(config)
        notice("a notice")
        return config.output

    monkeypatch.setattr("icf_deploy.training.loop.train", train)
    return seen


def test_without_options_the_defaults_are_those_of_the_configuration(icf, asked: list[TrainConfig]) -> None:
    found = icf("train", *NEEDED)
    assert (found.status, found.out, found.err) == (0, "out.safetensors\n", "a notice\n")
    assert asked == [TrainConfig(photos=(Path("photos"),), output=Path("out.safetensors"), steps=5)]


EXAMPLES: dict[str, tuple[list[str], Any]] = {
    "photos": (["--photos", "more"], (Path("photos"), Path("more"))),
    "holdout": (["--holdout", "a", "--holdout", "b*"], ("a", "b*")),
    "from_checkpoint": (["--from", "x.pth"], Path("x.pth")),
    "pretrained": (["--no-pretrained"], False),
    "resume": (["--resume"], True),
    "overwrite": (["--overwrite"], True),
    "log_dir": (["--log-dir", "logs"], Path("logs")),
    "stop_at": (["--stop-at", "3"], 3),
    "teacher": (["--teacher", "t.pth", "--teacher", "u.pth"], (Path("t.pth"), Path("u.pth"))),
    "teacher_share": (["--teacher", "t.pth", "--teacher-share", "0.5"], 0.5),
    "teacher_cache": (["--teacher", "t.pth", "--teacher-cache", "c"], Path("c")),
    "precision": (["--precision", "fp32"], "fp32"),
    "loss": (["--loss", "paper"], "paper"),
    "class_weight": (["--loss", "classes", "--class-weight", "2"], 2.0),
    "annealed_weight": (["--loss", "classes", "--annealed-weight", "0.5"], 0.5),
    "adversarial_weight": (["--loss", "adversarial", "--adversarial-weight", "3"], 3.0),
    "discriminator_lr": (["--loss", "adversarial", "--discriminator-lr", "1e-3"], 1e-3),
    "batch": (["--batch", "7"], 7),
    "crop": (["--crop", "96"], 96),
    "lr": (["--lr", "0.5"], 0.5),
    "gain": (["--gain", "0.55"], 0.55),
    "threads": (["--threads", "2"], 2),
    "preset": (["--preset", "ddcolor-tiny"], "ddcolor-tiny"),
}


@pytest.mark.parametrize("field", list(EXAMPLES))
def test_an_option_lands_in_its_field(icf, field: str, asked: list[TrainConfig]) -> None:
    arguments, expected = EXAMPLES[field]
    assert icf("train", *NEEDED, *arguments).status == 0
    assert getattr(asked[0], field) == expected


def test_minutes_stand_for_steps(icf, asked: list[TrainConfig]) -> None:
    assert icf("train", *NEEDED[:4], "--minutes", "1.5").status == 0
    assert (asked[0].minutes, asked[0].steps) == (1.5, None)


def test_every_field_has_an_option_and_its_help(icf) -> None:
    text = " ".join(icf("train", "--help").out.split())
    for field in fields(TrainConfig):
        name = "from" if field.name == "from_checkpoint" else field.name.replace("_", "-")
        assert f"--{name}" in text
        assert " ".join(field.metadata["help"].split()[:4]) in text


@pytest.mark.parametrize(
    "arguments",
    [NEEDED[:4], (*NEEDED, "--minutes", "1"), (*NEEDED, "--crop", "100"), (*NEEDED[:2], "-o", "x.pth", "--steps", "1")],
)
def test_options_that_make_no_sense_are_usage_errors(icf, arguments: tuple[str, ...], asked: list[TrainConfig]) -> None:
    found = icf("train", *arguments)
    assert found.status == 2 and found.error
    assert not asked


def test_a_short_real_run_writes_a_checkpoint_and_reports_its_validation(icf, photos_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.safetensors"
    found = icf(
        "train", "--photos", photos_dir, "-o", output, "--steps", "2", "--batch", "2", "--crop", "32", "--no-pretrained",
        "--validate-every", "1", "--validation-photos", "1",
    )  # fmt: skip
    assert (found.status, found.out) == (0, f"{output}\n"), found.err
    assert output.is_file()
    assert any(line.startswith("step 2 of 2: loss ") and "dB over gray" in line for line in found.err.splitlines())
    again = icf("train", "--photos", photos_dir, "-o", output, "--steps", "2")
    assert again.status == 1 and "--overwrite" in again.error


def test_a_baseline_is_trained_by_the_same_command(icf, photos_dir: Path, tmp_path: Path, monkeypatch) -> None:
    from icf_deploy.training import baselines

    monkeypatch.setattr(baselines, "SAMPLES", {"knn": 200, "svr": 200})
    output = tmp_path / "svr.npz"
    found = icf("train", "--baseline", "svr", "--photos", photos_dir, "-o", output)
    assert (found.status, found.out) == (0, f"{output}\n"), found.err
    assert re.search(r"^200 samples fitted in \d+ s$", found.err, re.M)
    refused = icf("train", "--baseline", "svr", "--photos", photos_dir, "-o", output, "--steps", "5")
    assert refused.status == 2 and "has no use for --steps" in refused.error


@pytest.mark.parametrize("baseline", [(), ("--baseline", "knn")])
def test_folders_that_nothing_can_be_learnt_from_are_refused(icf, baseline: tuple[str, ...], tmp_path: Path, photo) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    options = ("-o", tmp_path / "x.npz", *baseline) if baseline else ("-o", tmp_path / "x.safetensors", "--steps", "2")
    found = icf("train", "--photos", photos, *options)
    assert found.status == 1 and "no photos in it" in found.error
    Image.fromarray(photo("coffee")).convert("L").save(photos / "gray.png")
    found = icf("train", "--photos", photos, *options)
    assert found.status == 1 and "none of 1 files is a colour photo (0 unreadable, 1 without colour)" in found.error


def test_a_teacher_of_another_kind_is_refused_with_the_status_of_artefacts(icf, photos_dir: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.pth"
    teacher.write_bytes(b"not a network")
    found = icf("train", "--photos", photos_dir, "-o", tmp_path / "x.safetensors", "--steps", "2", "--teacher", teacher)
    assert found.status == 4 and "--teacher needs a colorization checkpoint" in found.error and "teacher.pth" in found.error
