from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from icf_deploy.benchmarks import BenchResult, benchmark
from icf_deploy.benchmarks.report import bench_cells
from icf_deploy.errors import EngineUnavailableError, IntegrityError, UsageError

QUICK = {"seconds": 0.1, "threads": 1, "processes": 1}


@pytest.fixture(scope="module")
def result(tiny_bundle: Path) -> BenchResult:
    return benchmark(tiny_bundle, ["ort", "openvino"], seconds=0.1, threads=1)


def test_every_engine_gets_a_row_with_at_least_100_calls(result: BenchResult) -> None:
    assert [row.engine for row in result.rows] == ["ort", "openvino"]
    assert not result.errors()
    assert all(len(row.measured.samples) >= 100 for row in result.rows)
    assert all(row.percentile(90).value is not None for row in result.rows)


def test_a_row_carries_the_drift_of_the_very_file_that_was_timed(result: BenchResult, tiny_bundle: Path) -> None:
    digest = hashlib.sha256((tiny_bundle / "graphs/fp32.onnx").read_bytes()).hexdigest()
    for row in result.rows:
        assert row.sha256 == digest
        assert row.drift is not None
        assert row.drift.value("de2000_p95") < 1e-3


def test_drift_is_measured_and_not_assumed(tiny_bundle: Path, tmp_path: Path, gray: np.ndarray) -> None:
    from icf_deploy.bundle.reference import ReferenceSet
    from icf_deploy.bundle.store import NewGraph, open_bundle, write_bundle

    opened = open_bundle(tiny_bundle)
    moved = ReferenceSet(opened.reference().names, gray, opened.reference().ab + np.float32(3))
    write_bundle(
        tmp_path / "moved.icf",
        preset="tiny",
        stride=2,
        size=(64, 64),
        graphs=[NewGraph("fp32", opened.graph().data, "fp32", (64, 64))],
        reference=moved,
        parity=opened.manifest.parity,
        provenance=opened.manifest.provenance,
    )
    row = benchmark(tmp_path / "moved.icf", ["ort"], **QUICK).rows[0]
    assert row.drift is not None
    assert row.drift.value("dab_mean") == pytest.approx(3 * np.sqrt(2), rel=1e-3)


def test_the_json_has_a_schema_and_all_raw_samples(result: BenchResult) -> None:
    plain = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert plain["schema"] == "icf-bench 1"
    row = plain["rows"][0]
    assert sum(len(turn["ns"]) for turn in row["turns"]) == row["calls"] >= 100
    assert [turn["round"] for turn in row["turns"]] == list(range(20))
    assert {turn["process"] for turn in row["turns"]} == set(range(5))
    assert row["photos_per_second_per_core"] == pytest.approx(
        row["calls"] * 1e9 / sum(sum(turn["ns"]) for turn in row["turns"])
    )
    assert row["drift"]["metrics"]["de2000_p95"] < 1e-3
    assert set(row["formats"]) == {"fp32"}
    assert len(row["starts"]) == 5
    assert all(start["load_s"] > 0 and start["first_call_s"] > 0 for start in row["starts"])
    assert plain["rows"][1]["ratio"]["verdict"] in ("faster", "slower", "no difference shown")


def test_threads_divide_the_photos_per_core(tiny_bundle: Path) -> None:
    row = benchmark(tiny_bundle, ["ort"], seconds=0.1, threads=2, processes=1).to_json()["rows"][0]
    assert row["photos_per_second"] == pytest.approx(2 * row["photos_per_second_per_core"])


@pytest.mark.parametrize("scope", ["image", "file"])
def test_the_scope_of_a_photo_takes_longer_than_the_engine_alone(
    tiny_bundle: Path, result: BenchResult, scope: str, photo: Callable[[str], np.ndarray]
) -> None:
    whole = benchmark(tiny_bundle, ["ort"], scope=scope, photos=[photo("chelsea")], **QUICK)  # type: ignore[arg-type]
    assert not whole.errors()
    assert whole.settings["photo_size"] == [[300, 451]]
    median, engine = whole.rows[0].percentile(50).value, result.rows[0].percentile(50).value
    assert median is not None and engine is not None and median > 3 * engine


def test_a_percentile_that_needs_more_calls_gets_them(tiny_bundle: Path) -> None:
    row = benchmark(tiny_bundle, ["ort"], percentiles=(50, 99), **QUICK).rows[0]
    assert row.percentile(99).value is not None


def test_an_engine_that_is_not_known_is_a_usage_error(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="tensorflow"):
        benchmark(tiny_bundle, ["tensorflow"])


def test_the_same_engine_twice_is_a_usage_error(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="used twice: ort"):
        benchmark(tiny_bundle, ["ort", "ort"])


def test_an_engine_without_its_checkpoint_costs_its_row_only(tiny_bundle: Path) -> None:
    found = benchmark(tiny_bundle, ["pytorch", "ort"], **QUICK)
    assert isinstance(found.rows[0].measured.error, EngineUnavailableError)
    assert "--with-checkpoint" in str(found.rows[0].measured.error)
    assert len(found.rows[1].measured.samples) >= 100


def test_an_altered_graph_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "altered.icf")
    graph = tmp_path / "altered.icf/graphs/fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    assert isinstance(benchmark(tmp_path / "altered.icf", ["ort"], **QUICK).errors()[0], IntegrityError)


def test_the_table_shows_what_cannot_be_known_as_a_dash(tiny_bundle: Path) -> None:
    found = benchmark(tiny_bundle, ["pytorch", "ort"], **QUICK)
    header, failed, good = bench_cells(found)
    assert len(header) == len(failed) == len(good)
    assert set(failed[1:]) == {"-", "failed"}
    assert "-" not in good[:6]
