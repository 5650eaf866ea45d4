"""The table of all block recipes: what it says follows from what was measured, and the search is judged by it fairly."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

SUITES = Path(__file__).resolve().parents[2] / "benchmarks" / "suites"
BLOCKS = ["backbone.0", "backbone.1", "backbone.2", "backbone.3", "image_decoder.coarse", "image_decoder.fine",
          "color_decoder", "fusion"]  # fmt: skip
PLAN = {"blocks": BLOCKS, "borders": [list(pair) for pair in itertools.pairwise(BLOCKS)]}
SAVES = [0.0, 0.05, 0.1, 0.02, -0.03, 0.04, 0.01, 0.06]  # of the time, by block
DRIFTS = [9.0, 0.3, 0.5, 0.2, 0.7, 0.4, 0.3, 0.9]


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, SUITES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


suite = load("block_recipes")


def time_of(number: int) -> float:
    return 1 - sum(share for i, share in enumerate(SAVES) if number >> i & 1)


def drift_of(number: int) -> float:
    return float(np.sqrt(sum(drift**2 for i, drift in enumerate(DRIFTS) if number >> i & 1)))


@pytest.fixture(scope="module")
def rows() -> Any:
    """The table of a machine whose every round is slower than the one before, for all recipes alike."""
    numbers = range(suite.BASELINE, 256)
    drifts = {str(n): [0.0 if n < 0 else drift_of(n), 0.0, "int8+fp32"] for n in numbers}
    turns = []
    for process in range(3):
        for group in suite.groups(256, process):
            for number in (suite.BASELINE, *group):
                for turn in range(2):
                    ms = 10 * (1 + process + turn) * (1 if number < 0 else time_of(number))
                    turns.append({"recipe": number, "process": process, "group": group[0], "round": turn, "ms": ms})
    return suite.rows_of("ort", PLAN, drifts, turns)


def test_every_recipe_is_in_one_group_of_each_process_and_the_groups_differ() -> None:
    first, second = (list(suite.groups(256, process)) for process in (0, 1))
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == list(range(256))
    assert first != second and max(map(len, first)) == suite.GROUP


def test_a_latency_is_that_of_the_same_round_over_the_float32_graph(rows: Any) -> None:
    assert len(rows) == 257
    for number in (1, 77, 255):
        assert rows[number].ratio.ratio == pytest.approx(time_of(number))
        assert rows[number].ratio.low == pytest.approx(rows[number].ratio.high)


def test_the_search_is_held_against_the_fastest_of_all_inside_each_budget(rows: Any) -> None:
    found, oracle = suite.searched("ort", PLAN, rows)
    for budget, answer in found.items():
        fastest = min(time_of(n) for n in range(256) if drift_of(n) <= budget)
        assert answer.drift <= budget
        assert answer.ratio.ratio <= 1.02 * fastest
    assert len(oracle.times) < 60  # it did not look at the whole table


def test_the_table_names_the_recipe_the_fastest_and_the_best_uniform_one(rows: Any) -> None:
    text = suite.markdown(PLAN, {"ort": rows})
    line = next(line for line in text.splitlines() if line.startswith("| ort | 2 |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    fastest = min((n for n in range(256) if drift_of(n) <= 2), key=time_of)
    assert cells[2] == str(sum(drift_of(n) <= 2 for n in range(256)))
    assert cells[3].startswith(f"{time_of(fastest):.3f} (")
    assert cells[5] == "1.000" and cells[6].startswith("wide 1.000")
    assert "wide: backbone.0" in cells[8] and "int8" in cells[8]
    assert "257" not in suite.markdown(PLAN, {"ort": rows}).partition("\n\n")[0]


def test_a_set_that_is_not_done_is_said_to_be_so(rows: Any) -> None:
    some = {number: row for number, row in rows.items() if number < 100}
    assert "ort: 101 of 257 recipes are timed." in suite.markdown(PLAN, {"ort": some})


def test_the_floor_is_the_work_of_each_format_over_its_rate() -> None:
    floor = load("floor")
    found = floor.Floor({"bf16": 20.0, "fp32": 2.0}, {"bf16": 400.0, "fp32": 200.0}, 90.0)
    assert found.floor == pytest.approx(60.0)
    assert "floor 60.00 ms; measured 90.00 ms; ratio 1.50" in found.text()


@pytest.mark.parametrize("form", ["fp32", "int8"])
def test_the_plain_graphs_are_sound_and_nearly_all_of_their_work_is_the_large_product(form: str) -> None:
    floor = load("floor")
    model = floor.plain_graph(8, 32, 3, form)
    onnx.checker.check_model(model, full_check=True)
    large = floor.LAYERS * 32 * 32 * 9 * 64 / 1e9
    assert floor.gmac_of(model) == pytest.approx(large, rel=0.02)


def test_the_work_of_a_graph_goes_to_the_formats_that_its_engine_ran_it_in() -> None:
    pytest.importorskip("openvino")
    from icf_deploy.runtimes.base import Graph

    floor = load("floor")
    model = floor.plain_graph(32, 32, 3, "int8")
    data = model.SerializeToString()
    work = floor.work_by_format(model, "openvino:cpu", Graph(data, "0" * 64, (32, 32), 1, "int8+fp32"))
    large = floor.LAYERS * 32 * 32 * 9 * 32 * 32 / 1e9
    assert work["int8"] == pytest.approx(large, rel=0.05)
    assert sum(work.values()) == pytest.approx(floor.gmac_of(model))
