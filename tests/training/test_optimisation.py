from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from icf_deploy.network.presets import build
from icf_deploy.training.config import TrainConfig
from icf_deploy.training.optimisation import AveragedNetwork, learning_rate_factor, optimizer_for, set_learning_rate

CONFIG = TrainConfig(photos=(), output=Path("x.safetensors"), steps=1)


def test_backbone_and_colour_decoder_learn_more_slowly_and_norms_and_biases_do_not_decay() -> None:
    network = build("icf-edge")
    optimizer = optimizer_for(network, replace(CONFIG, lr=8e-3, color_lr=4e-3, backbone_lr=2e-3))
    set_learning_rate(optimizer, 0.5)
    in_group = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(in_group) == len(list(network.parameters()))
    backbone = {id(p) for p in network.backbone.parameters()}
    color_decoder = {id(p) for p in network.color_decoder.parameters()}
    for parameter in network.parameters():
        group = in_group[id(parameter)]
        assert group["lr"] == (1e-3 if id(parameter) in backbone else 2e-3 if id(parameter) in color_decoder else 4e-3)
        assert (group["weight_decay"] > 0) == (parameter.ndim > 1)


def test_the_learning_rate_rises_then_falls_along_a_cosine_to_almost_0() -> None:
    factors = [learning_rate_factor(step, 1000, 100) for step in range(1000)]
    assert factors[0] == pytest.approx(1 / 101)
    assert max(factors) == factors[100] == 1.0
    assert factors[:101] == sorted(factors[:101])
    assert factors[100:] == sorted(factors[100:], reverse=True)
    assert factors[550] == pytest.approx(0.5)
    assert 0 < factors[-1] < 1e-5


def test_a_run_shorter_than_its_warm_up_still_reaches_the_peak() -> None:
    assert max(learning_rate_factor(step, 20, 150) for step in range(20)) == 1.0


def test_averaged_weights_follow_the_formula_and_buffers_are_copied() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    linear, norm = network[0], network[1]
    assert isinstance(linear, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    with torch.no_grad():
        linear.weight.fill_(1.0)
    averaged = AveragedNetwork(network, 0.5)
    expected = 1.0
    for step in range(20):
        with torch.no_grad():
            linear.weight.fill_(float(step))
            assert norm.running_mean is not None
            norm.running_mean.fill_(float(step))
        averaged.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    copied = averaged.network.state_dict()
    assert float(copied["0.weight"]) == pytest.approx(expected, rel=1e-5)
    assert float(copied["1.running_mean"]) == 19.0
    assert not any(parameter.requires_grad for parameter in averaged.network.parameters())
