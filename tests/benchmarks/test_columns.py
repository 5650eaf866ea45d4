from __future__ import annotations

from icf_deploy.benchmarks.columns import aligned


def test_numbers_stand_under_each_other_and_units_under_names() -> None:
    assert aligned([("name", "p50\nms"), ("long name", "1.5"), ("x", "12.25")]).splitlines() == [
        "             p50",
        "name          ms",
        "long name    1.5",
        "x          12.25",
    ]


def test_a_wide_table_moves_closer_together() -> None:
    narrow = aligned([("a" * 38, "b" * 40)])
    wide = aligned([("a" * 39, "b" * 40)])
    assert (len(narrow), len(wide)) == (80, 80)
