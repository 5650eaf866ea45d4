from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from icf_deploy.bundle.sensitivity import Part, Point, Sensitivity
from icf_deploy.quality.budget import parse
from icf_deploy.tuning.misses import nearest_miss
from icf_deploy.tuning.result import TuneRow

Made = Callable[..., TuneRow]
BUDGET = parse("de2000_p95<=0.5,ab_psnr>=40")


def bundle_with(sensitivity: Sensitivity | None) -> Any:
    return SimpleNamespace(sensitivity=lambda: sensitivity)


@pytest.fixture
def sensitivity() -> Sensitivity:
    def part(name: str, form: str, drift: float) -> Part:
        return Part(name, name, form, "ort", drift, drift / 2)

    parts = (
        part("backbone.0", "int8", 0.9),
        part("fusion", "int8", 0.3),
        part("color_decoder", "int8", 1.2),
        part("fusion", "bf16", 0.2),
    )
    blocks = {"backbone.0": "int8", "color_decoder": "fp32", "fusion": "int8"}
    points = (Point("int8", blocks), Point("fp32", dict.fromkeys(blocks, "fp32")))
    return Sensitivity("icf-edge", (256, 256), "0" * 64, "photos", 8, "a CPU", parts, points)


def test_the_nearest_is_the_one_that_passes_a_bound_least_for_its_size(row: Made) -> None:
    rows = [
        row("ort", "int8", 5, 0.7),  # 40 % above
        row("openvino", "int8", 4, 0.4, ab_psnr=38.0),  # 5 % below
        row("openvino", "fp8", 3, 0.1, problems=["ab is one flat colour"]),
    ]
    found = nearest_miss(bundle_with(None), rows, BUDGET)
    assert found is not None and found.row is rows[1]
    assert str(found).startswith(f"nothing is inside the budget {BUDGET}. Nearest is openvino int8: ab_psnr is 38, 2 below")
    assert "icf-deploy export --precision auto" in str(found)


def test_the_blocks_that_cause_it_are_named_worst_first_with_what_each_does_alone(row: Made, sensitivity: Sensitivity) -> None:
    found = nearest_miss(bundle_with(sensitivity), [row("ort", "int8", 5, 0.7)], BUDGET)
    assert found is not None and [part.name for part in found.blocks] == ["backbone.0", "fusion"]
    assert "backbone.0 in int8 (alone 0.9), fusion in int8 (alone 0.3)" in str(found)
    assert found.to_json()["blocks"][0]["de2000_p95"] == 0.9


def test_an_engine_that_narrows_what_the_graph_leaves_wide_is_asked_about_what_it_ran(
    row: Made, sensitivity: Sensitivity
) -> None:
    found = nearest_miss(bundle_with(sensitivity), [row("openvino:cpu-bf16", "fp32", 5, 0.7)], BUDGET)
    assert found is not None and [(part.name, part.format) for part in found.blocks] == [("fusion", "bf16")]


def test_a_wide_graph_has_no_format_to_blame(row: Made, sensitivity: Sensitivity) -> None:
    found = nearest_miss(bundle_with(sensitivity), [row("ort", "fp32", 5, 1e-5)], parse("de2000_p95<=0"))
    assert found is not None and found.blocks == () and "float32 throughout" in str(found)


def test_without_any_drift_there_is_no_nearest() -> None:
    assert nearest_miss(bundle_with(None), [], BUDGET) is None
