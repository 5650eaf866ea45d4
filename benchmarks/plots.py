"""The pictures of the report, as SVG. Colours come from the page's style sheet, so they follow its light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from icf_deploy.benchmarks.markup import Child, Markup, joined, tag
from icf_deploy.benchmarks.report import three_digits
from icf_deploy.benchmarks.stats import Samples

ROOM = 1.3  # an axis goes so much beyond the data, as a factor
CHARACTER = 7.4  # pixels; about the width of a bold one at the label's font size of 12
LINE = 15.0  # pixels from one line of text to the next
MARKER_AREA = 4.0  # pixels² per square root of a kilobyte: 16 MB makes a radius of 13
MARKER_RADII = (4.0, 22.0)  # pixels
BINS = 90  # over the common axis of all engines
MANTISSAS = ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), tuple(1 + i / 10 for i in range(90)))
FEWEST_TICKS, MOST_TICKS = 3, 8


Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Shown:
    """One engine in the picture. latency, low, high in ms; drift of all photos and of the worst; bytes of its graph."""

    label: str
    latency: float
    low: float | None
    high: float | None
    drift: float
    drift_worst: float
    bytes: int | None
    dominated: bool


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis: values low .. high on pixels start .. end. What lies outside is drawn at the edge."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = math.log(min(max(value, self.low), self.high) / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values, three to eight of them."""
        found: list[float] = []
        for mantissas in MANTISSAS:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [round(mantissa * 10.0**decade, 12) for decade in decades for mantissa in mantissas]
            found = [value for value in values if self.low <= value <= self.high]
            if len(found) >= FEWEST_TICKS:
                break
        return found[:: math.ceil(len(found) / MOST_TICKS)]


def pareto_plot(
    engines: Sequence[Shown], *, floor: float, visible: float, width: int, height: int, limit: float | None = None
) -> Markup:
    """Latency against drift, both logarithmic; the lower left corner is best.

    floor: drifts below it are drawn there. visible: drift at which a line is drawn. limit: a drift that a budget allows, for a
    line of its own.
    """
    left, right, top, bottom = 46.0, width - 12.0, 14.0, height - 40.0
    ends = [value for one in engines for value in (one.latency, one.low, one.high) if value]
    engines = [replace(one, drift=max(one.drift, floor), drift_worst=max(one.drift_worst, floor)) for one in engines]
    across = Axis(min(ends) / ROOM, max(ends) * ROOM, left, right)
    worst = [value for one in engines for value in (one.drift, one.drift_worst) if math.isfinite(value)]
    limits = [] if limit is None else [max(limit, floor)]
    up = Axis(floor / ROOM, max([visible, *limits, *worst]) * ROOM**2, bottom, top)
    best = sorted((one for one in engines if not one.dominated), key=lambda one: one.latency)
    front = _stairs(best, across, up)
    return _svg(
        width,
        height,
        _across_axis(across, bottom, "median latency, ms"),
        _up_axis(up, left, right, floor),
        tag("line", class_="visible", x1=left, x2=right, y1=up.at(visible), y2=up.at(visible)),
        tag("text", f"visible ({visible:g})", class_="note", x=right - 4, y=up.at(visible) - 4, text_anchor="end"),
        [_limit(up.at(value), f"budget ({limit:g})", left, right) for value in limits],
        tag("text", "drift, CIEDE2000 p95", class_="title", x=left + 6, y=top + 2),
        tag("polyline", class_="front", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in front)) if len(best) > 1 else None,
        [_bars(one, across, up) for one in engines],
        [_marker(one, across, up) for one in sorted(engines, key=lambda one: -(one.bytes or 0))],
        _labels(engines, across, up, (left, right, top, bottom), [_span(*ends) for ends in pairwise(front)]),
        name="Median latency against drift of every engine; the table below has the same numbers",
    )


