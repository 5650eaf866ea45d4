from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icf_deploy.benchmarks.comparison import WEAKER, compare_results
from icf_deploy.benchmarks.result_file import SCHEMA_NAME, SCHEMA_VERSION, read_result
from icf_deploy.errors import ArtefactError, IcfError, WorkError

Make = Callable[..., dict[str, Any]]
ENGINES = {"ort": (10.0, 0.5), "openvino": (8.0, 0.6)}


def changed(result: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The result with one value of a dotted path replaced."""
    copied = copy.deepcopy(result)
    place: Any = copied
    *way, last = path.split(".")
    for step in way:
        place = place[int(step) if step.isdecimal() else step]
    place[last] = value
    return copied


def test_the_same_result_twice_shows_no_difference(make_result: Make) -> None:
    result = make_result(ENGINES)
    found = compare_results(result, result)
    assert [row.label for row in found.rows] == ["ort", "openvino"]
    assert all(row.ratio is not None and row.ratio.verdict == "no difference shown" for row in found.rows)
    assert not found.differences and found.notes[-1] == WEAKER


def test_a_slower_engine_is_called_slower_and_keeps_its_drift_beside_it(make_result: Make) -> None:
    found = compare_results(make_result(ENGINES), make_result({"ort": (12.0, 0.7), "openvino": (8.0, None)}, seed=1))
    ort, openvino = found.rows
    assert ort.ratio is not None and ort.ratio.low < 1.2 < ort.ratio.high and ort.ratio.verdict == "slower"
    assert (ort.a_drift, ort.b_drift) == (0.5, 0.7)
    assert (openvino.a_drift, openvino.b_drift) == (0.6, None)
    assert openvino.ratio is not None and openvino.ratio.verdict == "no difference shown"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("machine.cpu", "Another CPU", "device: .* in A, Another CPU in B"),
        ("machine.cores", 640, "cores"),
        ("machine.governor", "powersave-ish", "CPU governor"),
        ("machine.affinity", [77], "CPU affinity"),
        ("machine.gpus", [{"name": "H100", "driver": "1.2"}], "GPU: none in A, H100 in B; GPU driver: none in A, 1.2 in B"),
        ("machine.versions.onnxruntime", "0.0.1", r"version of onnxruntime: .* in A, 0\.0\.1 in B"),
        ("scope", "image", "scope: engine in A, image in B"),
        ("scenario", "offline", "scenario: none in A, offline in B"),
        ("settings.batch", 4, "batch: 1 in A, 4 in B"),
        ("settings.photo_size", [[512, 512]], "photo size: none in A, 512 512 in B"),
        ("settings.processes", 1, "processes: 5 in A, 1 in B"),
        ("rows.0.threads", 7, "threads of ort: 1 in A, 7 in B"),
        ("bundles.0.size", [512, 512], "size of ort: 64x64 in A, 512x512 in B"),
    ],
)
def test_what_differs_is_refused_by_name_and_forced_with_the_same_words(
    path: str, value: Any, words: str, make_result: Make
) -> None:
    a = make_result(ENGINES)
    b = changed(a, path, value)
    with pytest.raises(ArtefactError, match=words) as refused:
        compare_results(a, b)
    assert "--force" in str(refused.value) and refused.value.exit_status == 4
    found = compare_results(a, b, force=True)
    assert found.rows and not found.to_json()["comparable"]
    assert all(line in str(refused.value) for line in found.differences)


def test_all_differences_are_said_at_once(make_result: Make) -> None:
    a = make_result(ENGINES)
    b = changed(changed(a, "scope", "file"), "settings.batch", 8)
    assert len(compare_results(a, b, force=True).differences) == 2


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("settings.seed", 9),
        ("settings.price_per_core_hour", 0.1),
        ("machine.versions.openvino", "1"),
        ("machine.load_average", 9.0),
    ],
)
def test_what_changes_no_latency_of_the_compared_engines_is_allowed(path: str, value: Any, make_result: Make) -> None:
    a = make_result({"ort": (10.0, 0.5)})
    assert compare_results(a, changed(a, path, value)).rows


def test_another_file_is_what_one_wants_to_compare_and_is_told(make_result: Make) -> None:
    a = make_result(ENGINES, bundle="old.icf")
    b = changed(make_result(ENGINES, bundle="new.icf"), "rows.0.artefact.sha256", "f" * 64)
    assert "ort: A and B ran different files: that is part of what is compared" in compare_results(a, b).notes


def test_engines_that_only_one_has_are_named_and_none_in_common_is_an_error(make_result: Make) -> None:
    a, b = make_result(ENGINES), make_result({"ort": (10.0, 0.5), "trt": (1.0, 0.5)})
    notes = compare_results(a, b).notes
    assert "only in A: openvino" in notes and "only in B: trt" in notes
    with pytest.raises(ArtefactError, match="no engine in common: A has ort, openvino, B has trt"):
        compare_results(a, make_result({"trt": (1.0, 0.5)}))


def test_with_several_bundles_rows_match_by_bundle_and_engine(make_result: Make) -> None:
    def two(factor: float) -> dict[str, Any]:
        first, second = make_result({"ort": (10.0, 0.5)}, bundle="a.icf"), make_result({"ort": (30.0, 0.5)}, bundle="b.icf")
        row = second["rows"][0]
        row["bundle_index"], row["label"] = 1, "b.icf ort"
        for turn in row["turns"]:
            turn["ns"] = [int(value * factor) for value in turn["ns"]]
        return {**first, "bundles": first["bundles"] + second["bundles"], "rows": [*first["rows"], row]}

    found = compare_results(two(1.0), two(0.5))
    assert [(row.label, row.ratio and row.ratio.verdict) for row in found.rows] == [
        ("a.icf ort", "no difference shown"),
        ("b.icf ort", "faster"),
    ]


def test_two_bundles_of_one_name_are_not_mixed_up(make_result: Make) -> None:
    a, twice = make_result({"ort": (10.0, 0.5)}), make_result({"ort": (10.0, 0.5)})
    twice["bundles"] *= 2
    twice["rows"].append({**twice["rows"][0], "bundle_index": 1})
    with pytest.raises(ArtefactError, match="B has several bundles of one name"):
        compare_results(a, twice)


def test_where_no_row_has_a_latency_there_is_nothing_to_compare(make_result: Make) -> None:
    a, b = make_result({"ort": (10.0, 0.5)}), make_result({"ort": "out of memory"})
    with pytest.raises(ArtefactError, match=r"nothing to compare: .*no latency in B.*out of memory"):
        compare_results(a, b)


def test_a_row_that_failed_is_told_with_its_reason(make_result: Make) -> None:
    found = compare_results(make_result(ENGINES), make_result({"ort": "out of memory", "openvino": (8.0, 0.6)}))
    assert [row.label for row in found.rows] == ["openvino"]
    assert "ort: no latency in B: out of memory" in found.notes


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (None, WorkError, "cannot be read: No such file"),
        (b"\xff\xfe nonsense", WorkError, "not JSON"),
        (b"[" * 100_000, WorkError, "not JSON"),
        (b"[1, 2]", WorkError, "found 'none'"),
        (b'{"schema": "icf-check 1"}', WorkError, "found 'icf-check 1'"),
        (f'{{"schema": "{SCHEMA_NAME} {SCHEMA_VERSION + 1}"}}'.encode(), ArtefactError, "newer"),
        (f'{{"schema": "{SCHEMA_NAME} {SCHEMA_VERSION - 1}"}}'.encode(), ArtefactError, "measure it again"),
        (
            f'{{"schema": "{SCHEMA_NAME} {SCHEMA_VERSION}", "rows": []}}'.encode(),
            WorkError,
            "damaged .* bundles, created, inter",
        ),
    ],
)
def test_a_file_that_is_no_result_of_this_version_says_what_it_is(
    content: bytes | None, kind: type[IcfError], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(IcfError, match=words) as found:
        read_result(path)
    assert type(found.value) is kind and str(path) in str(found.value)


def test_a_written_result_is_read_back(make_result: Make, tmp_path: Path) -> None:
    result = make_result(ENGINES)
    (tmp_path / "r.json").write_text(json.dumps(result))
    assert read_result(tmp_path / "r.json") == result
