from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SUITE = Path(__file__).resolve().parents[2] / "benchmarks" / "suites" / "peers.py"
DRIFT = {"PyTorch eager": 0.0, "peer int8": 9.0, "peer fp32": 0.0, "icf-deploy bf16": 0.7, "icf-deploy int8": 2.0}
MEDIANS = {"PyTorch eager": 30.0, "peer int8": 4.0, "peer fp32": 10.0, "icf-deploy bf16": 5.0, "icf-deploy int8": 3.0}


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers_suite", SUITE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("limit", "ours", "peer"),
    [(1.0, "icf-deploy bf16", "peer fp32"), (float("inf"), "icf-deploy int8", "peer int8"), (0.1, None, "peer fp32")],
)
def test_the_fastest_is_looked_for_among_those_that_drift_little_enough(
    peers: ModuleType, limit: float, ours: str | None, peer: str
) -> None:
    drift = {label: {"de2000_p95": value} for label, value in DRIFT.items()} | {"failed": {"error": "no"}}
    latency: dict[str, Any] = {label: {"p50": value} for label, value in MEDIANS.items()}
    latency |= {"failed": {"error": "no"}, "baseline": "PyTorch eager", "pairs": {}}
    assert peers._fastest(latency, drift, limit, own=True) == ours
    assert peers._fastest(latency, drift, limit, own=False) == peer


def test_a_direct_pair_stands_below_the_table_with_its_interval(peers: ModuleType, tmp_path: Path) -> None:
    pair = {"ours": "A", "peer": "B", "ratio": [0.9, 0.8, 0.97], "p50": 5.0, "baseline_p50": 5.6, "rounds": 20, "processes": 5}
    plan = {"size": 256, "threads": 2, "rows": [], "checkpoint": "x"}
    for name, content in ((peers.PLAN, plan), (peers.DRIFT, {}), (peers.LATENCY, {"pairs": {"1": pair}})):
        (tmp_path / name).write_text(json.dumps(content))
    assert "Within a drift of 1, paired directly: A takes 0.90 (0.80 to 0.97) of the time of B" in peers.markdown(tmp_path)
