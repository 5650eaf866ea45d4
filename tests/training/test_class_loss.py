from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from icf_deploy.training.class_loss import ClassLoss
from icf_deploy.training.color_classes import class_centres, class_shares, class_weights
from icf_deploy.training.config import TrainConfig
from icf_deploy.training.learnt_loss import Painted
from icf_deploy.training.losses import Truth
from icf_deploy.training.photos import Photo

CONFIG = TrainConfig(photos=(), output=Path("x.safetensors"), steps=1, loss="classes", class_weight=1.0, annealed_weight=0.0)
CPU = torch.device("cpu")
PHOTOS = [Photo("p", "p", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), np.zeros((16, 16), np.float32))]
COLOURS = torch.tensor([[20.0, 30.0], [0.0, -40.0]])  # of the left and the right half


def batch() -> tuple[Painted, Truth]:
    """Two flat colours, and features that tell which is where; crops of 32 pixels, at the grids of icf-edge."""
    sides = torch.zeros(2, 2, 8, 8)
    sides[:, 0, :, :4], sides[:, 1, :, 4:] = 1, 1
    ab = torch.einsum("nshw,sc->nchw", sides, COLOURS).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return Painted(torch.zeros(2, 2, 16, 16, requires_grad=True), sides.requires_grad_()), Truth(torch.zeros(2, 1, 16, 16), ab)


def learnt(config: TrainConfig, steps: int) -> tuple[ClassLoss, list[float]]:
    loss = ClassLoss(2, PHOTOS, config, CPU)
    painted, truth = batch()
    values = []
    for _ in range(steps):
        value = loss.term(painted, truth, warmed_up=False)
        value.backward()  # type: ignore[no-untyped-call]
        loss.learn(painted, truth, 1.0)
        values.append(float(value.detach()))
    return loss, values


def test_a_head_without_opinion_is_as_wrong_as_every_class_being_as_likely() -> None:
    """log 261 less the entropy of the shares, times the weights of the two classes, of which each has half of the places."""
    beside = np.exp(-2)
    shares = np.array([1, *[beside] * 4]) / (1 + 4 * beside)
    centres, weights = class_centres(), class_weights(class_shares(PHOTOS))
    weight = np.mean([float(weights[(centres == colour).all(1)]) for colour in COLOURS])
    expected = weight * (np.log(len(centres)) + (shares * np.log(shares)).sum())
    assert learnt(CONFIG, 1)[1][0] == pytest.approx(expected, rel=1e-3)
    assert learnt(replace(CONFIG, class_weight=3.0), 1)[1][0] == pytest.approx(3 * expected, rel=1e-3)


def test_a_head_that_has_learnt_the_classes_has_no_loss_left() -> None:
    values = learnt(replace(CONFIG, lr=0.3), 60)[1]
    assert values[-1] < 0.01 * values[0]


def test_the_network_is_drawn_to_what_the_head_makes_out_once_it_is_warmed_up() -> None:
    """A head that knows both classes: its annealed mean is their centre, and the distance Huber's, 5 off in one channel."""
    loss, _ = learnt(replace(CONFIG, lr=0.3, annealed_weight=2.0), 150)
    painted, truth = batch()
    ab = (truth.ab + torch.tensor([5.0, 0.0]).view(1, 2, 1, 1)).requires_grad_()
    cold, warm = (loss.term(Painted(ab, painted.features), truth, warmed_up=state) for state in (False, True))
    assert float((warm - cold).detach()) == pytest.approx(2 * 0.5 * 5**2 / 8 / 2, rel=0.02)
    (pull,) = torch.autograd.grad(warm, ab)
    assert bool((pull[:, 0] > 0).all())
    without = ClassLoss(2, PHOTOS, CONFIG, CPU)
    without.restore(loss.state())
    again = without.term(Painted(ab, painted.features), truth, warmed_up=True)
    assert float(again.detach()) == pytest.approx(float(cold.detach()), rel=1e-6)


def test_features_learn_from_it() -> None:
    loss, _ = learnt(replace(CONFIG, lr=0.3), 2)
    painted, truth = batch()
    loss.term(painted, truth, warmed_up=False).backward()  # type: ignore[no-untyped-call]
    assert painted.features.grad is not None and float(painted.features.grad.abs().max()) > 0
