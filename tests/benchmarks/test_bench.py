from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icf_deploy.benchmarks import BenchResult, LoadgenRule, Prices, benchmark
from icf_deploy.benchmarks.bench_table import bench_cells
from icf_deploy.benchmarks.gpu_state import find_gpus
from icf_deploy.errors import ArtefactError, EngineUnavailableError, IntegrityError, UsageError

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
    assert plain["schema"] == "icf-bench 2"
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


def test_every_bundle_needs_a_digest_where_one_has_it(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="2 bundles and 1 digests"):
        benchmark([tiny_bundle, tiny_bundle], ["ort"], expect_digests=["0" * 64])
    with pytest.raises(IntegrityError, match="expected digest 000"):
        benchmark(tiny_bundle, ["ort"], expect_digests=["0" * 64])


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


@pytest.fixture(scope="module")
def everything(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, photo: Callable[[str], np.ndarray]) -> BenchResult:
    """Two bundles, own photos, a pace, cold starts and prices in one short run."""
    copy = tmp_path_factory.mktemp("copy") / "other.icf"
    shutil.copytree(tiny_bundle, copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("icf_deploy.benchmarks.pace.SETTLE_SECONDS", 0.02)
        return benchmark(
            [tiny_bundle, copy],
            ["ort"],
            threads=1,
            seconds=0.1,
            processes=2,
            batch=2,
            photos=[photo("chelsea"), photo("coffee"), photo("rocket")],
            paces=[100.0],
            cold_starts=1,
            percentiles=(95,),
            prices=Prices(per_core_hour=0.1),
        )


def test_every_bundle_gets_its_rows_under_labels_of_their_own(everything: BenchResult) -> None:
    plain = everything.to_json()
    assert [row["label"] for row in plain["rows"]] == ["tiny.icf ort", "other.icf ort"]
    assert [row["engine"] for row in plain["rows"]] == ["ort", "ort"]
    assert [plain["bundles"][row["bundle_index"]]["name"] for row in plain["rows"]] == ["tiny.icf", "other.icf"]
    assert all(row["drift"]["worst"]["photo"] in ("astronaut", "coffee") for row in plain["rows"])
    assert plain["rows"][1]["ratio"]["rounds"] == 20


def test_calls_at_a_pace_stand_beside_those_back_to_back(everything: BenchResult) -> None:
    (paced,) = everything.to_json()["rows"][0]["paced"]
    assert paced["fps"] == 100
    assert paced["calls"] == sum(len(turn["ns"]) for turn in paced["turns"]) >= 130  # what p95 needs
    assert [turn["round"] for turn in paced["turns"]] == list(range(20))
    assert [percentile["percent"] for percentile in paced["percentiles_ns"]] == [50, 95]
    assert paced["ratio"]["verdict"] in ("faster", "slower", "no difference shown")
    assert everything.settings["pace"] == [100.0]


def test_cold_starts_are_measured_with_the_cache_off_and_filled(everything: BenchResult) -> None:
    cold = everything.to_json()["rows"][0]["cold_start"]
    assert set(cold) == {"cache_off", "cache_on"}
    assert cold["cache_off"]["processes"] == 1
    assert 0 < cold["cache_off"]["load_s"]["median"] < cold["cache_off"]["total_s"]["median"]


def test_own_photos_are_what_is_fed_and_recorded(everything: BenchResult) -> None:
    assert (everything.settings["photos"], everything.settings["photo_source"]) == (3, "own photos")
    assert everything.settings["photo_names"] is None  # arrays have none


def test_the_cost_of_a_thousand_photos_follows_from_the_rate_and_the_price(everything: BenchResult) -> None:
    row = everything.to_json()["rows"][0]
    rate = 2 * row["calls"] * 1e9 / sum(sum(turn["ns"]) for turn in row["turns"])  # two photos a call
    assert row["cost"]["photos_per_second"] == pytest.approx(rate)
    assert row["cost"]["price_per_1000"] == pytest.approx(1000 / rate / 3600 * 0.1)
    assert row["cost"]["price_basis"] == "core-hour"
    assert row["cost"]["memory_peak"] == row["memory_peak"]
    assert everything.headline is not None and "at 0.1 per core-hour" in everything.headline


def test_energy_is_a_number_or_a_reason(everything: BenchResult) -> None:
    energy = everything.to_json()["rows"][0]["energy"]
    assert (energy["cpu_joules_per_photo"] is None) == (energy["why_not"] is not None)
    assert energy["photos"] == 2 * everything.to_json()["rows"][0]["calls"]


def test_a_row_whose_gpu_lowered_its_clocks_is_stamped(result: BenchResult, fake_nvml: Any) -> None:
    nvml = fake_nvml()
    nvml.reasons = 0x20
    hot = dataclasses.replace(result.rows[0].measured, gpu_states=[find_gpus(nvml).devices[0].state()])
    rows = (dataclasses.replace(result.rows[0], measured=hot), result.rows[1])
    plain = dataclasses.replace(result, rows=rows).to_json()
    assert [row["throttled"] for row in plain["rows"]] == [True, None]
    assert any("throttled" in line and "software thermal slowdown" in line for line in plain["warnings"])
    assert "throttled" in bench_cells(dataclasses.replace(result, rows=rows))[1][2]


def test_an_engine_whose_drift_cannot_be_measured_has_no_latency_either(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise ArtefactError("this engine takes [32, 32] and the reference set is of [64, 64]")

    monkeypatch.setattr("icf_deploy.quality.drift.measure_drift", refused)
    (row,) = benchmark(tiny_bundle, ["ort"], **QUICK).rows
    assert isinstance(row.measured.error, ArtefactError)
    assert len(row.measured.samples) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "image", "batch": 2}, "one photo at a time"),
        ({"paces": [0.0]}, "a pace lies above 0"),
        ({"paces": [1e6]}, "at most at 1000"),
        ({"paces": [1.0], "loadgen": LoadgenRule("single-stream")}, "LoadGen's own schedule"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(tiny_bundle: Path, options: dict[str, Any], message: str) -> None:
    if importlib.util.find_spec("mlperf_loadgen") is None:
        pytest.skip("mlcommons-loadgen is not installed")
    with pytest.raises(UsageError, match=message):
        benchmark(tiny_bundle, ["ort"], **options)


def test_the_table_shows_what_cannot_be_known_as_a_dash(tiny_bundle: Path) -> None:
    found = benchmark(tiny_bundle, ["pytorch", "ort"], **QUICK)
    header, failed, good = bench_cells(found)
    assert len(header) == len(failed) == len(good)
    assert set(failed[1:]) == {"-", "failed"}
    assert "-" not in good[:6]
