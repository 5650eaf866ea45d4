from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from icf_deploy.errors import BudgetError, UsageError
from icf_deploy.quality import budget
from icf_deploy.quality.budget import Limit
from icf_deploy.quality.table import METRICS, DriftRow, DriftTable

GOOD = DriftRow("astronaut", 0.2, 0.5, 0.01, 0.3, 2.0, 50.0, 0.99, 45.0, 0.98, 40.0, 41.0)
TABLE = DriftTable((GOOD, replace(GOOD, photo="coffee", de2000_p95=1.5, ab_psnr=30.0)))


def test_a_budget_is_read_with_all_its_limits_in_order() -> None:
    parsed = budget.parse(" de2000_p95 <= 1.0, dab_max_worst<=.5,ab_psnr>=4e1 ")
    assert parsed.limits == (Limit("de2000_p95", 1.0), Limit("dab_max_worst", 0.5), Limit("ab_psnr", 40.0))


@pytest.mark.parametrize("text", ["de2000_p95<=1", "ab_psnr_worst>=35.5,visible_share<=0.02"])
def test_a_budget_reads_as_it_is_written(text: str) -> None:
    assert str(budget.parse(text)) == text


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_can_be_limited(metric: str) -> None:
    limit = budget.parse(f"{metric}{METRICS[metric].operator}1").limits[0]
    assert limit == Limit(metric, 1.0)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "form metric<=number"),
        ("de2000_p95", "form metric<=number"),
        ("de2000_p95<1", "form metric<=number"),
        ("de2000_p95<=1,", "form metric<=number"),
        ("de2000_p95<=one", "form metric<=number"),
        ("de2000_p95<=-1", "form metric<=number"),
        ("de2000_p95<=nan", "form metric<=number"),
        ("de2000_p95<=1 dab_max<=2", "form metric<=number"),
        ("de2000_p95<=1e999", "finite"),
        ("de2000_p59<=1", r"no metric 'de2000_p59': did you mean de2000_p95\? There are: de2000_mean, "),
        ("beauty<=1", "no metric 'beauty': There are: de2000_mean, .*colourfulness_change_worst"),
        ("ab_psnr<=40", "better when higher: write ab_psnr>=40"),
        ("de2000_p95>=1", "better when lower: write de2000_p95<=1"),
        ("de2000_p95<=1,de2000_p95<=2", "limits de2000_p95 twice"),
    ],
)
def test_a_budget_that_makes_no_sense_is_a_usage_error_that_says_why(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        budget.parse(text)


def test_a_budget_that_is_kept_passes_and_a_bound_that_is_met_exactly_is_kept() -> None:
    budget.parse("de2000_p95<=1.0,de2000_p95_worst<=1.5,ab_psnr>=40,ab_psnr_worst>=30").check(TABLE)


def test_a_miss_says_the_metric_by_how_much_and_on_which_photo() -> None:
    with pytest.raises(BudgetError) as caught:
        budget.parse("de2000_p95<=0.8,dab_max<=5,ab_psnr_worst>=35").check(TABLE)
    text = str(caught.value)
    assert "de2000_p95 is 1, 0.2 above the allowed 0.8 (worst photo: coffee, 1.5)" in text
    assert "ab_psnr_worst is 30, 5 below the allowed 35 (worst photo: coffee, 30)" in text
    assert "dab_max" not in text.partition(":")[2]


def test_misses_are_values_that_a_search_can_order() -> None:
    (miss,) = budget.parse("de2000_p95<=0.75,dab_max<=5").misses(TABLE)
    assert (miss.limit.metric, miss.value, miss.photo, miss.photo_value) == ("de2000_p95", 1.0, "coffee", 1.5)
    assert miss.by == pytest.approx(0.25)


def test_lost_colour_never_passes_even_if_every_limit_holds() -> None:
    table = DriftTable((replace(GOOD, problems=("ab is one flat colour",)),))
    assert budget.parse("de2000_p95<=9").misses(table) == ()
    with pytest.raises(BudgetError, match="astronaut: ab is one flat colour"):
        budget.parse("de2000_p95<=9").check(table)


def test_what_is_not_finite_misses_every_limit() -> None:
    table = DriftTable((replace(GOOD, de2000_p95=math.inf, ab_psnr=-math.inf),))
    assert len(budget.parse("de2000_p95<=100,ab_psnr>=1").misses(table)) == 2


def test_the_page_on_precision_lists_every_metric_of_the_grammar() -> None:
    page = (Path(__file__).parents[2] / "docs/precision.md").read_text(encoding="utf-8")
    missing = [metric.column for metric in METRICS.values() if f"`{metric.column}`" not in page]
    assert missing == []
