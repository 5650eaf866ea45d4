from __future__ import annotations

import numpy as np

from icf_deploy.benchmarks.text_plot import distribution_plot

MS = 1_000_000


def test_a_slower_engine_stands_further_right_on_one_axis() -> None:
    lines = distribution_plot([("fast", np.full(50, 10 * MS)), ("slow one", np.full(50, 40 * MS))], width=60)
    assert len(lines) == 3 and max(map(len, lines)) <= 60
    fast, slow = lines[0].index("█"), lines[1].index("█")
    assert fast < 15 and slow > 55  # the axis ends 2 % beyond both
    assert lines[2].split() == ["ms", "9.80", "20.0", "40.8"]


def test_one_slow_call_of_a_thousand_is_drawn() -> None:
    samples = np.concatenate([np.full(999, 10 * MS), [80 * MS]])
    (line, _) = distribution_plot([("ort", samples)])
    assert line.count("█") == 1 and line.rstrip()[-1] == "▁"


def test_the_spread_of_a_steady_engine_is_not_blown_up() -> None:
    (line, axis) = distribution_plot([("ort", np.array([10_000_000, 10_010_000]))], width=60)
    assert len(line.split()[1]) <= 2  # a thousandth apart: one bar, or two neighbours
    left, _, right = map(float, axis.split()[1:])
    assert right / left > 1.19


def test_rows_without_samples_are_left_out() -> None:
    assert distribution_plot([("failed", np.empty(0, np.int64))]) == []
    assert len(distribution_plot([("failed", np.empty(0, np.int64)), ("ort", np.full(3, MS))])) == 2
