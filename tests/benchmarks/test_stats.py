from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import scipy.stats

from icf_deploy.benchmarks import stats
from icf_deploy.errors import UsageError


def autocorrelated(generator: np.random.Generator, n: int, rho: float) -> np.ndarray:
    """Log-normal latencies around a median of 10 whose logarithm is an AR(1) process."""
    noise = np.sqrt(1 - rho**2) * generator.standard_normal(n)
    noise[0] /= np.sqrt(1 - rho**2)
    return 10 * np.exp(0.2 * scipy.signal.lfilter([1], [1, -rho], noise))


def test_the_calls_that_a_percentile_needs_are_those_of_mlperf() -> None:
    assert [stats.calls_needed(percent) for percent in (90, 95, 99)] == [64, 130, 662]


@pytest.mark.parametrize("percent", [50, 75, 90, 95, 99, 99.9, 99.999])
def test_the_calls_needed_are_the_fewest_with_at_most_one_exceedance_in_99_percent(percent: float) -> None:
    n = stats.calls_needed(percent)
    exceed = 1 - percent / 100
    assert scipy.stats.binom.cdf(1, n, exceed) <= 0.01 < scipy.stats.binom.cdf(1, n - 1, exceed)


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 99, 100, 101, 662])
@pytest.mark.parametrize("percent", [1, 10, 50, 90, 95, 99, 100])
def test_the_nearest_rank_is_numpys_inverted_distribution_function(n: int, percent: float) -> None:
    samples = np.random.default_rng(n).permutation(np.arange(n, dtype=np.float64) ** 2)
    assert stats.nearest_rank(samples, percent) == np.percentile(samples, percent, method="inverted_cdf")


def test_a_percentile_is_always_a_measured_latency() -> None:
    assert stats.nearest_rank(np.array([10, 30], np.int64), 50) == 10
    assert stats.nearest_rank(np.array([10, 30], np.int64), 51) == 30


@pytest.mark.parametrize("percent", [0, -1, 100.1])
def test_a_percentile_outside_0_to_100_is_refused(percent: float) -> None:
    with pytest.raises(UsageError, match="above 0 and at most at 100"):
        stats.nearest_rank(np.array([1.0]), percent)


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="needs samples"):
        stats.nearest_rank(np.array([], np.int64), 50)


def test_no_number_of_calls_carries_the_maximum() -> None:
    with pytest.raises(UsageError, match="p100"):
        stats.calls_needed(100)


def test_too_few_samples_say_so_instead_of_showing_the_maximum() -> None:
    found = stats.percentile(np.arange(100.0) + 1, 99)
    assert (found.value, found.interval, found.order_interval) == (None, None, None)
    assert found.why_not() == "p99: n/a (n=100 < 662)"


def test_enough_samples_carry_the_percentile() -> None:
    found = stats.percentile(np.arange(100.0) + 1, 90)
    assert (found.value, found.why_not()) == (90.0, "")
    assert found.interval is not None and found.interval.holds(90)


@pytest.mark.parametrize("n", [11, 64, 100, 130, 662, 5000])
@pytest.mark.parametrize("percent", [50, 90, 95, 99])
def test_the_order_statistic_interval_is_that_of_scipys_quantile_test(n: int, percent: float) -> None:
    samples = np.random.default_rng(n).permutation(np.arange(1, n + 1, dtype=np.float64))
    found = stats.order_statistic_interval(samples, percent)
    theirs = scipy.stats.quantile_test(samples, p=percent / 100).confidence_interval(0.95)
    expected = tuple(None if np.isnan(bound) else bound for bound in (theirs.low, theirs.high))
    # scipy takes the smallest upper rank whose tail is at most 2.5 %, and so do we; the lower one likewise.
    assert (found.low, found.high) == expected


@pytest.mark.parametrize("percent", [50, 90, 99])
def test_the_order_statistic_interval_covers_at_least_95_percent_by_its_own_binomial(percent: float) -> None:
    n = 700
    found = stats.order_statistic_interval(np.arange(1, n + 1, dtype=np.float64), percent)
    low, high = int(found.low or 0), int(found.high or n + 1)
    binomial = scipy.stats.binom(n, percent / 100)
    assert binomial.cdf(high - 1) - binomial.cdf(low - 1) >= 0.95
    assert binomial.cdf(high - 2) - binomial.cdf(low - 1) < 0.975  # no rank wider than its tail asks for


