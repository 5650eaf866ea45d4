from __future__ import annotations

import sys
import types
from collections.abc import Callable
from urllib.error import URLError

import numpy as np
import pytest
import torch

from icf_deploy.training.evaluate import NO_COLOUR, PREDICTION, evaluate
from icf_deploy.training.perceptual import perceptual
from icf_deploy.training.protocols import EvaluationPhoto


class Distance(torch.nn.Module):
    """Stands for the package's network: the mean absolute difference, and it insists on what it is given."""

    def __init__(self, net: str, version: str, verbose: bool) -> None:
        super().__init__()
        assert (net, version, verbose) == ("alex", "0.1", False)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        assert first.shape == second.shape and first.shape[:2] == (1, 3) and not self.training
        assert float(first.min()) >= -1 and float(first.max()) <= 1
        return (first - second).abs().mean().view(1, 1, 1, 1)


def installed(monkeypatch: pytest.MonkeyPatch, network: object) -> None:
    package = types.ModuleType("lpips")
    package.LPIPS = network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", package)


def test_where_it_is_not_installed_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    found = perceptual()
    assert found.distance is None
    assert "the package lpips cannot be loaded" in found.reason


def test_where_its_weights_cannot_be_fetched_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**_: object) -> None:
        raise URLError("no route to host")

    installed(monkeypatch, offline)
    assert "the weights of AlexNet cannot be had" in perceptual().reason


def test_pictures_go_to_it_as_rgb_from_minus_one_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, Distance)
    distance = perceptual().distance
    assert distance is not None
    black, white = np.zeros((16, 20, 3), np.uint8), np.full((16, 20, 3), 255, np.uint8)
    red = black.copy()
    red[..., 0] = 255
    assert distance(black, black) == 0
    assert distance(black, white) == pytest.approx(2)
    assert distance(black, red) == pytest.approx(2 / 3)


def test_it_becomes_a_column_beside_the_others(photo: Callable[[str], np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]) -> None:
    photos = [EvaluationPhoto("coffee", photo("coffee")[:64, :64])]

    def gray(given: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.zeros((1, 2, 16, 16), np.float32)

    without = evaluate(gray, photos, size=(64, 64), stride=4)
    scored = evaluate(gray, photos, size=(64, 64), stride=4, distance=lambda a, b: float(np.abs(a.astype(int) - b).mean()))
    assert "lpips" not in without.summary[PREDICTION] and "LPIPS" not in without.protocol
    assert scored.summary[PREDICTION]["lpips"] == scored.summary[NO_COLOUR]["lpips"]
    assert scored.summary[PREDICTION]["lpips"].mean > 5
    assert "LPIPS with AlexNet" in scored.protocol
