from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from icf_deploy.errors import WorkError
from icf_deploy.quality.budget import parse
from icf_deploy.tuning.choose import choose, undecided
from icf_deploy.tuning.result import TuneRow, joined

Made = Callable[..., TuneRow]
BUDGET = parse("de2000_p95<=1.0")


def test_the_fastest_inside_the_budget_is_chosen_and_the_faster_ones_outside_are_not(row: Made) -> None:
    rows = [row("ort", "fp32", 10, 0.0), row("openvino", "int8", 5, 0.6), row("openvino", "fp8", 3, 1.4)]
    choice = choose(rows, BUDGET)
    assert choice is not None and choice.row is rows[1] and choice.tied == ()
    pattern = r"the fastest inside the budget: 0\.50 \(0\.\d\d \.\. 0\.\d\d\) times the latency of ort fp32"
    assert re.fullmatch(pattern, choice.why)


def test_of_two_whose_speed_does_not_differ_the_one_that_drifts_less_is_taken_and_that_is_said(row: Made) -> None:
    rows = [row("openvino", "int8", 5.0, 0.6, scatter=0.1), row("ort", "fp32", 5.1, 0.2, scatter=0.1)]
    choice = choose(rows, BUDGET)
    assert choice is not None and choice.row is rows[1] and choice.tied == (rows[0],)
    assert choice.why == "openvino int8 was not shown to be faster, and this one drifts less (de2000_p95 0.2 against 0.6)"


def test_a_difference_in_drift_that_nobody_sees_does_not_outweigh_the_median(row: Made) -> None:
    rows = [row("openvino", "fp32", 5.0, 0.006, scatter=0.1), row("ort", "fp32", 5.1, 0.001, scatter=0.1)]
    choice = choose(rows, BUDGET)
    assert choice is not None and choice.row is rows[0]
    assert choice.why == "not shown to differ in speed from ort fp32: they drift alike, and it is a little faster"


def test_a_shown_difference_is_enough_however_small(row: Made) -> None:
    rows = [row("openvino", "int8", 5.0, 0.6, scatter=0.001), row("ort", "fp32", 5.1, 0.0, scatter=0.001)]
    choice = choose(rows, BUDGET)
    assert choice is not None and choice.row is rows[0] and choice.tied == ()


def test_less_drift_is_meant_in_the_budgets_own_first_metric(row: Made) -> None:
    rows = [
        row("openvino", "int8", 5.0, 0.2, scatter=0.1, ab_psnr=41.0),
        row("ort", "fp32", 5.1, 0.9, scatter=0.1, ab_psnr=60.0),
    ]
    by_psnr, by_ciede = choose(rows, parse("ab_psnr>=40,de2000_p95<=1")), choose(rows, parse("de2000_p95<=1,ab_psnr>=40"))
    assert by_psnr is not None and by_psnr.row is rows[1]
    assert by_ciede is not None and by_ciede.row is rows[0]


@pytest.mark.parametrize(
    "spoil",
    [
        {"problems": ["ab is one flat colour"]},
        {"paired": False},
        {"drift": 1.01},
        {"error": WorkError("it died")},
    ],
    ids=["lost colour", "only looked at", "outside", "failed"],
)
def test_what_lost_colour_was_not_timed_is_outside_or_failed_is_never_chosen(row: Made, spoil: dict[str, Any]) -> None:
    error = spoil.pop("error", None)
    bad = row("openvino", "int8", 1.0, **{"drift": 0.5, **spoil})
    if error is not None and bad.measured is not None:
        bad.measured.error = error
    good = row("ort", "fp32", 10, 0.0)
    choice = choose([bad, good], BUDGET)
    assert choice is not None and choice.row is good
    assert choose([bad], BUDGET) is None


def test_a_budget_of_nothing_is_kept_by_an_engine_that_is_the_reference(row: Made) -> None:
    rows = [row("ort", "fp32", 10, 0.0), row("openvino", "fp32", 5, 1e-6)]
    choice = choose(rows, parse("de2000_p95<=0"))
    assert choice is not None and choice.row is rows[0]
    assert choice.why == "the fastest inside the budget"


def test_a_large_difference_that_may_be_chance_is_measured_again_and_does_not_buy_drift(row: Made) -> None:
    rows = [
        row("openvino", "int8", 5.0, 0.6, scatter=0.5),
        row("ort", "fp32", 6.5, 0.0, scatter=0.5),
        row("trt", "fp32", 20, 0.0),
    ]
    assert undecided(rows, BUDGET) == rows[:2]
    choice = choose(rows, BUDGET)
    assert choice is not None and choice.row is rows[0] and choice.tied == ()
    assert choice.why.endswith("times the latency of ort fp32, which may be chance: the run was too restless to tell")


def test_what_the_run_could_have_seen_is_not_measured_again(row: Made) -> None:
    assert undecided([row("openvino", "int8", 5.0, 0.6), row("ort", "fp32", 5.0, 0.0)], BUDGET) == []
    assert undecided([row("openvino", "int8", 5.0, 0.6)], BUDGET) == []


def test_what_was_measured_again_is_compared_by_round_and_not_by_the_minute(row: Made) -> None:
    """The machine was half as fast in the second run: the one that was measured in the first alone is no faster for that."""
    pair = [row("openvino", "int8", 5.0, 0.6), row("ort", "fp32", 5.2, 0.6)]
    for one in pair:
        again = row(one.engine, one.graph, 10.0 if one is pair[0] else 10.4, 0.6)
        assert one.measured is not None and again.measured is not None
        one.measured = joined(one.measured, again.measured)
        assert [turn.round for turn in one.measured.turns] == list(range(40))
        assert {turn.process for turn in one.measured.turns} == set(range(10))
    third = row("trt", "fp32", 6.0, 0.6)
    choice = choose([*pair, third], BUDGET)
    assert choice is not None and choice.row is pair[0]