def test_a_tail_that_the_samples_do_not_reach_has_no_bound() -> None:
    assert stats.order_statistic_interval(np.arange(64.0), 99).high is None


@pytest.mark.parametrize("k", [-1, 0, 1, 50, 999, 1000])
@pytest.mark.parametrize("p", [0.0, 0.01, 0.5, 1.0])
def test_the_binomial_distribution_is_scipys(k: int, p: float) -> None:
    assert stats.binomial_cdf(k, 1000, p) == pytest.approx(scipy.stats.binom.cdf(k, 1000, p), abs=1e-10)


@pytest.mark.parametrize("probability", [0.5, 0.8, 0.975, 0.995])
@pytest.mark.parametrize("freedom", [1, 2, 4, 6.5, 19, 99, 1000])
def test_students_quantile_is_scipys(probability: float, freedom: float) -> None:
    assert stats.student_quantile(probability, freedom) == pytest.approx(
        scipy.stats.t.ppf(probability, freedom), rel=1e-9, abs=1e-9
    )


@pytest.mark.parametrize(("n", "rho", "percent"), [(100, 0.6, 50), (300, 0.6, 50), (300, 0.3, 50), (300, 0.3, 90)])
def test_over_1000_autocorrelated_runs_the_95_percent_interval_covers_in_93_to_97_percent(
    n: int, rho: float, percent: float
) -> None:
    generator = np.random.default_rng(7)
    truth = 10 * np.exp(0.2 * scipy.stats.norm.ppf(percent / 100))
    hits = sum(
        stats.block_bootstrap_interval(autocorrelated(generator, n, rho), percent, seed=run).holds(truth) for run in range(1000)
    )
    assert 930 <= hits <= 970


def test_the_interval_of_a_run_in_five_processes_covers_in_93_to_97_percent_too() -> None:
    generator = np.random.default_rng(3)

    def one_run() -> np.ndarray:
        """Five processes of 24 autocorrelated calls that spread by 5 %, each with its own luck of 1.5 %."""
        parts = [(autocorrelated(generator, 24, 0.3) / 10) ** 0.25 * np.exp(generator.normal(0, 0.015)) for _ in range(5)]
        return 10 * np.concatenate(parts)

    hits = sum(stats.block_bootstrap_interval(one_run(), most_blocks=5, seed=run).holds(10) for run in range(1000))
    assert 930 <= hits <= 970


def test_order_statistics_alone_would_be_too_narrow_for_autocorrelated_calls() -> None:
    generator = np.random.default_rng(7)
    hits = sum(stats.order_statistic_interval(autocorrelated(generator, 300, 0.6), 50).holds(10) for _ in range(300))
    assert hits < 0.85 * 300


def test_one_block_of_calls_gives_no_bootstrap_interval() -> None:
    assert stats.block_bootstrap_interval(np.arange(1.0, 40.0)) == stats.Interval(None, None)
    assert stats.block_bootstrap_interval(np.arange(1.0, 41.0)).low is not None


def test_blocks_grow_with_the_run() -> None:
    assert [stats.block_length(n) for n in (1, 100, 200, 201, 3000)] == [20, 20, 20, 20, 300]


def test_the_interval_of_a_run_is_the_same_each_time_it_is_computed() -> None:
    samples = autocorrelated(np.random.default_rng(0), 200, 0.5)
    assert stats.block_bootstrap_interval(samples) == stats.block_bootstrap_interval(samples)


def test_spread_is_scipys() -> None:
    samples = np.random.default_rng(0).gamma(3, size=501)
    assert stats.median_absolute_deviation(samples) == pytest.approx(scipy.stats.median_abs_deviation(samples))
    assert stats.coefficient_of_variation(samples) == pytest.approx(scipy.stats.variation(samples, ddof=1))
    assert stats.coefficient_of_variation(np.array([5.0])) == 0
