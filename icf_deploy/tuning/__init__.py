"""Choosing by measured latency and measured drift together: `tune` finds the fastest engine inside a budget on this device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icf_deploy.tuning.result import TuneResult, TuneRow
    from icf_deploy.tuning.run import tune

__all__ = ["TuneResult", "TuneRow", "tune"]

_HOMES = {"TuneResult": "result", "TuneRow": "result", "tune": "run"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: `check` needs only a part."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
