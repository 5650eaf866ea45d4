"""What a rewrite is: a step that leaves the network's function as it is, or says why it does not apply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from icf_deploy.network.network import ColorizationNetwork


@dataclass(frozen=True)
class Result:
    """What one rewrite did. reason: where it applied, what it touched; else the precondition that does not hold."""

    applied: bool
    reason: str


@dataclass(frozen=True)
class Context:
    """What rewrites know besides the weights.

    size: (H, W) of gray; a lowered network runs at this one size. level_sizes: (h, w) of each attention level, coarse to fine.
    split: the three steps become graphs of their own, so the tensors between them keep their values.
    pieces: into how many the expansion before the last shuffle is cut; None: by size.
    """

    size: tuple[int, int]
    level_sizes: tuple[tuple[int, int], ...]
    split: bool = False
    pieces: int | None = None


@dataclass(frozen=True)
class NetworkRewrite:
    """A rewrite of the network, under the name by which it can be kept from running.

    summary: one line for listings. apply: changes the network that it is given (a copy, in float64), or nothing at all where
    its result says so.
    """

    name: str
    summary: str
    apply: Callable[[ColorizationNetwork, Context], Result]


@dataclass(frozen=True)
class GraphRewrite:
    """A rewrite of the exported graph; fields as in `NetworkRewrite`, but for an onnx-ir model changed in place."""

    name: str
    summary: str
    apply: Callable[[ir.Model], Result]


@dataclass(frozen=True)
class Outcome:
    """Name of a rewrite and what became of it; `applied` and `reason` as in `Result`."""

    name: str
    applied: bool
    reason: str


def applied(reason: str) -> Result:
    """The rewrite did its work; `reason` says on what, e.g. "8 convolutions"."""
    return Result(True, reason)


def skipped(reason: str) -> Result:
    """The network was left alone; `reason` names the precondition that does not hold."""
    return Result(False, reason)


def counted(number: int, noun: str) -> str:
    """`1 convolution`, `3 convolutions`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
