"""Learning a teacher's colours: tiny seeded teachers of both families, whole runs of a few steps."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from icf_deploy.errors import CheckpointError, UsageError, WorkError
from icf_deploy.imaging.color import gray_of_l, l_of_pixels, lab_of_pixels
from icf_deploy.network.checkpoint import load_checkpoint, save_checkpoint
from icf_deploy.network.presets import DDColorConfig, build, build_ddcolor
from icf_deploy.training import teacher as teaching
from icf_deploy.training.config import TrainConfig
from icf_deploy.training.loop import Progress, TrainingInterrupted, train
from icf_deploy.training.photos import Photo
from icf_deploy.training.state import state_path
from icf_deploy.training.teacher import Teacher, Teachers

Pixels = npt.NDArray[np.uint8]
SMALL = DDColorConfig(
    depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), channels=32, queries=8, blocks=3, color_channels=32, hidden=32, heads=1
)


@pytest.fixture(scope="module")
def ddcolor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DDColor of stride 1 with seeded weights, which tends to magenta."""
    torch.manual_seed(1)
    network = build_ddcolor(SMALL).eval()
    with torch.no_grad():
        network.fusion.get_parameter("refine_net.0.0.bias").copy_(torch.tensor([12.0, -5.0]))
    return save_checkpoint(network, tmp_path_factory.mktemp("teacher") / "ddcolor.safetensors")


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An icf-edge, of stride 2."""
    torch.manual_seed(1)
    return save_checkpoint(build("icf-edge").eval(), tmp_path_factory.mktemp("teacher") / "edge.safetensors")


@pytest.fixture(scope="module")
def gray_photos(tmp_path_factory: pytest.TempPathFactory, photo: Callable[[str], Pixels]) -> Path:
    """Black-and-white photos: what nobody has labelled."""
    folder = tmp_path_factory.mktemp("gray")
    for name in ("coffee", "astronaut", "chelsea"):
        Image.fromarray(photo(name)[::4, ::4]).convert("L").save(folder / f"{name}.png")
    return folder


@pytest.fixture
def config(gray_photos: Path, ddcolor: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        photos=(gray_photos,), output=tmp_path / "run.safetensors", teacher=(ddcolor,),
        steps=3, batch=2, crop=32, pretrained=False, validate_every=2,
    )  # fmt: skip


def plain(rgb: Pixels) -> Photo:
    return Photo("a", "a", rgb, np.zeros((16, 16), np.float32))


@pytest.mark.parametrize("name", ["ddcolor", "edge"])
def test_a_photo_gets_the_teachers_colours_and_keeps_its_l(
    name: str, request: pytest.FixtureRequest, photo: Callable[[str], Pixels], tmp_path: Path
) -> None:
    """At the network's own size there is nothing between its ab and the photo's but the teacher's stride."""
    path = request.getfixturevalue(name)
    rgb = np.ascontiguousarray(photo("coffee")[:256, :256])
    found = Teachers([path], tmp_path / "colours", "cpu").colours(plain(rgb))
    with torch.inference_mode():
        ab = load_checkpoint(path)(torch.from_numpy(gray_of_l(l_of_pixels(rgb)))[None, None])
        expected = torch.nn.functional.interpolate(torch.nn.functional.adaptive_avg_pool2d(ab, 128), 256, mode="bicubic")
    lightness, colours = lab_of_pixels(found.rgb)
    assert float(np.abs(lightness - l_of_pixels(rgb)).max()) <= 0.51
    inside = np.hypot(*expected[0].numpy()) < 15  # gray enough for every L between the ends
    inside &= (lightness > 30) & (lightness < 85)
    assert inside.mean() > 0.05
    assert float(np.abs(colours - expected[0].numpy())[:, inside].mean()) < 0.4


def test_gray_photos_are_enough_and_the_run_says_whose_colours_it_learnt(config: TrainConfig) -> None:
    told: list[str] = []
    train(config, notice=told.append)
    assert "the teacher has coloured 3 of 3 photos" in told
    with safe_open(config.output, "pt") as stored:
        metadata = stored.metadata()
    assert metadata["teacher"].startswith("ddcolor-custom ") and len(metadata["teacher"].split()[1]) == 64
    training = json.loads(metadata["training"])
    assert training["loss"] == "huber"  # what `auto` means with a teacher
    assert "against the teacher's colours" in json.loads(metadata["validation"])["protocol"]
    assert not config.output.with_suffix(".teacher").exists()
    with pytest.raises(WorkError, match="is a colour photo"):
        train(replace(config, teacher=(), overwrite=True))


