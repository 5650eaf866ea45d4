"""Whole runs on a tiny bundle: a real fp32 graph, one that drifts, one that no engine here executes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import icf_deploy
from icf_deploy.benchmarks.clock import StopRule, WarmUpRule
from icf_deploy.bundle.store import open_bundle
from icf_deploy.errors import BudgetError, EngineUnavailableError, PhotoError, UsageError, WorkError
from icf_deploy.runtimes.tuned import recall
from icf_deploy.tuning import TuneResult, tune
from icf_deploy.tuning.page import tune_html
from icf_deploy.tuning.table import tune_cells, tune_notes

pytest.importorskip("openvino")
ENGINES = ("ort", "openvino")
QUICK: dict[str, Any] = {"threads": 1, "seconds": 0.1, "rounds": 4, "processes": 1}


@pytest.fixture(scope="module", autouse=True)
def _short_timing() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("icf_deploy.tuning.run.LOOK", StopRule(0.02, 11))
        for module in ("tuning.run", "benchmarks.rounds"):  # on a busy machine latency may never settle
            patch.setattr(f"icf_deploy.{module}.WarmUpRule", lambda: WarmUpRule(seconds=0.02, limit_seconds=0.1))
        patch.setattr("icf_deploy.benchmarks.rounds.LATER_WARM_UP", WarmUpRule(seconds=0.02, limit_seconds=0.1))
        yield


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def result(three_graphs: Path, told: list[str], tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    return tune(
        three_graphs,
        engines=ENGINES,
        pictures=True,
        progress=lambda done, total, what: told.append(what),
        **{**QUICK, "processes": 2},
    )


def test_every_graph_on_every_engine_has_a_row_with_the_drift_of_its_own_file(result: TuneResult) -> None:
    found = {row.label: row for row in result.rows}
    assert list(found) == [f"{engine} {graph}" for engine in ENGINES for graph in ("fp32", "far", "half")]
    for engine in ENGINES:
        assert result.verdict(found[f"{engine} far"]) == "outside"
        assert result.verdict(found[f"{engine} half"]) == "refused"
        assert "fp8" in str(found[f"{engine} half"].error)
        near, far = found[f"{engine} fp32"].drift, found[f"{engine} far"].drift
        assert near is not None and far is not None
        assert near.value("de2000_p95") < 0.01 and far.value("de2000_p95") > 1


def test_what_is_inside_is_paired_and_what_is_outside_only_looked_at(result: TuneResult) -> None:
    inside = [row for row in result.rows if row.is_inside(result.budget)]
    paired = [row for row in inside if row.is_paired]
    assert result.choice is not None and result.choice.row in paired
    for row in result.rows:
        if row.is_paired:
            assert row in inside
            assert [turn.round for turn in row.timed.turns] == list(range(4))
            assert {turn.process for turn in row.timed.turns} == {0, 1}
        elif row.drift is not None:
            latency = row.latency()
            assert latency is not None and latency.value is not None and len(row.timed.turns) == 1


def test_the_choice_is_remembered_and_taken_by_load_with_its_graph(result: TuneResult, three_graphs: Path) -> None:
    assert result.kept is not None and result.choice is not None
    choice = recall(open_bundle(three_graphs), 1)
    assert choice is not None and (choice.engine, choice.graph) == (result.choice.row.engine, "fp32")
    assert choice.budget == "de2000_p95<=1" and choice.drift.keys() == {"de2000_p95"}
    with icf_deploy.load(three_graphs, threads=1) as colorizer:
        assert colorizer.engine == result.choice.row.engine


def test_progress_tells_both_parts(told: list[str], result: TuneResult) -> None:
    assert "drift and a first look: openvino far" in told
    assert any(text.startswith("round 4 of 4: ") for text in told)


def test_the_table_says_what_became_of_each(result: TuneResult) -> None:
    header, *lines = tune_cells(result)
    assert header[-1] == "" and lines[0][-1] == "chosen"
    verdicts = [line[-1] for line in lines]
    assert verdicts.count("outside") == verdicts.count("refused") == 2
    assert all(line[3].startswith("~") for line in lines if line[-1] == "outside")
    notes = "\n".join(tune_notes(result))
    assert "inside de2000_p95<=1" in notes and "Why: " in notes and "Remembered in " in notes
    assert "compared with PyTorch in float32" in notes and "ort half: " in notes


def test_the_json_has_everything_and_all_raw_samples(result: TuneResult) -> None:
    plain = json.loads(json.dumps(replace(result, command="icf-deploy tune").to_json(), allow_nan=False))
    assert plain["schema"] == "icf-tune 1" and plain["budget"] == "de2000_p95<=1"
    assert plain["chosen"]["graph"] == "fp32" and plain["chosen"]["why"]
    assert {row["verdict"] for row in plain["rows"]} >= {"chosen", "outside", "refused"}
    chosen = next(row for row in plain["rows"] if row["verdict"] == "chosen")
    assert sum(len(turn["ns"]) for turn in chosen["turns"]) == chosen["calls"] >= 12
    outside = next(row for row in plain["rows"] if row["verdict"] == "outside")
    assert "above the allowed 1" in outside["misses"][0]


def test_the_page_shows_the_budget_the_choice_and_the_worst_photos(result: TuneResult) -> None:
    text = tune_html(replace(result, command="icf-deploy tune three.icf"))
    assert result.choice is not None
    assert f"{result.choice.row.engine} with graph fp32" in text
    assert text.count('class="budget"') == 2 and "budget (1)" in text  # wide and narrow
    assert text.count("data:image/png;base64,") == 4  # one difference for each that ran
    assert "icf-deploy tune three.icf" in text and "Not measured" in text
    assert not re.search(r"<script|<link|https?://(?!www\.w3\.org)", text)


def test_nothing_inside_names_the_nearest_miss_and_the_command_that_would_tell_its_causes(three_graphs: Path) -> None:
    found = tune(three_graphs, "de2000_p95<=0.5", engines=["ort"], graphs=["far"], keep=False, **QUICK)
    assert found.choice is None and found.kept is None
    with pytest.raises(BudgetError, match=r"nothing is inside.*Nearest is ort far: de2000_p95 is .*--precision auto"):
        found.require_choice()
    assert "Nothing is inside the budget de2000_p95&lt;=0.5." in tune_html(found)
    assert "What is in the way" in tune_html(found)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["nearest"]["label"] == "ort far"


def test_own_photos_are_compared_with_the_wide_graph_and_with_their_own_colours(
    three_graphs: Path, photo: Callable[[str], Any], tmp_path: Path
) -> None:
    for name in ("coffee", "astronaut"):
        Image.fromarray(photo(name)[:128, :128]).save(tmp_path / f"{name}.png")
    budget = "ab_psnr_drop<=0.001,de2000_p95<=1"
    found = tune(three_graphs, budget, engines=["openvino"], graphs=["fp32", "far"], photos=tmp_path, keep=False, **QUICK)
    assert found.choice is not None and found.choice.row.graph == "fp32"
    assert "graph fp32 on ort" in "\n".join(tune_notes(found))
    far = next(row.drift for row in found.rows if row.graph == "far")
    assert far is not None and len(far.truths) == 2


def test_what_makes_no_sense_is_found_before_anything_is_measured(
    three_graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("it measures")

    monkeypatch.setattr("icf_deploy.tuning.run._look_at", refused)
    for budget, words in (("de2000_p59<=1", "did you mean de2000_p95"), ("de2000_p95>=1", "better when lower"),
                          ("ab_psnr_drop<=0.02", "--photos")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            tune(three_graphs, budget)
    with pytest.raises(UsageError, match="tensorflow"):
        tune(three_graphs, engines=["tensorflow"])
    with pytest.raises(UsageError, match="has no graph 'fp4': choose one of fp32, far, half"):
        tune(three_graphs, engines=["ort"], graphs=["fp4"])
    with pytest.raises(PhotoError, match="no folder"):
        tune(three_graphs, engines=["ort"], photos=tmp_path / "gone")
    monkeypatch.setenv("ICF_DEPLOY_CACHE", "off")
    with pytest.raises(UsageError, match="ICF_DEPLOY_CACHE=off"):
        tune(three_graphs, engines=["ort"])


def test_an_engine_that_is_not_here_costs_its_row(three_graphs: Path) -> None:
    found = tune(three_graphs, engines=["pytorch", "ort"], graphs=["fp32"], keep=False, **QUICK)
    assert [found.verdict(row) for row in found.rows] == ["not here", "chosen"]
    assert isinstance(found.rows[0].error, EngineUnavailableError)


@pytest.mark.parametrize("where", ["the first look", "the rounds"])
def test_interrupted_it_keeps_nothing(three_graphs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str) -> None:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", str(tmp_path / "kept"))

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    target = (
        "icf_deploy.tuning.yardstick.measure_drift"
        if where == "the first look"
        else "icf_deploy.benchmarks.rounds.Rounds._turn"
    )
    monkeypatch.setattr(target, stop)
    found = tune(three_graphs, engines=["ort"], graphs=["fp32"], **QUICK)
    assert found.interrupted and found.choice is None and found.kept is None
    assert list((tmp_path / "kept").glob("tuned-*")) == []
    assert "Interrupted" in tune_html(found)


def test_a_second_name_of_the_same_engine_is_measured_once(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from icf_deploy.tuning.candidates import candidates

    rows, same = candidates(open_bundle(tiny_bundle), tiny_bundle, ["openvino", "openvino:cpu", "ort"], [], 1)
    assert [row.label for row in rows] == ["openvino fp32", "ort fp32"]
    assert same == ["openvino:cpu fp32 is the same engine as openvino fp32"]


def test_by_default_every_device_of_every_engine_that_runs_graphs_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from icf_deploy.tuning.candidates import engines_of_device

    found = engines_of_device()
    assert {"ort", "openvino", "openvino:cpu-bf16"} <= set(found) and found.index("ort") < found.index("openvino")
    assert not any(name.startswith("pytorch") for name in found)
    monkeypatch.setattr("icf_deploy.runtimes.registry.RUNTIMES", {})
    with pytest.raises(EngineUnavailableError, match=r"icf-deploy\[cpu\]"):
        engines_of_device()


def test_nothing_inside_names_the_blocks_of_the_table_in_the_bundle_and_what_stays_in_use(
    three_graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from icf_deploy.bundle.sensitivity import Part, Point, Sensitivity
    from icf_deploy.bundle.store import NewGraph, write_bundle

    monkeypatch.setenv("ICF_DEPLOY_CACHE", str(tmp_path / "kept"))
    opened = open_bundle(three_graphs)
    manifest = opened.manifest
    blocks = {"fusion": "int8", "color_decoder": "int8"}
    parts = tuple(Part(name, name, "int8", "ort", drift, drift) for name, drift in (("fusion", 0.3), ("color_decoder", 1.7)))
    table = Sensitivity("tiny", manifest.size, "0" * 64, "photos", 2, "a CPU", parts, (Point("far", blocks),))
    bundle = write_bundle(
        tmp_path / "told.icf",
        preset=manifest.preset,
        stride=manifest.stride,
        size=manifest.size,
        graphs=[NewGraph(name, opened.graph(name).data, "fp32", manifest.size) for name in ("fp32", "far")],
        reference=opened.reference(),
        parity=manifest.parity,
        provenance=manifest.provenance,
        sensitivity=table,
    )
    assert tune(bundle.path, engines=["ort"], graphs=["fp32"], **QUICK).choice is not None
    monkeypatch.setattr("icf_deploy.tuning.misses.WIDE", "none")  # the graph says fp32, and stands for one in int8
    found = tune(bundle.path, "de2000_p95<=0.5", engines=["ort"], graphs=["far"], **QUICK)
    with pytest.raises(
        BudgetError, match=r"from color_decoder in int8 \(alone 1\.7\), fusion.*stays in use: ort with graph fp32"
    ):
        found.require_choice()
    assert "color_decoder" in tune_html(found)


def test_what_is_undecided_is_timed_again_and_counted_on(three_graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def once(rows: Any, _: Any) -> Any:
        asked.append(len(rows[0].timed.turns))
        return list(rows) if len(asked) == 1 else []

    monkeypatch.setattr("icf_deploy.tuning.run.undecided", once)
    found = tune(three_graphs, engines=["ort"], graphs=["fp32"], keep=False, **QUICK)
    assert asked == [4, 8]
    assert [turn.round for turn in found.rows[0].timed.turns] == list(range(8))
    assert "2 times where the order was undecided" in "\n".join(tune_notes(found))


def test_where_all_near_the_best_die_while_they_are_timed_the_next_one_is_measured(
    row: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from icf_deploy.quality.budget import parse
    from icf_deploy.tuning import run

    timed: list[list[str]] = []

    class Dying:
        """Rounds in which the first candidate of the run dies, and the others get turns."""

        def __init__(self, rows: Any, *_: Any, **__: Any) -> None:
            self.rows = rows

        def measure(self) -> bool:
            timed.append([found.candidate.label for found in self.rows])
            for found in self.rows:
                if found.candidate.runtime == "openvino":
                    found.error = WorkError("it died")
                else:
                    found.turns = row("ort", "fp32", 20, 0.0).timed.turns
            return False

    monkeypatch.setattr(run, "Rounds", Dying)
    rows = [row("openvino", "int8", 5, 0.5, paired=False), row("ort", "fp32", 20, 0.0, paired=False)]
    limits, stop = parse("de2000_p95<=1"), StopRule(0.1, 3)
    run._pair(rows, limits, lambda size: [], stop=stop, rounds=20, processes=5, seed=0, progress=None)
    assert timed == [["openvino int8"], ["ort fp32"]]
    choice = run.choose(rows, limits)
    assert choice is not None and choice.row is rows[1]