def distribution_plot(
    samples: Samples, span: tuple[float, float], p50: float | None, p90: float | None, *, width: int = 340, height: int = 120
) -> Markup:
    """Histogram of latencies in ms on a logarithmic axis from span[0] to span[1], p50 and p90 marked. No sample is left out."""
    left, right, top, bottom = 6.0, width - 6.0, 20.0, height - 24.0
    across = Axis(span[0], span[1], left, right)
    edges = np.geomspace(*span, BINS + 1)
    counts, _ = np.histogram(np.clip(samples, *span), edges)
    scale = (bottom - top) / max(1, counts.max())
    bars = [
        tag(
            "rect",
            tag("title", f"{count} of {len(samples)} calls took {low:.3g} to {high:.3g} ms"),
            class_="bar",
            x=across.at(low),
            y=bottom - count * scale,
            width=max(1.0, across.at(high) - across.at(low) - 0.5),
            height=float(count * scale),
        )
        for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        if count
    ]
    return _svg(
        width,
        height,
        _across_axis(across, bottom, None),
        bars,
        [_mark(across, value, name, top, bottom) for value, name in ((p50, "p50"), (p90, "p90")) if value is not None],
        name=f"Histogram of {len(samples)} latencies",
    )


def _limit(y: float, name: str, left: float, right: float) -> Markup:
    """The line of a budget; its name at the left, where the one of what is visible is not."""
    return joined(
        tag("line", class_="budget", x1=left, x2=right, y1=y, y2=y),
        tag("text", name, class_="note", x=left + 6, y=y + 13),
    )


def marker_radius(size: int | None) -> float:
    """Pixels; the area grows with the square root of the bytes, so that 1 MB and 200 MB can stand in one picture."""
    if size is None:
        return MARKER_RADII[0]
    return float(np.clip(math.sqrt(MARKER_AREA * math.sqrt(size / 1000) / math.pi), *MARKER_RADII))


def common_span(groups: Sequence[Samples]) -> tuple[float, float]:
    """The axis that holds every sample of every group, in their unit."""
    low, high = (float(pick([pick(group) for group in groups])) for pick in (min, max))
    return low / 1.05, high * 1.05


def _svg(width: int, height: int, *children: Child, name: str) -> Markup:
    return tag("svg", *children, viewBox=f"0 0 {width} {height}", role="img", aria_label=name)


def _across_axis(axis: Axis, bottom: float, title: str | None) -> Markup:
    ticks = [
        joined(
            tag("line", class_="grid", x1=axis.at(value), x2=axis.at(value), y1=bottom, y2=bottom + 4),
            tag("text", f"{value:g}", class_="tick", x=axis.at(value), y=bottom + 16, text_anchor="middle"),
        )
        for value in axis.ticks()
    ]
    return joined(
        tag("line", class_="axis", x1=axis.start, x2=axis.end, y1=bottom, y2=bottom),
        ticks,
        tag("text", title, class_="title", x=axis.end, y=bottom + 33, text_anchor="end") if title else None,
    )


def _up_axis(axis: Axis, left: float, right: float, floor: float) -> list[Markup]:
    return [
        joined(
            tag("line", class_="grid", x1=left, x2=right, y1=axis.at(value), y2=axis.at(value)),
            tag("text", f"{'≤ ' if value <= floor else ''}{value:g}", class_="tick", x=left - 5, y=axis.at(value) + 4,
                text_anchor="end"),
        )
        for value in axis.ticks()
    ]  # fmt: skip


def _stairs(best: Sequence[Shown], across: Axis, up: Axis) -> list[tuple[float, float]]:
    """Corners of the front: to have less drift than one engine gives, the next one's latency has to be paid."""
    corners = [(across.at(one.latency), up.at(one.drift)) for one in best[:1]]
    for one in best[1:]:
        corners += [(across.at(one.latency), corners[-1][1]), (across.at(one.latency), up.at(one.drift))]
    return corners


