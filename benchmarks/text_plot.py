"""A small picture in plain text: how the latencies of several rows are distributed, on one logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icf_deploy.benchmarks.report import milliseconds
from icf_deploy.benchmarks.stats import Samples

BARS = " ▁▂▃▄▅▆▇█"
MARGIN = 1.02  # of the axis beyond the shortest and the longest latency
NARROWEST = 1.2  # the axis spans at least this ratio, or noise would look like a wide distribution


def distribution_plot(rows: Sequence[tuple[str, Samples]], width: int = 80) -> list[str]:
    """One line per row of (name, latencies > 0 in nanoseconds), then the axis in milliseconds; nothing without samples.

    The height of a bar is the share of the row's calls in it, the highest bar being full. A bar that holds any call is drawn,
    so that a single slow one can be seen.
    """
    filled = [(name, np.asarray(samples, np.float64)) for name, samples in rows if len(samples)]
    if not filled:
        return []
    names = max(len(name) for name, _ in filled)
    columns = max(10, width - names - 2)
    low = min(float(samples.min()) for _, samples in filled) / MARGIN
    high = max(float(samples.max()) for _, samples in filled) * MARGIN
    if high / low < NARROWEST:
        middle = (low * high) ** 0.5
        low, high = middle / NARROWEST**0.5, middle * NARROWEST**0.5
    edges = np.geomspace(low, high, columns + 1)
    lines = [f"{name.ljust(names)}  {_bars(np.histogram(samples, edges)[0])}".rstrip() for name, samples in filled]
    return [*lines, f"{'ms'.ljust(names)}  {_axis(edges)}"]


def _bars(counts: Sequence[int] | np.typing.NDArray[np.int64]) -> str:
    most = max(counts)
    steps = len(BARS) - 1
    return "".join(BARS[0 if count == 0 else max(1, round(count / most * steps))] for count in counts)


def _axis(edges: np.typing.NDArray[np.float64]) -> str:
    """The latency at the left end, in the middle and at the right end."""
    columns = len(edges) - 1
    left, middle, right = (milliseconds(float(edges[i])) for i in (0, columns // 2, columns))
    start = columns // 2 - len(middle) // 2
    return (left.ljust(start) + middle).ljust(columns - len(right)) + right
