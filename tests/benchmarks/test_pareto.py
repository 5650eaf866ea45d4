from __future__ import annotations

import pytest

from icf_deploy.benchmarks.pareto import Point, dominated


def test_a_point_that_another_one_beats_in_both_is_dominated() -> None:
    points = [Point(10, 0.5), Point(5, 2.0), Point(12, 0.6), Point(20, 0.0)]
    assert dominated(points) == [False, False, True, False]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([Point(10, 1), Point(10, 2)], [False, True]),
        ([Point(10, 1), Point(11, 1)], [False, True]),
        ([Point(10, 1), Point(10, 1)], [False, False]),
        ([Point(10, 1)], [False]),
        ([], []),
        ([Point(10, float("inf")), Point(11, 1)], [False, False]),
        ([Point(10, float("inf")), Point(9, 1)], [True, False]),
    ],
)
def test_an_equal_side_does_not_save_a_point_and_an_equal_point_does_not_dominate(
    points: list[Point], expected: list[bool]
) -> None:
    assert dominated(points) == expected


def test_drifts_below_the_floor_are_equal() -> None:
    points = [Point(10, 0.001), Point(9, 0.004)]
    assert dominated(points) == [False, False]
    assert dominated(points, floor=0.01) == [True, False]


def test_a_latency_that_is_lower_by_chance_dominates_nothing() -> None:
    points = [Point(10.0, 1), Point(10.1, 1), Point(20, 1)]
    shown = dominated(points, faster=lambda one, other: points[one].latency * 1.5 < points[other].latency)
    assert shown == [False, False, True]
