from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from icf_deploy.benchmarks.ratio import paired_ratio
from icf_deploy.errors import UsageError


def test_the_interval_is_scipys_paired_t_interval_of_the_logarithms() -> None:
    generator = np.random.default_rng(3)
    baseline, candidate = generator.lognormal(0, 0.1, 20), generator.lognormal(0.05, 0.1, 20)
    found = paired_ratio(candidate, baseline)
    theirs = scipy.stats.ttest_rel(np.log(candidate), np.log(baseline)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((np.exp(theirs.low), np.exp(theirs.high)))
    assert found.ratio == pytest.approx(scipy.stats.gmean(candidate / baseline))


@pytest.mark.parametrize(("factor", "verdict"), [(0.9, "faster"), (1.1, "slower"), (1.0, "no difference shown")])
def test_the_verdict_says_what_the_interval_shows(factor: float, verdict: str) -> None:
    generator = np.random.default_rng(0)
    baseline = generator.lognormal(0, 0.02, 20)
    assert paired_ratio(factor * generator.lognormal(0, 0.02, 20), baseline).verdict == verdict


def test_a_disturbance_that_both_share_in_a_round_cancels() -> None:
    machine = np.geomspace(1, 5, 20)
    found = paired_ratio(1.05 * machine, machine)
    assert (found.ratio, found.verdict) == (pytest.approx(1.05), "slower")


@pytest.mark.parametrize("rounds", [3, 5, 20])
def test_one_engine_against_itself_shows_a_difference_in_about_5_percent_of_1000_runs(rounds: int) -> None:
    generator = np.random.default_rng(11)
    wrong = sum(
        paired_ratio(generator.lognormal(0, 0.1, rounds), generator.lognormal(0, 0.1, rounds)).verdict != "no difference shown"
        for _ in range(1000)
    )
    assert 30 <= wrong <= 70


def test_the_smallest_effect_is_seen_four_times_out_of_five() -> None:
    generator = np.random.default_rng(5)
    spread, rounds = 0.03, 20
    expected = np.mean(
        [
            paired_ratio(generator.lognormal(0, spread, rounds), generator.lognormal(0, spread, rounds)).smallest_effect
            for _ in range(200)
        ]
    )
    seen = sum(
        paired_ratio((1 + expected) * generator.lognormal(0, spread, rounds), generator.lognormal(0, spread, rounds)).verdict
        == "slower"
        for _ in range(1000)
    )
    assert 750 <= seen <= 860


@pytest.mark.parametrize(("candidate", "baseline"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([], [])])
def test_too_few_or_unpaired_rounds_are_refused(candidate: list[float], baseline: list[float]) -> None:
    with pytest.raises(UsageError, match="two or more rounds of both"):
        paired_ratio(candidate, baseline)


def test_rounds_of_one_process_count_as_one_measurement() -> None:
    generator = np.random.default_rng(3)
    baseline, candidate = generator.lognormal(0, 0.1, 20), generator.lognormal(0.05, 0.1, 20)
    processes = np.repeat(np.arange(5), 4)
    found = paired_ratio(candidate, baseline, processes.tolist())
    means = np.log(candidate / baseline).reshape(5, 4).mean(axis=1)
    theirs = scipy.stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((np.exp(theirs.low), np.exp(theirs.high)))
    assert (found.rounds, found.groups) == (20, 5)


def test_processes_that_differ_by_luck_are_no_difference_between_engines() -> None:
    generator = np.random.default_rng(4)
    processes = np.repeat(np.arange(5), 4).tolist()

    def latencies() -> np.ndarray:
        luck = generator.normal(0, 0.01, 5)
        return np.exp(np.repeat(luck, 4) + generator.normal(0, 0.003, 20))

    runs = [(latencies(), latencies()) for _ in range(1000)]
    wrong = sum(paired_ratio(a, b, processes).verdict != "no difference shown" for a, b in runs)
    naive = sum(paired_ratio(a, b).verdict != "no difference shown" for a, b in runs)
    assert 30 <= wrong <= 70
    assert naive > 200  # what leaving the processes out of account would claim


def test_a_difference_of_5_percent_is_seen_through_the_luck_of_processes() -> None:
    generator = np.random.default_rng(6)
    processes = np.repeat(np.arange(5), 4).tolist()

    def latencies() -> np.ndarray:
        return np.exp(np.repeat(generator.normal(0, 0.01, 5), 4) + generator.normal(0, 0.003, 20))

    slower = sum(paired_ratio(1.05 * latencies(), latencies(), processes).verdict == "slower" for _ in range(300))
    assert slower > 0.95 * 300


def test_a_single_process_leaves_the_rounds_as_they_are() -> None:
    generator = np.random.default_rng(3)
    baseline, candidate = generator.lognormal(0, 0.1, 20), generator.lognormal(0.05, 0.1, 20)
    assert paired_ratio(candidate, baseline, [0] * 20) == paired_ratio(candidate, baseline)
