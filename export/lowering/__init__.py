"""Exact rewrites that make a network, and the graph exported from it, cheaper without changing its function.

    lowered = lower(network, (256, 256))                      # network -> equivalent network
    graph = lower_graph(to_onnx(lowered.network, ...))        # graph -> equivalent graph

Every rewrite has a file of its own: its rule, why it is exact, its precondition. docs/lowering.md has the measurements.
"""

from __future__ import annotations

from icf_deploy.export.lowering.lower import REWRITES, Lowered, LoweredGraph, check_names, lower, lower_graph
from icf_deploy.export.lowering.registry import GRAPH_REWRITES, NETWORK_REWRITES
from icf_deploy.export.lowering.rewrite import Outcome

__all__ = [
    "GRAPH_REWRITES",
    "NETWORK_REWRITES",
    "REWRITES",
    "Lowered",
    "LoweredGraph",
    "Outcome",
    "check_names",
    "lower",
    "lower_graph",
]