def test_the_student_comes_nearer_to_its_teacher(config: TrainConfig, gray_photos: Path, tmp_path: Path) -> None:
    """The teacher paints everything in one strong colour: a student can learn that in a few steps."""
    torch.manual_seed(0)
    network = build("icf-edge").eval()
    with torch.no_grad():
        network.scale_chroma(0.0)
        network.fusion.get_parameter("bias").copy_(torch.tensor([30.0, -20.0]))
        assert network(torch.rand(1, 1, 64, 64)).mean((0, 2, 3)).tolist() == pytest.approx([30, -20], abs=0.1)
    taught = save_checkpoint(network, tmp_path / "violet.safetensors")
    run = replace(config, teacher=(taught,), steps=25, lr=1e-2, ema=0.5, validate_every=25, keep="last", precision="fp32")
    student = load_checkpoint(train(run))
    with torch.inference_mode():
        ab = student(torch.full((1, 1, 64, 64), 0.5))
    assert float(ab[:, 0].mean()) > 5 and float(ab[:, 1].mean()) < -3


def stop_after(step: int) -> Callable[[Progress], None]:
    def progress(done: Progress) -> None:
        if done.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def test_an_interrupted_run_ends_with_the_same_bits_with_and_without_the_kept_colours(
    config: TrainConfig, tmp_path: Path
) -> None:
    train(config)
    whole = dict(load_checkpoint(config.output).state_dict())
    for name in ("kept", "lost"):
        parts = replace(config, output=tmp_path / f"{name}.safetensors")
        with pytest.raises(TrainingInterrupted):
            train(parts, progress=stop_after(1))
        colours = list(parts.output.with_suffix(".teacher").iterdir())
        assert len(colours) == 3
        if name == "lost":
            for path in colours:
                path.write_bytes(path.read_bytes()[:100])  # half a file is as good as none
        train(replace(parts, steps=None, resume=True))
        state = load_checkpoint(parts.output).state_dict()
        assert all(torch.equal(value, whole[key]) for key, value in state.items())


