"""What photos cost: seconds of the machine, joules, memory, and money for a stated price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

THOUSAND = 1000
HOUR = 3600.0  # seconds


@dataclass(frozen=True)
class Prices:
    """What an hour costs, in any currency. per_core_hour: of one physical core. per_gpu_hour: of a machine with one GPU."""

    per_core_hour: float | None = None
    per_gpu_hour: float | None = None


@dataclass(frozen=True)
class Cost:
    """What photos cost with one engine, asked for one after the other; None where it is not known.

    core_seconds_per_1000: seconds times the cores that its threads hold. joules_per_photo: idle power included.
    price_per_1000: of a thousand photos, by price_per_hour for each core (`core-hour`) or for the GPU (`gpu-hour`).
    """

    photos_per_second: float | None
    photos_per_second_per_core: float | None
    seconds_per_1000: float | None
    core_seconds_per_1000: float | None
    joules_per_photo: float | None
    memory_peak: int | None
    price_per_1000: float | None
    price_basis: Literal["core-hour", "gpu-hour"] | None
    price_per_hour: float | None


def cost_of(
    rate: float | None, threads: int, *, on_gpu: bool, prices: Prices, joules_per_photo: float | None, memory_peak: int | None
) -> Cost:
    """The cost of an engine that does `rate` photos per second with `threads` cores, or on a GPU."""
    seconds = None if rate is None else THOUSAND / rate
    price = prices.per_gpu_hour if on_gpu else prices.per_core_hour
    hours = None if seconds is None else seconds * (1 if on_gpu else threads) / HOUR
    return Cost(
        photos_per_second=rate,
        photos_per_second_per_core=None if rate is None else rate / threads,
        seconds_per_1000=seconds,
        core_seconds_per_1000=None if seconds is None else seconds * threads,
        joules_per_photo=joules_per_photo,
        memory_peak=memory_peak,
        price_per_1000=None if hours is None or price is None else hours * price,
        price_basis=None if price is None else "gpu-hour" if on_gpu else "core-hour",
        price_per_hour=price,
    )


@dataclass(frozen=True)
class Offer:
    """One engine with a usable result. network: the preset and its size; only engines of one are weighed against each
    other."""

    label: str
    engine: str
    network: str
    cost: Cost


def headline(offers: list[Offer]) -> str | None:
    """What a thousand photos cost with the quickest engine, against PyTorch eager of the same network where it was measured.

    None without offers.
    """
    timed = [offer for offer in offers if offer.cost.seconds_per_1000 is not None]
    eager = next((offer for offer in timed if offer.engine in ("pytorch", "pytorch:cpu", "pytorch:cuda")), None)
    network = eager.network if eager is not None else timed[0].network if timed else None
    ours = [offer for offer in timed if offer.network == network and offer is not eager]
    best = min(ours, key=lambda offer: offer.cost.seconds_per_1000 or 0.0, default=eager)
    if best is None:
        return None
    shown = [best] if eager is None or best is eager else [best, eager]
    times = [f"{_seconds(best.cost)} of this machine with {best.label}"]
    if len(shown) > 1 and eager is not None:
        ratio = (eager.cost.seconds_per_1000 or 0.0) / (best.cost.seconds_per_1000 or 1.0)
        times.append(f"{_seconds(eager.cost)} with PyTorch eager, {ratio:.2g} times as long")
    return "1,000 photos take " + " and ".join(times) + _money([offer.cost for offer in shown])


def _seconds(cost: Cost) -> str:
    seconds = cost.seconds_per_1000 or 0.0
    return f"{np.format_float_positional(seconds, precision=3, fractional=False, trim='-')} s"


def _money(costs: list[Cost]) -> str:
    """`; at 0.05 per core-hour that is 0.00018 and 0.00035`; empty where one has no price."""
    if any(cost.price_per_1000 is None for cost in costs):
        return ""
    prices = [price_text(cost.price_per_1000) for cost in costs]
    rates = [f"{cost.price_per_hour:g} per {cost.price_basis}" for cost in costs]
    if len(set(rates)) == 1:
        return f"; at {rates[0]} that is {' and '.join(prices)}"
    return "; that is " + " and ".join(f"{price} at {rate}" for price, rate in zip(prices, rates, strict=True))


def price_text(price: float | None) -> str:
    """Three significant digits, never in powers of ten; `-` for None."""
    if price is None:
        return "-"
    return np.format_float_positional(price, precision=3, fractional=False, trim="-")
