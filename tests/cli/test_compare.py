from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Make = Callable[..., dict[str, Any]]
ENGINES = {"ort": (10.0, 0.5), "openvino:cpu-bf16": (8.0, 0.6)}


@pytest.fixture
def results(make_result: Make, tmp_path: Path) -> tuple[Path, Path]:
    """A result, and another in which one engine takes 1.2 times as long."""
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(make_result(ENGINES)))
    b.write_text(json.dumps(make_result({**ENGINES, "ort": (12.0, 0.5)}, seed=1)))
    return a, b


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


def test_the_table_says_in_words_who_is_slower_and_that_two_runs_are_weak_evidence(icf, results: tuple[Path, Path]) -> None:
    found = icf("compare", *results)
    assert (found.status, found.err) == (0, "")
    lines = found.out.splitlines()
    ort = next(line for line in lines if line.startswith("ort "))
    assert list(map(float, ort.split()[1:4])) == pytest.approx([10, 12, 1.2], rel=0.02)
    assert ort.split()[-3:] == ["slower", "0.50", "0.50"]
    assert "no difference" in found.out and "weaker evidence than one paired run" in " ".join(found.out.split())
    assert max(map(len, lines[2:])) <= 80


def test_a_result_against_itself_shows_no_difference(icf, results: tuple[Path, Path]) -> None:
    found = icf("compare", results[0], results[0], "--json")
    assert found.status == 0
    assert [row["ratio"]["verdict"] for row in found.document["rows"]] == ["no difference shown"] * 2
    assert all(row["ratio"]["ratio"] == 1 for row in found.document["rows"])


def test_json_has_a_schema_the_interval_and_the_places(icf, results: tuple[Path, Path]) -> None:
    document = icf("compare", *results, "--json").document
    assert document["schema"] == "icf-compare 1" and document["comparable"]
    assert (document["a"], document["b"]) == tuple(map(str, results))
    ratio = document["rows"][0]["ratio"]
    assert ratio["low"] < 1.2 < ratio["high"] and ratio["verdict"] == "slower"


def test_another_device_and_scope_are_refused_with_status_4_and_forced_with_a_warning(icf, results: tuple[Path, Path]) -> None:
    a, b = results

    def elsewhere(document: dict[str, Any]) -> None:
        document["machine"]["cpu"] = "Another CPU"
        document["scope"] = "image"

    edited(b, elsewhere)
    found = icf("compare", a, b)
    assert (found.status, found.out) == (4, "")
    assert "Another CPU in B" in found.error and "scope: engine in A, image in B" in found.error and "--force" in found.error
    forced = icf("compare", a, b, "--force")
    assert forced.status == 0
    assert "NOT COMPARABLE" in forced.out and "- scope: engine in A, image in B" in forced.out and "slower" in forced.out
    document = icf("compare", a, b, "--force", "--json").document
    assert not document["comparable"] and len(document["differences"]) == 2


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (None, 1, "No such file"),
        ("nonsense", 1, "not JSON"),
        ('{"schema": "icf-comparison 1"}', 1, "not a result of `icf-deploy bench -o`"),
        ('{"schema": "icf-bench 999"}', 4, "newer"),
    ],
)
def test_what_is_no_result_of_this_version_is_one_line(
    icf, *, content: str | None, status: int, words: str, results: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    found = icf("compare", results[0], path)
    assert (found.status, found.out) == (status, "")
    assert words in found.error and str(path) in found.error


def test_two_results_without_a_common_engine_are_status_4(icf, results: tuple[Path, Path], make_result: Make) -> None:
    results[1].write_text(json.dumps(make_result({"trt": (1.0, 0.1)})))
    found = icf("compare", *results)
    assert found.status == 4 and "no engine in common" in found.error


def test_what_bench_wrote_can_be_compared(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    quick = ("--engine", "ort", "--seconds", "0.1", "--threads", "1", "--processes", "1")
    for name in ("a", "b"):
        assert icf("bench", tiny_bundle, *quick, "-o", tmp_path / f"{name}.json").status == 0
    found = icf("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert found.status == 0 and any(line.startswith("ort ") for line in found.out.splitlines())


def test_two_files_are_needed(icf, results: tuple[Path, Path]) -> None:
    assert icf("compare", results[0]).status == 2
