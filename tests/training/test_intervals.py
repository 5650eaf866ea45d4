from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from icf_deploy.training.intervals import bootstrap_means, bootstrap_ratio


def test_the_interval_is_that_of_scipy_within_its_noise() -> None:
    values = np.random.default_rng(1).gamma(2.0, 3.0, 60)
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, random_state=0).confidence_interval
    (ours,) = bootstrap_means(values[:, None], seed=0)
    width = expected.high - expected.low
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(expected.low, abs=0.06 * width)
    assert ours.high == pytest.approx(expected.high, abs=0.06 * width)


def test_the_same_seed_gives_the_same_interval_and_columns_are_independent() -> None:
    values = np.random.default_rng(0).normal(size=(30, 2))
    assert bootstrap_means(values, 5) == bootstrap_means(values, 5)
    alone, beside = bootstrap_means(values[:, 1:], 5)[0], bootstrap_means(values, 5)[1]
    assert (alone.mean, alone.low, alone.high) == pytest.approx((beside.mean, beside.low, beside.high))


def test_a_single_photo_has_an_interval_of_no_width() -> None:
    (interval,) = bootstrap_means(np.array([[7.0]]), 0)
    assert (interval.mean, interval.low, interval.high) == (7.0, 7.0, 7.0)


def test_a_constant_ratio_has_no_width() -> None:
    truth = np.array([10.0, 20.0, 45.0])
    interval = bootstrap_ratio(0.5 * truth, truth, 0)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.5, 0.5, 0.5))
