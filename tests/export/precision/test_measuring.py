"""What a search has measured is kept as it goes: interrupted, it goes on where it was, and comes to the same end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from icf_deploy.errors import ArtefactError, WorkError
from icf_deploy.export.precision import measuring
from icf_deploy.export.precision.calibration import Calibration
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.ledger import Ledger, ledger_for
from icf_deploy.export.precision.measuring import EngineOracle, Measuring
from icf_deploy.export.precision.photos import CalibrationPhotos
from icf_deploy.export.precision.probe import DriftProbe
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.export.precision.search import Result, search
from icf_deploy.export.precision.space import CAREFUL, INT8, INT8_BF16, WIDE, Parts

BUDGETS = (0.5, 1.0, 2.0)
ENGINE = "ort:cpu"


def test_a_line_that_was_cut_off_is_left_out_and_the_next_one_stands_alone(tmp_path: Path) -> None:
    first = ledger_for("network", folder=tmp_path)
    first.put({"value": 1.0}, "drift", "a")
    assert first.path is not None
    with first.path.open("a") as stream:
        stream.write('{"key": ["drift", "b"], "val')
    second = ledger_for("network", folder=tmp_path)
    assert (second.get("drift", "a"), second.get("drift", "b")) == ({"value": 1.0}, None)
    second.put({"value": 2.0}, "drift", "b")
    third = ledger_for("network", folder=tmp_path)
    assert third.get("drift", "b") == {"value": 2.0} and len(third) == 2
    assert len(ledger_for("another network", folder=tmp_path)) == 0


def test_without_a_cache_nothing_is_kept_and_the_search_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", "off")
    found = ledger_for("network")
    found.put({"value": 1.0}, "drift", "a")
    assert found.path is None and found.get("drift", "a") == {"value": 1.0}


@dataclass
class Machine:
    """Stands for `compare`: a recipe takes 10 ms, less 1 for every product in int8. stop: raise at this comparison."""

    stop: int = 0
    asked: int = 0
    fails: str = ""

    def compare(self, rows: Sequence[Any], **_: Any) -> Any:
        self.asked += 1
        if self.asked == self.stop:
            return SimpleNamespace(interrupted=True)
        times = {row.label: 10.0 - self._products(row.file) for row in rows}
        assert os.environ["ICF_DEPLOY_CACHE"].endswith("engines")  # what it compiles is not for the device's cache

        def row(label: str) -> Any:
            error = WorkError("no") if self.fails and self.fails in label else None
            return SimpleNamespace(error=error, samples=np.full(5, times[label] * 1e6))

        def ratio(label: str) -> Any:
            value = times[label] / times["wide"]
            return SimpleNamespace(ratio=value, low=value, high=value)

        return SimpleNamespace(interrupted=False, row=row, ratio=ratio)

    @staticmethod
    def _products(file: Path) -> int:
        nodes = onnx.load(file).graph.node
        return sum(node.op_type == "DequantizeLinear" and "weight" in node.name for node in nodes)


Searching = Callable[[Machine, Ledger], Result]


@pytest.fixture
def parts(model: onnx.ModelProto) -> Parts:
    return Parts.of(Recipe("icf-edge", (32, 32), network_digest(model), "fp32"), ir.from_proto(model).graph, {})


@pytest.fixture
def searching(
    model: onnx.ModelProto,
    calibration: Calibration,
    photos: CalibrationPhotos,
    parts: Parts,
    monkeypatch: pytest.MonkeyPatch,
) -> Searching:
    probe = DriftProbe(model, calibration, photos, stride=1)

    def run(machine: Machine, ledger: Ledger) -> Result:
        monkeypatch.setattr(measuring, "compare", machine.compare)
        tool = Measuring(model, calibration, probe, metric="de2000_p95", ledger=ledger, say=lambda _: None)
        space = parts.space((INT8,))
        return search(space, EngineOracle(tool, ENGINE, parts, space), BUDGETS, steps=3)

    return run


def test_an_interrupted_search_goes_on_where_it_was_and_ends_as_one_that_was_not(searching: Searching, tmp_path: Path) -> None:
    whole = Machine()
    expected = searching(whole, Ledger(None))
    interrupted = Machine(stop=2)
    with pytest.raises(KeyboardInterrupt):
        searching(interrupted, ledger_for("it", folder=tmp_path))
    rest = Machine()
    assert searching(rest, ledger_for("it", folder=tmp_path)) == expected
    assert 0 < rest.asked < whole.asked
    again = Machine()
    assert searching(again, ledger_for("it", folder=tmp_path)) == expected
    assert again.asked == 0


def test_an_engine_that_fails_on_a_recipe_costs_that_recipe(searching: Searching) -> None:
    found = searching(Machine(fails="color_decoder"), Ledger(None))
    best = found.best[2.0]
    assert best is not None and best.timed is not None
    assert INT8 in best.choice
    assert all(f.timed is None for f in found.measured if f.choice == (WIDE, WIDE, INT8, WIDE))


def test_a_baseline_that_fails_ends_the_search(searching: Searching) -> None:
    with pytest.raises(WorkError):
        searching(Machine(fails="wide"), Ledger(None))


def test_a_recipe_that_an_engine_refuses_drifts_without_end(
    model: onnx.ModelProto, calibration: Calibration, photos: CalibrationPhotos, parts: Parts
) -> None:
    said: list[str] = []
    probe = DriftProbe(model, calibration, photos, stride=1)
    ledger = Ledger(None)
    tool = Measuring(model, calibration, probe, metric="de2000_p95", ledger=ledger, say=said.append)
    refused = parts.recipe(tuple(parts.nodes), ("bf16",) * len(parts.nodes))
    for _ in range(2):  # the second time from the ledger
        assert tool.drift(ENGINE, refused, "everything bf16").value == float("inf")
    assert len(said) == 1 and "would not execute bf16" in said[0]
    with pytest.raises(ArtefactError):
        probe.measure(refused, engine=ENGINE)


def test_options_become_the_recipes_that_they_stand_for(parts: Parts) -> None:
    blocks = tuple(parts.nodes)
    assert blocks == ("backbone.0", "image_decoder.coarse", "color_decoder", "fusion")
    stem, linear = "backbone.stem/Conv", parts.products["color_decoder"][0]
    careful = Parts(parts.base, parts.nodes, parts.products, {stem: "noisy"}, {"color_decoder": (linear,)}, parts.borders)
    recipe = careful.recipe(blocks, (INT8, WIDE, CAREFUL, INT8_BF16))
    assert recipe.format_of(stem) == "fp32" and recipe.reasons[stem] == "noisy"
    assert recipe.format_of(linear) == "fp32"
    assert recipe.format_of(parts.products["color_decoder"][1]) == "int8"
    assert {recipe.format_of(key) for key in parts.nodes["fusion"]} == {"int8", "bf16"}
    assert {recipe.format_of(key) for key in parts.nodes["image_decoder.coarse"]} == {"fp32"}
    assert careful.narrowest(recipe) == {
        "backbone.0": "fp32",
        "image_decoder.coarse": "fp32",
        "color_decoder": "int8",
        "fusion": "int8",
    }
    assert ("backbone.0", "image_decoder.coarse") in parts.borders
    assert ("backbone.0", "fusion") not in parts.borders
    assert careful.space((INT8,)).options[2] == (WIDE, INT8, CAREFUL)
