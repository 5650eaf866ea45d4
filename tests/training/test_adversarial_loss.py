from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from icf_deploy.training.adversarial_loss import AdversarialLoss, patch_discriminator
from icf_deploy.training.color import light_of_codes, pair_of_light
from icf_deploy.training.config import TrainConfig
from icf_deploy.training.learnt_loss import Painted
from icf_deploy.training.losses import Truth

Pixels = npt.NDArray[np.uint8]
CONFIG = TrainConfig(photos=(), output=Path("x.safetensors"), steps=1, loss="adversarial", adversarial_weight=1.0)
NO_FEATURES = torch.empty(0)


def truth_of(photo: Callable[[str], Pixels], names: tuple[str, ...]) -> Truth:
    rgb = np.stack([photo(name)[first : first + 128, first : first + 128] for name in names for first in (0, 64, 128)])
    pair = pair_of_light(light_of_codes(torch.from_numpy(rgb)))
    return Truth(F.avg_pool2d(pair.l, 2), F.avg_pool2d(pair.ab, 2))


def shuffled(truth: Truth) -> Painted:
    """The colours of other crops."""
    return Painted(truth.ab.roll(1, 0).requires_grad_(), NO_FEATURES)


def test_a_logit_sees_26_places_a_side() -> None:
    torch.manual_seed(0)
    discriminator = patch_discriminator().eval()
    seen = torch.randn(1, 3, 64, 64, requires_grad=True)
    logits = discriminator(seen)
    assert logits.shape == (1, 1, 16, 16)
    logits[0, 0, 8, 8].backward()
    assert seen.grad is not None
    rows = seen.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 26


def test_it_learns_to_tell_a_photos_own_colours_from_those_of_another(photo: Callable[[str], Pixels]) -> None:
    torch.manual_seed(0)
    loss = AdversarialLoss(CONFIG, torch.device("cpu"))
    truth = truth_of(photo, ("astronaut", "coffee"))
    made = shuffled(truth)

    def margin() -> float:
        own, other = (loss.term(Painted(ab, NO_FEATURES), truth, warmed_up=True) for ab in (truth.ab, made.ab.detach()))
        return float((other - own).detach())

    before = margin()
    for _ in range(60):
        loss.learn(made, truth, 2.0)
    assert abs(before) < 0.1
    assert margin() > 0.5


def test_its_gradient_makes_colours_look_true_to_it_and_moves_no_weight_of_its_own(photo: Callable[[str], Pixels]) -> None:
    torch.manual_seed(0)
    loss = AdversarialLoss(CONFIG, torch.device("cpu"))
    truth = truth_of(photo, ("astronaut", "coffee"))
    made = shuffled(truth)
    weights = {name: tensor.clone() for name, tensor in loss.state()["parts"].items() if "original" in name}
    value = loss.term(made, truth, warmed_up=True)
    value.backward()  # type: ignore[no-untyped-call]
    assert made.ab.grad is not None
    nudged = Painted(made.ab.detach() - 200 * made.ab.grad / made.ab.grad.norm(), NO_FEATURES)
    assert float(loss.term(nudged, truth, warmed_up=True)) < float(value.detach())
    assert all(torch.equal(loss.state()["parts"][name], tensor) for name, tensor in weights.items())
    made.ab.grad = None
    loss.learn(made, truth, 1.0)
    assert made.ab.grad is None
    assert not all(torch.equal(loss.state()["parts"][name], tensor) for name, tensor in weights.items())


def test_it_says_nothing_before_the_network_is_warmed_up(photo: Callable[[str], Pixels]) -> None:
    loss = AdversarialLoss(CONFIG, torch.device("cpu"))
    truth = truth_of(photo, ("astronaut",))
    assert float(loss.term(shuffled(truth), truth, warmed_up=False)) == 0
