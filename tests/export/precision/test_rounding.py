"""Weights are rounded together: never worse than each on its own, and as good as trying everything where that is possible."""

from __future__ import annotations

import itertools

import numpy as np

from icf_deploy.export.precision.rounding import nearest, round_together


def _covariance(generator: np.random.Generator, length: int) -> np.ndarray:
    mixing = generator.normal(size=(length, length))
    return mixing @ mixing.T / length + 0.05 * np.eye(length)


def _error(codes: np.ndarray, weights: np.ndarray, scales: np.ndarray, covariance: np.ndarray) -> float:
    wrong = codes * scales[..., None] - weights
    return float(np.einsum("gol,glm,gom->", wrong, covariance, wrong))


def test_uncorrelated_inputs_are_rounded_to_the_nearest() -> None:
    generator = np.random.default_rng(0)
    weights, scales = generator.normal(size=(2, 3, 5)), np.full((2, 3), 0.05)
    assert np.array_equal(round_together(weights, scales, np.stack([np.eye(5)] * 2)), nearest(weights, scales))


def test_correlated_inputs_err_less_than_half_as_much_as_the_nearest() -> None:
    generator = np.random.default_rng(1)
    base = generator.normal(size=(40, 3))
    covariance = (base @ base.T / 3 + 0.01 * np.eye(40))[None]
    weights = generator.normal(size=(1, 16, 40))
    scales = np.abs(weights).max(axis=2) / 127
    together = _error(round_together(weights, scales, covariance), weights, scales, covariance)
    assert together < 0.5 * _error(nearest(weights, scales), weights, scales, covariance)


def test_it_comes_near_the_best_of_all_roundings() -> None:
    generator = np.random.default_rng(2)
    ratios = []
    for _ in range(20):
        covariance = _covariance(generator, 5)[None]
        weights, scales = generator.normal(size=(1, 1, 5)), np.array([[0.3]])
        floor = np.floor(weights / scales[..., None])
        choices = [floor + np.array(bits).reshape(1, 1, 5) for bits in itertools.product((-1, 0, 1, 2), repeat=5)]
        best = min(_error(choice, weights, scales, covariance) for choice in choices)
        ratios.append(_error(round_together(weights, scales, covariance), weights, scales, covariance) / best)
    assert np.median(ratios) < 1.5 and min(ratios) >= 1 - 1e-9


def test_an_input_that_never_varies_is_rounded_to_the_nearest() -> None:
    weights, scales = np.array([[[0.31, -0.18]]]), np.array([[0.1]])
    assert np.array_equal(round_together(weights, scales, np.zeros((1, 2, 2))), [[[3, -2]]])
