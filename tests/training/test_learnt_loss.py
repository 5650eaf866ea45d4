"""Whole runs with losses that learn beside the network: tiny crops, few steps, random weights."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from icf_deploy.network.checkpoint import load_checkpoint, save_checkpoint
from icf_deploy.network.presets import DDColorConfig, build, build_ddcolor
from icf_deploy.training.config import LEARNT_LOSSES, TrainConfig
from icf_deploy.training.loop import Progress, TrainingInterrupted, train
from icf_deploy.training.state import load_state, state_path

LOSSES = sorted(LEARNT_LOSSES)


@pytest.fixture
def config(photos_dir: Path, tmp_path: Path) -> TrainConfig:
    """Four steps, of which the first is warm-up."""
    return TrainConfig(
        photos=(photos_dir,),
        output=tmp_path / "run.safetensors",
        steps=4,
        batch=2,
        crop=64,
        pretrained=False,
        validation_photos=1,
        annealed_weight=1.0,
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(path).state_dict())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def interrupted(config: TrainConfig, step: int) -> None:
    def stop(done: Progress) -> None:
        if done.step == step:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        train(config, progress=stop)


def flat(value: Any) -> list[Any]:
    """The leaves of nested dicts and lists, in order; tensors as bytes."""
    if isinstance(value, dict | list):
        return [leaf for part in (value.values() if isinstance(value, dict) else value) for leaf in flat(part)]
    return [value.numpy().tobytes() if isinstance(value, torch.Tensor) else value]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_that_was_stopped_and_resumed_goes_on_with_the_same_bits(loss: str, config: TrainConfig, tmp_path: Path) -> None:
    """In the network, in what learns beside it, and in the optimisers of both, after a step in which each has its say."""
    whole = replace(config, loss=loss)
    interrupted(whole, 3)
    parts = replace(whole, output=tmp_path / "parts.safetensors")
    interrupted(parts, 2)
    before = load_state(state_path(parts.output))
    interrupted(replace(parts, steps=None, resume=True), 3)
    expected, found = (load_state(state_path(run.output)) for run in (whole, parts))
    for name in ("network", "averaged", "optimizer", "learnt"):
        mine, theirs, old = (flat(getattr(state, name)) for state in (found, expected, before))
        assert mine == theirs, name
        assert mine != old, name


@pytest.mark.parametrize("loss", LOSSES)
def test_what_learns_beside_the_network_stays_out_of_the_checkpoint(loss: str, config: TrainConfig) -> None:
    from safetensors import safe_open

    train(replace(config, steps=2, loss=loss))
    with safe_open(config.output, "pt") as stored:
        assert set(stored.keys()) == set(build("icf-edge").state_dict())
    assert all(bool(torch.isfinite(value).all()) for value in weights(config.output).values())


def test_until_the_network_is_warmed_up_an_adversarial_run_is_a_vivid_one_bit_for_bit(
    config: TrainConfig, tmp_path: Path
) -> None:
    """So nothing that the discriminator draws, learns or holds reaches the network by another way than its term."""
    runs = [
        replace(config, loss=loss, steps=20, damage=0.5, output=tmp_path / f"{loss}.safetensors")
        for loss in ("vivid", "adversarial")
    ]

    def after(run: TrainConfig, steps: int) -> dict[str, torch.Tensor]:
        interrupted(replace(run, overwrite=True), steps)
        return dict(load_state(state_path(run.output)).network)

    assert same(*(after(run, 2) for run in runs))
    assert not same(*(after(run, 3) for run in runs))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_ddcolor_has_other_features_and_another_grid_and_learns_with_it_too(
    loss: str, config: TrainConfig, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    small = build_ddcolor(
        DDColorConfig(
            depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), channels=32, queries=8, blocks=3, color_channels=32, hidden=32, heads=1
        )
    )
    save_checkpoint(small, tmp_path / "small.safetensors")
    train(replace(config, steps=2, loss=loss, from_checkpoint=tmp_path / "small.safetensors"))
    assert not same(dict(small.state_dict()), weights(config.output))


def test_options_of_a_loss_that_is_not_used_do_not_hinder_a_resumption(config: TrainConfig) -> None:
    """Nor do they where a state was written before there were such options."""
    vivid = replace(config, loss="vivid")
    recorded = vivid.recorded()
    for names in LEARNT_LOSSES.values():
        for name in names:
            del recorded[name]
    assert replace(vivid, class_weight=9.0).differences(recorded) == []
    classes = replace(config, loss="classes")
    assert replace(classes, discriminator_lr=1.0).differences(classes.recorded()) == []
    assert replace(classes, class_weight=9.0).differences(classes.recorded()) == ["--class-weight was 5.0, is 9.0"]
