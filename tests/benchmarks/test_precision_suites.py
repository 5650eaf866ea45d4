"""The suites behind the tables of docs/precision.md: layer profile, graph x engine."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from icf_deploy.bundle.opening import open_bundle

SUITES = Path(__file__).resolve().parents[2] / "benchmarks" / "suites"


def suite(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SUITES))  # as Python does for a script
    spec = importlib.util.spec_from_file_location(f"{name}_suite", SUITES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_profile_finds_a_layer_for_all_the_work_of_the_shipped_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    from icf_deploy.export.statistics import node_gmac

    bundle = open_bundle()
    graph = bundle.graph()
    layers = suite("openvino_profile", monkeypatch).profile(graph, bundle.reference().gray[:1], "cpu", 3, 1)
    work = sum(node_gmac(onnx.load_from_string(graph.data)).values())
    assert sum(layer.gmac for layer in layers) == pytest.approx(work, rel=0.02)
    assert all(layer.milliseconds > 0 for layer in layers)


def test_a_row_tells_what_ran_and_a_refused_one_why(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = suite("graph_table", monkeypatch).cells
    row: dict[str, Any] = {
        "graph": "int8",
        "engine": "ort",
        "artefact": {"bytes": 4_700_000},
        "problem": None,
        "executed": {"int8": 85, "fp32": 70},
        "drift": {"metrics": {"de2000_p95": 0.514, "de2000_p95_worst": 2.31}},
        "percentiles_ns": [{"percent": 50.0, "value": 22.4e6, "interval": {"low": 22.1e6, "high": 22.9e6}}],
    }
    assert cells(row) == ["int8", "4.7", "ort", "22.40", "22.10 .. 22.90", "0.51 (2.31)", "fp32 70, int8 85"]
    untimed = cells(row | {"percentiles_ns": [{"percent": 50.0, "value": None, "interval": None}]})
    assert untimed[3:5] == ["not timed", ""]
    refused = cells(row | {"drift": None, "problem": "ONNX Runtime would not execute bf16. Choose another"})
    assert refused[3:] == ["refused", "", "", "ONNX Runtime would not execute bf16"]
