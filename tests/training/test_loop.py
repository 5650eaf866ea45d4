"""Whole runs of the real network: tiny crops, few steps, random weights."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from icf_deploy.errors import ArtefactError, UsageError, WorkError
from icf_deploy.network.checkpoint import load_checkpoint, save_checkpoint
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.network.presets import DDColorConfig, build_ddcolor
from icf_deploy.training import start, trainer
from icf_deploy.training.config import TrainConfig
from icf_deploy.training.loop import Progress, TrainingInterrupted, train
from icf_deploy.training.state import load_state, state_path
from icf_deploy.training.validation import Point

STEPS = 6


@pytest.fixture
def config(photos_dir: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        photos=(photos_dir,),
        output=tmp_path / "run.safetensors",
        steps=STEPS,
        batch=2,
        crop=64,
        pretrained=False,
        validate_every=4,
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(path).state_dict())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def stop_after(step: int, number: signal.Signals) -> Callable[[Progress], None]:
    def progress(done: Progress) -> None:
        if done.step == step:
            os.kill(os.getpid(), number)

    return progress


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bits(
    number: signal.Signals, config: TrainConfig, tmp_path: Path
) -> None:
    train(config)
    parts = replace(config, output=tmp_path / "parts.safetensors")
    with pytest.raises(TrainingInterrupted, match="--resume to go on"):
        train(parts, progress=stop_after(3, number))
    assert not parts.output.exists()
    assert load_state(state_path(parts.output)).step == 3
    train(replace(parts, steps=None, resume=True))
    assert same(weights(config.output), weights(parts.output))
    assert not state_path(parts.output).exists()


def test_a_run_that_ends_early_has_the_learning_rates_of_the_long_one(config: TrainConfig, tmp_path: Path) -> None:
    parts = replace(config, output=tmp_path / "parts.safetensors")
    with pytest.raises(TrainingInterrupted):
        train(parts, progress=stop_after(3, signal.SIGINT))
    early = train(replace(config, stop_at=3, keep="last"))
    averaged = load_state(state_path(parts.output)).averaged
    assert same(weights(early), {name: averaged[name] for name in weights(early)})
    assert not state_path(early).exists()
    with pytest.raises(UsageError, match=r"--stop-at 2: the run is at step 3 already"):
        train(replace(parts, steps=None, resume=True, stop_at=2))
    ended = train(replace(parts, steps=None, resume=True, stop_at=3, keep="last"))  # what was interrupted may end where it is
    assert same(weights(ended), weights(early))


def test_signal_handlers_threads_and_seed_are_put_back(config: TrainConfig) -> None:
    def surroundings() -> tuple[object, int, int]:
        return signal.getsignal(signal.SIGTERM), torch.get_num_threads(), torch.initial_seed()

    before = surroundings()
    train(replace(config, steps=1, threads=torch.get_num_threads() + 1))
    assert surroundings() == before


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(config: TrainConfig, tmp_path: Path) -> None:
    outputs = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for output, seed in zip(outputs, (0, 0, 1), strict=True):
        train(replace(config, output=output, seed=seed, steps=2))
    assert same(weights(outputs[0]), weights(outputs[1]))
    assert not same(weights(outputs[0]), weights(outputs[2]))


def test_damage_that_is_asked_for_is_what_the_network_learns_from(config: TrainConfig, tmp_path: Path) -> None:
    clean, hurt = (replace(config, damage=share, output=tmp_path / f"{share}.safetensors") for share in (0.0, 1.0))
    for one in (clean, hurt):
        train(one)
    assert not same(weights(clean.output), weights(hurt.output))


def test_training_lowers_the_loss(config: TrainConfig, tmp_path: Path) -> None:
    """On two sepia photos, which leave nothing to guess but one hue."""
    from PIL import Image, ImageOps

    sepia = tmp_path / "sepia"
    sepia.mkdir()
    for name in ("coffee", "astronaut"):
        gray = Image.open(config.photos[0] / f"{name}.png").convert("L")
        ImageOps.colorize(gray, "black", "white", mid=(200, 120, 40)).save(sepia / f"{name}.png")
    shown: list[float] = []
    train(replace(config, photos=(sepia,), steps=30, loss="huber", lr=5e-3), progress=lambda done: shown.append(done.loss))
    losses = [(after - 0.98 * before) / 0.02 for before, after in pairwise(shown)]  # what the running mean was made of
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_what_all_queries_share_stays_out_of_the_palette(config: TrainConfig) -> None:
    """Otherwise training grows just that, and the palette of every photo has rank one."""
    network = load_checkpoint(train(replace(config, color_lr=0.1, lr=0.1))).double()
    embeddings = torch.randn(2, 48, 32, dtype=torch.float64)
    shared = torch.full((2, 1, 32), 1e3, dtype=torch.float64)
    palette, shifted = network.fusion.palette(embeddings), network.fusion.palette(embeddings + shared)
    assert (shifted - palette).abs().max() < 1e-2 * palette.std()  # rounding of float32 weights; uncentred: hundreds


def test_the_weights_of_the_best_validation_are_saved_unless_the_last_are_asked_for(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks: dict[int, torch.Tensor] = {}

    def best_at_4(network: ColorizationNetwork, *_: object, **__: object) -> tuple[Point, ...]:
        marks[len(marks)] = network.fusion.get_parameter("mix").clone()
        return Point(0.5, float(len(marks) == 2), 0.5), Point(1.0, float(len(marks) == 2), 1.0)

    monkeypatch.setattr(trainer, "validate", best_at_4)
    every = replace(config, validate_every=2, steps=None, resume=True)
    with pytest.raises(TrainingInterrupted):
        train(replace(every, steps=STEPS, resume=False), progress=stop_after(5, signal.SIGINT))
    best = train(every)  # the best one is remembered across an interruption
    assert torch.equal(weights(best)["fusion.mix"], marks[1])
    last = train(replace(config, validate_every=2, keep="last", output=tmp_path / "last.safetensors"))
    assert torch.equal(weights(last)["fusion.mix"], marks[max(marks)])
    assert not torch.equal(marks[1], marks[2])


def test_progress_counts_the_steps_and_carries_the_newest_validation(config: TrainConfig) -> None:
    seen: list[Progress] = []
    train(config, progress=seen.append)
    assert [done.step for done in seen] == list(range(1, STEPS + 1))
    assert {done.total for done in seen} == {STEPS}
    assert [done.validation is None for done in seen] == [True] * 3 + [False] * 3
    assert seen[-1].seconds_left == 0
    assert seen[-1].crops_per_second > 0


def test_the_history_and_the_checkpoint_say_how_it_was_trained(config: TrainConfig) -> None:
    from safetensors import safe_open

    train(config)
    history = json.loads(config.output.with_suffix(".history.json").read_text())
    assert [record["step"] for record in history] == [4, STEPS]
    with safe_open(config.output, "pt") as stored:
        metadata = stored.metadata()
    training = json.loads(metadata["training"])
    assert (training["steps"], training["seed"], training["loss"]) == (STEPS, 0, "vivid")
    kept = next(record for record in history if record["step"] == training["kept"])
    assert json.loads(metadata["validation"])["curve"] == kept["curve"]
    assert json.loads(metadata["photos"])["train"] == 5


def test_minutes_become_steps_once_and_stay_so(config: TrainConfig) -> None:
    notices: list[str] = []
    with pytest.raises(TrainingInterrupted):
        train(replace(config, steps=None, minutes=0.2), progress=stop_after(1, signal.SIGTERM), notice=notices.append)
    total = load_state(state_path(config.output)).total
    assert total > 2
    assert f"training for {total} steps" in notices


def test_the_gain_is_folded_into_the_saved_weights(config: TrainConfig, tmp_path: Path) -> None:
    train(replace(config, steps=2))
    half = replace(config, steps=2, gain=0.5, output=tmp_path / "half.safetensors")
    train(half)
    gray = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        full, scaled = load_checkpoint(config.output)(gray), load_checkpoint(half.output)(gray)
    torch.testing.assert_close(scaled, full * 0.5, atol=1e-5, rtol=1e-5)


def test_notices_name_the_photos_that_were_left_out(config: TrainConfig, photos_dir: Path, tmp_path: Path) -> None:
    extra = tmp_path / "more"
    extra.mkdir()
    (extra / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    notices: list[str] = []
    train(replace(config, steps=1, photos=(photos_dir, extra)), notice=notices.append)
    assert "1 photo could not be read and is left out: broken.jpg" in notices


def test_resuming_with_other_options_or_photos_is_refused_by_name(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        train(config, progress=stop_after(1, signal.SIGTERM))
    with pytest.raises(ArtefactError, match="--loss was 'vivid', is 'huber'"):
        train(replace(config, resume=True, loss="huber"))
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for source in sorted(config.photos[0].iterdir())[:4]:
        (fewer / source.name).write_bytes(source.read_bytes())
    with pytest.raises(ArtefactError, match="the training photos are not the same"):
        train(replace(config, resume=True, photos=(fewer,)))


def test_an_existing_output_or_interrupted_run_needs_a_decision(config: TrainConfig) -> None:
    config.output.write_bytes(b"precious")
    with pytest.raises(WorkError, match="use --overwrite"):
        train(config)
    assert config.output.read_bytes() == b"precious"
    with pytest.raises(TrainingInterrupted):
        train(replace(config, overwrite=True), progress=stop_after(1, signal.SIGTERM))
    with pytest.raises(WorkError, match="go on with --resume"):
        train(config)
    train(replace(config, resume=True))
    load_checkpoint(config.output)


def test_a_full_disk_at_the_end_costs_nothing(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(start, "save_checkpoint", full)
        with pytest.raises(WorkError, match=r"No space left on device.*--resume"):
            train(config)
    seen: list[Progress] = []
    train(replace(config, resume=True), progress=seen.append)
    assert seen == []
    load_checkpoint(config.output)


def test_a_loss_that_diverges_stops_the_run(config: TrainConfig) -> None:
    with pytest.raises(WorkError, match=r"the loss became (nan|inf).*lower --lr"):
        train(replace(config, lr=1e30, backbone_lr=1e30, steps=20))


def test_fine_tuning_starts_from_the_checkpoint(config: TrainConfig, tmp_path: Path) -> None:
    train(replace(config, steps=1))
    again = replace(config, steps=1, from_checkpoint=config.output, output=tmp_path / "tuned.safetensors")
    begun = start.initial_network(again)
    assert same(dict(begun.state_dict()), weights(config.output))
    train(again)
    assert not same(weights(again.output), weights(config.output))


def test_a_ddcolor_can_be_fine_tuned(config: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = build_ddcolor(
        DDColorConfig(
            depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), channels=32, queries=8, blocks=3, color_channels=32, hidden=32, heads=1
        )
    )
    save_checkpoint(small, tmp_path / "small.safetensors")
    train(replace(config, steps=2, from_checkpoint=tmp_path / "small.safetensors"))
    tuned = load_checkpoint(config.output)
    assert isinstance(tuned, ColorizationNetwork)
    assert tuned.stride == 1
    assert not same(dict(small.state_dict()), dict(tuned.state_dict()))


def test_options_that_do_not_fit_the_checkpoint_are_refused_before_any_work(config: TrainConfig, tmp_path: Path) -> None:
    train(replace(config, steps=1))
    other = replace(config, output=tmp_path / "other.safetensors", from_checkpoint=config.output, preset="ddcolor-tiny")
    with pytest.raises(UsageError, match="is a icf-edge, not a ddcolor-tiny"):
        train(other)
    with pytest.raises(UsageError, match="--device nonsense"):
        train(replace(config, output=tmp_path / "other.safetensors", device="nonsense"))
    with pytest.raises(UsageError, match="there are vivid, huber, paper"):
        train(replace(config, output=tmp_path / "other.safetensors", loss="l7"))


def test_tensorboard_logs_are_written_where_asked(config: TrainConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(replace(config, steps=2, log_dir=tmp_path / "logs"))
    assert len(list((tmp_path / "logs").glob("events.out.tfevents.*"))) == 1


@pytest.mark.parametrize("loss", ["vivid", "huber", "paper", "perceptual"])
def test_every_loss_trains_the_network(loss: str, config: TrainConfig) -> None:
    train(replace(config, steps=2, loss=loss, precision="fp32"))
    assert all(bool(torch.isfinite(value).all()) for value in weights(config.output).values())


def test_a_full_disk_while_saving_leaves_the_checkpoint_that_was_there(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(replace(config, steps=1))
    before = config.output.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(WorkError, match=r"No space left on device.*--resume"):
            train(replace(config, steps=1, seed=1, overwrite=True))
    assert config.output.read_bytes() == before
    assert not list(config.output.parent.glob(".*.tmp"))
