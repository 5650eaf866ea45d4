"""Which engines nobody needs: another one is faster and drifts less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Faster = Callable[[int, int], bool]
"""faster(i, j): whether point i was shown to be faster than point j."""


@dataclass(frozen=True)
class Point:
    """One engine. latency in any unit; drift in CIEDE2000."""

    latency: float
    drift: float


def dominated(points: Sequence[Point], *, floor: float = 0.0, faster: Faster | None = None) -> list[bool]:
    """Whether each point is dominated: another one has neither more latency nor more drift, and less of one of them.

    floor: drifts below it count as equal. faster: says of two equal drifts whether the lower latency is more than chance;
    None: every difference counts.
    """
    drifts = [max(point.drift, floor) for point in points]

    def dominates(one: int, other: int) -> bool:
        if one == other or points[one].latency > points[other].latency or drifts[one] > drifts[other]:
            return False
        if drifts[one] < drifts[other]:
            return True
        return points[one].latency < points[other].latency if faster is None else faster(one, other)

    return [any(dominates(one, other) for one in range(len(points))) for other in range(len(points))]