def _bars(one: Shown, across: Axis, up: Axis) -> Markup:
    """The interval of the latency, and from the mean photo to the worst one."""
    x, y = across.at(one.latency), up.at(one.drift)
    low, high = across.at(one.low or one.latency), across.at(one.high or one.latency)
    kind = "interval dominated" if one.dominated else "interval"
    return joined(
        tag("line", class_=kind, x1=low, x2=high, y1=y, y2=y),
        tag("line", class_=kind, x1=x, x2=x, y1=y, y2=up.at(one.drift_worst)),
    )


def _marker(one: Shown, across: Axis, up: Axis) -> Markup:
    drift = f"drift {one.drift:.3g}, worst photo {one.drift_worst:.3g}"
    return tag(
        "circle",
        tag("title", f"{one.label}: {one.latency:.3g} ms, {drift}"),
        class_="marker dominated" if one.dominated else "marker",
        cx=across.at(one.latency),
        cy=up.at(one.drift),
        r=marker_radius(one.bytes),
    )


def _labels(engines: Sequence[Shown], across: Axis, up: Axis, frame: Box, lines: Sequence[Box]) -> list[Markup]:
    """Names beside the markers, where they cover neither each other nor a marker or line, as far as there is such a place."""
    left, right, top, bottom = frame
    taken = [*(_around(one, across, up) for one in engines), *lines]
    labels = []
    for one in engines:
        x, y, radius, wide = across.at(one.latency), up.at(one.drift), marker_radius(one.bytes), len(one.label) * CHARACTER
        starts = (x + radius + 5, x - radius - 5 - wide, x - wide / 2)
        heights = sorted((y + LINE * step / 2 for step in range(-16, 17)), key=lambda middle: abs(middle - y))
        places = [
            (start, middle)
            for middle in heights
            for start in (starts if abs(middle - y) > radius else starts[:2])
            if left < start and start + wide < right and top + LINE < middle < bottom - LINE / 2
        ] or [(min(max(left, x - wide / 2), right - wide), y)]
        start, middle = min(
            places, key=lambda place: sum(_overlap(_box(place, wide), other) for other in taken)
        )  # the first, so the nearest, of those that are free
        taken.append(_box((start, middle), wide))
        if abs(middle - y) > radius:
            edge = min(max(x, start), start + wide)
            labels.append(tag("line", class_="leader", x1=x, y1=y, x2=edge, y2=middle - math.copysign(LINE / 3, middle - y)))
        kind = "label dominated" if one.dominated else "label"
        labels.append(tag("text", one.label, class_=kind, x=start, y=middle + 4))
    return labels


def _around(one: Shown, across: Axis, up: Axis) -> Box:
    x, y, radius = across.at(one.latency), up.at(one.drift), marker_radius(one.bytes)
    return x - radius, y - radius, x + radius, y + radius


def _box(place: tuple[float, float], wide: float) -> Box:
    return place[0], place[1] - LINE / 2, place[0] + wide, place[1] + LINE / 2


def _span(start: tuple[float, float], end: tuple[float, float]) -> Box:
    """The box of a line, three pixels wide."""
    return min(start[0], end[0]) - 1.5, min(start[1], end[1]) - 1.5, max(start[0], end[0]) + 1.5, max(start[1], end[1]) + 1.5


def _overlap(one: Box, other: Box) -> float:
    """Common area."""
    return max(0.0, min(one[2], other[2]) - max(one[0], other[0])) * max(0.0, min(one[3], other[3]) - max(one[1], other[1]))


def _mark(across: Axis, value: float, name: str, top: float, bottom: float) -> Markup:
    """A line at a percentile, with its name above: p50 to the left of it, later ones to the right."""
    x, early = across.at(value), name == "p50"
    return joined(
        tag("line", class_=f"mark {name}", x1=x, x2=x, y1=top - 4, y2=bottom),
        tag("text", f"{name} {three_digits(value)}", class_=f"note {name}", x=min(max(x, across.start + 50), across.end - 50)
            + (3 if not early else -3), y=top - 7, text_anchor="end" if early else "start"),
    )  # fmt: skip
