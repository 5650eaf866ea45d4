from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from icf_deploy.benchmarks import Candidate, Comparison, compare
from icf_deploy.errors import UsageError

FAKES = str(Path(__file__).with_name("fake_engines.py"))


def fake(label: str, name: str = "sleeper", **options: object) -> Candidate:
    return Candidate(label, opener=f"{FAKES}:{name}", options=options)


@pytest.fixture(scope="module")
def comparison(gray: np.ndarray) -> Comparison:
    candidates = [fake("two", ms=2), fake("three", ms=3), fake("dies", dies_at=400)]
    return compare(candidates, rounds=8, processes=2, seconds_per_turn=0.05, inputs=gray)


def test_the_ratio_is_that_of_the_known_latencies(comparison: Comparison) -> None:
    ratio = comparison.ratio("three")
    assert ratio is not None
    assert ratio.verdict == "slower"
    assert ratio.ratio == pytest.approx(1.5, rel=0.01)
    assert comparison.ratio("two") is None  # the baseline


def test_an_engine_that_dies_costs_its_row_and_not_the_run(comparison: Comparison) -> None:
    assert "its process died" in str(comparison.row("dies").error)
    assert any("its process died" in line for line in comparison.warnings())
    assert [turn.round for turn in comparison.row("two").turns] == list(range(8))
    assert 0 < len(comparison.row("dies").turns) < 8
    assert comparison.ratio("dies") is not None  # from the rounds that it lived


def test_raw_samples_are_in_the_json_round_by_round(comparison: Comparison) -> None:
    plain = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert plain["schema"] == "icf-comparison 1"
    assert [(turn["round"], turn["process"]) for turn in plain["rows"][0]["turns"]] == [
        (0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1), (7, 1)
    ]  # fmt: skip
    assert set(plain["rows"][0]["turns"][0]["ns"]) == {2_000_000, 2_020_000}
    assert plain["rows"][1]["ratio"]["verdict"] == "slower"


def test_the_table_names_scope_baseline_and_verdict(comparison: Comparison) -> None:
    table = comparison.table()
    assert "scope engine" in table and "over that of two" in table
    assert next(line for line in table.splitlines() if line.startswith("three")).split().count("slower") == 1
    assert "warning: dies: its process died" in table


def test_one_engine_twice_shows_no_difference(gray: np.ndarray) -> None:
    found = compare([fake("a", ms=2), fake("b", ms=2)], rounds=10, processes=2, seconds_per_turn=0.03, inputs=gray)
    ratio = found.ratio("b")
    assert ratio is not None
    assert (ratio.verdict, ratio.ratio) == ("no difference shown", pytest.approx(1, abs=0.01))


def test_the_order_inside_a_round_is_shuffled_and_the_seed_repeats_it(gray: np.ndarray) -> None:
    def order(seed: int) -> list[str]:
        told: list[str] = []
        compare(
            [fake("a"), fake("b"), fake("c")],
            rounds=6,
            processes=2,
            seconds_per_turn=0.01,
            inputs=gray,
            seed=seed,
            progress=lambda _, __, what: told.append(what),
        )
        return told

    first = order(1)
    assert first == order(1) != order(2)
    turns = [line[-1] for line in first if line.startswith("round")]
    rounds = [tuple(turns[i : i + 3]) for i in range(0, 18, 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(rounds)) > 1


def test_an_interrupt_keeps_what_was_measured(gray: np.ndarray) -> None:
    def stop(_: int, __: int, what: str) -> None:
        if what.startswith("round 4"):
            raise KeyboardInterrupt

    found = compare([fake("a"), fake("b")], rounds=20, processes=1, seconds_per_turn=0.01, inputs=gray, progress=stop)
    assert found.interrupted
    assert [[turn.round for turn in row.turns] for row in found.rows] == [[0, 1, 2], [0, 1, 2]]


def test_real_engines_are_compared_on_one_file(tiny_onnx: Path, gray: np.ndarray) -> None:
    found = compare(
        [Candidate("ort", file=tiny_onnx, threads=1), Candidate("openvino", runtime="openvino", file=tiny_onnx, threads=1)],
        rounds=3,
        processes=1,
        seconds_per_turn=0.02,
        inputs=gray,
    )
    assert [row.error for row in found.rows] == [None, None]
    assert all(row.formats is not None and set(row.formats) == {"fp32"} for row in found.rows)
    assert found.ratio("openvino") is not None


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a", "a"], {}, "used twice: a"),
        ([], {}, "got none"),
        (["a"], {"baseline": "b"}, "baseline 'b' is not one"),
        (["a"], {"rounds": 1}, "two rounds or more"),
    ],
)
def test_what_makes_no_sense_is_refused(labels: list[str], options: dict[str, object], message: str, gray: np.ndarray) -> None:
    with pytest.raises(UsageError, match=message):
        compare([fake(label) for label in labels], inputs=gray, **options)  # type: ignore[arg-type]