def test_a_signal_while_the_teacher_works_loses_nothing(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    colour = Teacher._computed

    def spy(self: Teacher, lightness: Any) -> Any:
        asked.append("photo")
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return colour(self, lightness)

    monkeypatch.setattr(Teacher, "_computed", spy)
    with pytest.raises(TrainingInterrupted, match=r"coloured 2 of 3 photos.*give the same command"):
        train(config)
    assert not state_path(config.output).exists()
    train(config)
    assert len(asked) == 3


def test_a_cache_is_kept_and_used_by_the_next_run(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = replace(config, teacher_cache=tmp_path / "colours", steps=1)
    train(kept)
    assert len(list((tmp_path / "colours").iterdir())) == 3

    def never(*_: object) -> None:
        raise AssertionError("was coloured already")

    monkeypatch.setattr(Teacher, "_computed", never)
    train(replace(kept, seed=1, overwrite=True))


def test_another_teacher_does_not_get_the_first_ones_colours(
    ddcolor: Path, edge: Path, photo: Callable[[str], Pixels], tmp_path: Path
) -> None:
    given = plain(photo("coffee")[:64, :64])
    first, second = (Teachers([path], tmp_path, "cpu").colours(given) for path in (ddcolor, edge))
    assert not np.array_equal(first.rgb, second.rgb)
    assert len(list(tmp_path.iterdir())) == 2


def colours_of(photo: Photo) -> npt.NDArray[np.float32]:
    return lab_of_pixels(photo.rgb)[1].mean((1, 2))


@pytest.fixture
def painters(tmp_path: Path) -> list[Path]:
    """Two networks that paint everything in one colour each: violet and green."""
    network, paths = build("icf-edge").eval(), []
    for name, bias in (("violet", [20.0, -20.0]), ("green", [-20.0, 10.0])):
        with torch.no_grad():
            network.scale_chroma(0.0)
            network.fusion.get_parameter("bias").copy_(torch.tensor(bias))
        paths.append(save_checkpoint(network, tmp_path / f"{name}.safetensors"))
    return paths


def test_several_teachers_give_the_mean_of_their_colours(painters: list[Path], tmp_path: Path) -> None:
    given = plain(np.full((64, 96, 3), 128, np.uint8))
    each = [colours_of(Teachers([path], tmp_path / "c", "cpu").colours(given)) for path in painters]
    assert each[0] == pytest.approx([20, -20], abs=0.7) and each[1] == pytest.approx([-20, 10], abs=0.7)  # 8-bit pixels
    both = Teachers(painters, tmp_path / "c", "cpu")
    assert colours_of(both.colours(given)) == pytest.approx([0, -5], abs=0.7)
    assert len(list((tmp_path / "c").iterdir())) == 2  # what each said is kept, not their mean
    assert [name.split()[0] for name in both.name.split(", ")] == ["icf-edge", "icf-edge"]
    with pytest.raises(UsageError, match=r"green\.safetensors: the same weights as .*green\.safetensors"):
        Teachers([painters[0], painters[1], painters[1]], tmp_path / "c", "cpu")


def test_a_share_leaves_the_rest_to_the_photos_own_colours(painters: list[Path], tmp_path: Path) -> None:
    given = plain(np.full((64, 64, 3), (150, 110, 100), np.uint8))
    mixed = Teachers(painters[:1], tmp_path / "c", "cpu").colours(given, 0.25)
    assert colours_of(mixed) == pytest.approx(0.25 * np.array([20, -20]) + 0.75 * colours_of(given), abs=0.7)
    assert l_of_pixels(mixed.rgb) == pytest.approx(l_of_pixels(given.rgb), abs=0.6)


def test_validation_of_a_share_asks_for_the_photos_own_colours(
    config: TrainConfig, photo: Callable[[str], Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos without colour say nothing of the colours that they should have: they are left out, as without a teacher."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("coffee", "astronaut", "chelsea"):
        Image.fromarray(photo(name)[::4, ::4]).save(folder / f"{name}.png")
    Image.fromarray(photo("coffee")[::4, ::4]).convert("L").save(folder / "gray.png")
    seen: list[tuple[str, bool]] = []
    colour = Teachers.colours

    def spy(self: Teachers, photo: Photo, share: float = 1.0) -> Photo:
        seen.append((photo.name, share == 0.5))
        return colour(self, photo, share)

    monkeypatch.setattr(Teachers, "colours", spy)
    told: list[str] = []
    run = replace(config, photos=(folder,), holdout=("chelsea",), teacher_share=0.5)
    train(run, notice=told.append)
    assert seen == [("astronaut.png", True), ("coffee.png", True)]
    assert "1 photo has no colour and is left out: gray.png" in told
    with safe_open(run.output, "pt") as stored:
        metadata = stored.metadata()
    assert json.loads(metadata["training"])["loss"] == "vivid"
    assert "teacher" not in json.loads(metadata["validation"])["protocol"]


def test_a_full_disk_is_reported_with_the_way_out(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(stream: Any, *_: object, **__: object) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(WorkError, match=r"No space left on device.*--teacher-cache"):
            train(config)
    assert list(config.output.with_suffix(".teacher").iterdir()) == []
    train(config)


@pytest.mark.parametrize("kind", ["text", "photo", "classifier", "baseline", "bundle", "missing"])
def test_a_teacher_of_another_kind_is_refused_before_any_photo_is_read(
    kind: str, config: TrainConfig, tmp_path: Path, photo: Callable[[str], Pixels]
) -> None:
    path = tmp_path / "other.safetensors"
    if kind == "text":
        path.write_text("I am a teacher")
    elif kind == "photo":
        Image.fromarray(photo("coffee")[:32, :32]).save(path, "PNG")
    elif kind == "classifier":
        torch.save({"features.0.weight": torch.zeros(8, 3, 3, 3), "classifier.weight": torch.zeros(10, 8)}, path)
    elif kind == "baseline":
        with path.open("wb") as stream:
            np.savez(stream, format=np.array("icf-baseline 1"), kind=np.array("knn"))
    elif kind == "bundle":
        path.mkdir()
    errors = {"bundle": UsageError, "missing": WorkError}
    with pytest.raises(errors.get(kind, CheckpointError), match=r"other\.safetensors") as caught:
        train(replace(config, teacher=(path,), photos=(tmp_path / "nowhere",)))
    if kind not in errors:
        assert "--teacher needs a colorization checkpoint" in str(caught.value)


def test_a_teacher_whose_weights_are_damaged_is_refused(config: TrainConfig, edge: Path, tmp_path: Path) -> None:
    network = load_checkpoint(edge)
    with torch.no_grad():
        next(iter(network.fusion.parameters())).fill_(float("nan"))
    damaged = save_checkpoint(network, tmp_path / "damaged.safetensors")
    with pytest.raises(WorkError, match="not finite"):
        train(replace(config, teacher=(damaged,)))


def test_the_options_that_go_with_a_teacher() -> None:
    config = TrainConfig(photos=(), output=Path("x.safetensors"), steps=1)
    with pytest.raises(UsageError, match="name one with --teacher"):
        replace(config, teacher_cache=Path("x")).check()
    with pytest.raises(UsageError, match="name one with --teacher"):
        replace(config, teacher_share=0.5).check()
    for share in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(UsageError, match="above 0 and at most 1"):
            replace(config, teacher=(Path("t"),), teacher_share=share).check()
    assert replace(config, teacher=(Path("t"),), teacher_share=0.5).with_preset().loss == "vivid"
    assert config.with_preset().loss == "vivid"
    assert replace(config, teacher=(Path("t"),)).with_preset().loss == "huber"
    assert replace(config, teacher=(Path("t"),), loss="vivid").with_preset().loss == "vivid"
    assert teaching.colours_folder(config) == Path("x.teacher")
