from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_an_engine_that_was_opened_is_listed_explained_and_cleared(icf, tiny_bundle: Path, folder: Path) -> None:
    assert "0 kept" in icf("cache", "list").out
    before = icf("cache", "explain", tiny_bundle, "--engine", "openvino")
    assert before.status == 0
    assert "would be built, because nothing for this graph is in the cache yet" in before.out
    assert icf("check", tiny_bundle, "--engine", "openvino").status == 0
    assert "openvino:cpu of tiny.icf: kept" in icf("cache", "explain", tiny_bundle, "--engine", "openvino").out

    listed = icf("cache", "list").out
    assert f"{folder}: 1 kept" in listed
    assert "openvino 20" in listed
    (entry,) = icf("cache", "list", "--json").document["entries"]
    assert entry["kind"] == "engine"
    assert entry["fields"]["runtime"] == "openvino"
    assert entry["bytes"] == next(folder.glob("*.entry")).stat().st_size

    assert icf("cache", "clear").out == f"{folder}: 1 removed, {entry['bytes'] / 1e6:.1f} MB\n"
    assert icf("cache", "list", "--json").document["entries"] == []


def test_explain_names_the_field_that_makes_it_build_again(icf, tiny_bundle: Path) -> None:
    icf("check", tiny_bundle, "--engine", "openvino", "--threads", "1")
    document = icf("cache", "explain", tiny_bundle, "--engine", "openvino:cpu-bf16", "--threads", "1", "--json")
    if document.status == 4:
        pytest.skip("this CPU has no bf16")
    found = document.document
    assert not found["kept"]
    assert found["changes"] == [{"field": "option INFERENCE_PRECISION_HINT", "before": "f32", "after": "bf16"}]
    assert found["why"] == "option INFERENCE_PRECISION_HINT was f32, is bf16"


def test_explain_without_an_engine_says_why_everything_was_built(icf, tiny_bundle: Path, folder: Path) -> None:
    assert icf("cache", "explain").out == f"{folder}: nothing is kept\n"
    icf("check", tiny_bundle, "--engine", "openvino")
    told = icf("cache", "explain").out
    assert "engine of openvino" in told
    assert "because: nothing for this graph is in the cache yet" in told


def test_an_engine_that_is_not_kept_says_so(icf, tiny_bundle: Path) -> None:
    assert icf("cache", "explain", tiny_bundle, "--engine", "ort").out.startswith("ort:cpu keeps no engines")
    assert icf("cache", "explain", tiny_bundle, "--engine", "ort", "--json").document["kept"] is None


def test_a_cache_that_is_off_is_a_usage_error(icf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", "off")
    found = icf("cache", "list")
    assert found.status == 2
    assert "ICF_DEPLOY_CACHE=off" in found.error
