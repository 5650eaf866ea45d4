"""Measuring engines so that the number can be trusted: `benchmark` one bundle's engines, `compare` any candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icf_deploy.benchmarks.bench import benchmark
    from icf_deploy.benchmarks.bench_result import BenchResult
    from icf_deploy.benchmarks.candidate import Candidate
    from icf_deploy.benchmarks.cost import Prices
    from icf_deploy.benchmarks.loadgen import LoadgenRule
    from icf_deploy.benchmarks.paired import Comparison, compare

__all__ = ["BenchResult", "Candidate", "Comparison", "LoadgenRule", "Prices", "benchmark", "compare"]

_HOMES = {
    "BenchResult": "bench_result",
    "benchmark": "bench",
    "Candidate": "candidate",
    "Comparison": "paired",
    "LoadgenRule": "loadgen",
    "Prices": "cost",
    "compare": "paired",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: the worker process must start fast."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
