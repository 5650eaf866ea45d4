"""Run the rewrites: on a copy of the network in float64, then on the graph that was exported from it."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes
import torch
from torch import Tensor, nn

from icf_deploy.errors import UsageError
from icf_deploy.export.lowering.registry import GRAPH_REWRITES, NETWORK_REWRITES
from icf_deploy.export.lowering.rewrite import Context, Outcome
from icf_deploy.network.network import SIZE_MULTIPLE, ColorizationNetwork

REWRITES = tuple(rewrite.name for rewrite in (*NETWORK_REWRITES, *GRAPH_REWRITES))
KEPT = "kept as it is, as asked"


@dataclass(frozen=True)
class Lowered:
    """A network of the same function for one size, and what became of each rewrite, in order.

    network: in evaluation mode, without gradients, in the type of the one that was lowered; `features`, `palette`, `paint`,
    `forward`, `preset` and `stride` as before.
    """

    network: ColorizationNetwork
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class LoweredGraph:
    """A graph of the same function, and what became of each rewrite of graphs, in order."""

    model: onnx.ModelProto
    outcomes: tuple[Outcome, ...]


def lower(
    network: ColorizationNetwork,
    size: tuple[int, int],
    *,
    keep: Collection[str] = (),
    split: bool = False,
    pieces: int | None = None,
) -> Lowered:
    """Rewrite a copy of `network` for gray inputs of `size` (H, W); the network itself is left alone.

    keep: names of rewrites that must not run. split: the steps become graphs of their own, so the tensors that pass between
    them (features, levels, palette) keep their values. pieces: of `split-expansion`; None chooses by size.

    Weights are folded in float64 and cast to the network's type once, at the end. Raises UsageError for a name that is no
    rewrite, and for a size that is no multiple of 32.
    """
    check_names(keep)
    if any(side < SIZE_MULTIPLE or side % SIZE_MULTIPLE for side in size):
        raise UsageError(f"a network is lowered for sides that are multiples of {SIZE_MULTIPLE}, got {size[0]}x{size[1]}")
    dtype = next(network.parameters()).dtype
    context = Context(size, level_sizes(network, size), split, pieces)
    lowered = copy.deepcopy(network).double().eval().requires_grad_(False)
    outcomes = []
    with torch.no_grad():
        for rewrite in NETWORK_REWRITES:
            if rewrite.name in keep:
                outcomes.append(Outcome(rewrite.name, False, KEPT))
                continue
            result = rewrite.apply(lowered, context)
            outcomes.append(Outcome(rewrite.name, result.applied, result.reason))
    return Lowered(lowered.to(dtype).eval().requires_grad_(False), tuple(outcomes))


def lower_graph(model: onnx.ModelProto, *, keep: Collection[str] = ()) -> LoweredGraph:
    """Rewrite an exported graph into a new model. keep: as in `lower`. Raises UsageError for a name that is no rewrite."""
    check_names(keep)
    graph = ir.from_proto(model)
    outcomes = []
    for rewrite in GRAPH_REWRITES:
        if rewrite.name in keep:
            outcomes.append(Outcome(rewrite.name, False, KEPT))
            continue
        result = rewrite.apply(graph)
        outcomes.append(Outcome(rewrite.name, result.applied, result.reason))
    ir_passes.RemoveUnusedNodesPass()(graph)
    return LoweredGraph(ir.to_proto(graph), tuple(outcomes))


def check_names(names: Collection[str]) -> None:
    """Raises UsageError, listing what there is, unless every name is that of a rewrite."""
    unknown = sorted(set(names) - set(REWRITES))
    if unknown:
        raise UsageError(f"no rewrite is called {', '.join(map(repr, unknown))}; there are {', '.join(REWRITES)}")


def level_sizes(network: ColorizationNetwork, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(h, w) of each attention level for a gray input of `size` (H, W), without computing anything."""
    gray = torch.empty(1, 1, *size, device="meta", dtype=next(network.parameters()).dtype)
    _, levels = _on_meta(network.image_decoder, _on_meta(network.backbone, gray))
    return tuple((level.shape[-2], level.shape[-1]) for level in levels)


def _on_meta(module: nn.Module, inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Shapes of what a module gives: it runs on tensors that have no data."""
    state = {name: value.to("meta") for name, value in [*module.named_parameters(), *module.named_buffers()]}
    found: tuple[Tensor, ...] = torch.func.functional_call(module, state, (inputs,))
    return found
