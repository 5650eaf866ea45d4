from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def drifting(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, gray: np.ndarray) -> Path:
    """The same graph, and a reference that is 2 units of a away from it."""
    from icf_deploy.bundle.reference import ReferenceSet
    from icf_deploy.bundle.store import NewGraph, open_bundle, write_bundle

    opened = open_bundle(tiny_bundle)
    ab = opened.reference().ab.copy()
    ab[:, 0] += 2
    return write_bundle(
        tmp_path_factory.mktemp("drifting") / "drifting.icf",
        preset="tiny",
        stride=2,
        size=(64, 64),
        graphs=[NewGraph("fp32", opened.graph().data, "fp32", (64, 64))],
        reference=ReferenceSet(opened.reference().names, gray, ab),
        parity=opened.manifest.parity,
        provenance=opened.manifest.provenance,
    ).path


def test_engines_that_compute_as_pytorch_does_keep_the_budget(icf, tiny_bundle: Path) -> None:
    found = icf("check", tiny_bundle, "--engine", "ort", "--engine", "openvino", "--budget", "de2000_p95<=0.01,ab_psnr>=60")
    assert (found.status, found.err) == (0, "")
    assert sum("kept" in line for line in found.out.splitlines()) == 2
    assert max(map(len, found.out.splitlines())) <= 90


def test_json_has_the_whole_drift_table(icf, drifting: Path) -> None:
    found = icf("check", drifting, "--engine", "ort", "--json")
    assert found.status == 0
    document = found.document
    assert document["schema"] == "icf-check 1"
    engine = document["engines"][0]
    assert engine["formats"].keys() == {"fp32"}
    assert engine["drift"]["metrics"]["dab_mean"] == pytest.approx(2, abs=1e-4)
    assert [photo["photo"] for photo in engine["drift"]["photos"]] == document["photos"] == ["astronaut", "coffee"]


def test_a_missed_budget_says_by_how_much_and_has_status_3(icf, drifting: Path) -> None:
    found = icf("check", drifting, "--engine", "ort", "--budget", "dab_mean<=1.5", "--json")
    assert found.status == 3
    assert "dab_mean is 2" in found.error and "allowed 1.5" in found.error
    assert found.document["engines"][0]["within_budget"] is False
    assert icf("check", drifting, "--engine", "ort", "--budget", "dab_mean<=2.5").status == 0


@pytest.mark.parametrize("budget", ["nonsense<=1", "de2000_p95=1", "de2000_p95>=1", ""])
def test_a_budget_that_makes_no_sense_is_a_usage_error(icf, budget: str, tiny_bundle: Path) -> None:
    found = icf("check", tiny_bundle, "--budget", budget)
    assert (found.status, found.out) == (2, "")
    assert found.error


def test_an_engine_that_cannot_run_has_its_status_and_the_others_are_checked(icf, tiny_bundle: Path) -> None:
    found = icf("check", tiny_bundle, "--engine", "pytorch", "--engine", "ort", "--json")
    assert found.status == 5
    assert [engine["drift"] is None for engine in found.document["engines"]] == [True, False]
    assert "--with-checkpoint" in found.error


def test_an_altered_file_has_status_6(icf, tiny_bundle: Path, tmp_path: Path) -> None:
    altered = shutil.copytree(tiny_bundle, tmp_path / "altered.icf")
    manifest = json.loads((altered / "manifest.json").read_text())
    reference = altered / manifest["reference"]["file"]
    reference.write_bytes(reference.read_bytes()[:-1] + b"x")
    assert icf("check", altered, "--engine", "ort").status == 6


def test_without_engines_all_that_are_installed_are_checked(icf, tiny_bundle: Path) -> None:
    from icf_deploy.runtimes import registry

    found = icf("check", tiny_bundle, "--json").document
    expected = [name for name in registry.preferred() if not registry.line(name).runs_checkpoint]
    assert [engine["engine"] for engine in found["engines"]] == expected
