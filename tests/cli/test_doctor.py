from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def shipped(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped bundle is a good one, whatever is in the tree."""
    from icf_deploy.bundle import opening

    original = opening.open_bundle
    monkeypatch.setattr(opening, "open_bundle", lambda path=None: original(path or tiny_bundle))


def test_it_lists_every_engine_with_version_and_formats(icf) -> None:
    import onnxruntime

    found = icf("doctor")
    assert (found.status, found.err) == (0, "")
    line = next(line for line in found.out.splitlines() if line.startswith("ort:cpu "))
    assert line.split() == ["ort:cpu", "yes", onnxruntime.__version__, "fp32", "int8"]
    table = found.out.partition("\nengine")[2].partition("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 80  # it fits a terminal of the usual width
    assert "shipped bundle: verified, tiny" in found.out
    assert "export: ready" in found.out


def test_json_says_the_same(icf) -> None:
    from icf_deploy.runtimes import registry

    document = icf("doctor", "--json").document
    assert [engine["name"] for engine in document["engines"]] == list(registry.names())
    ort = next(engine for engine in document["engines"] if engine["name"] == "ort")
    assert ort["ok"] and ort["devices"]["cpu"] == ["fp32", "int8"]
    assert document["machine"]["cores"] >= 1
    assert document["shipped_bundle"]["ok"]


def test_what_is_missing_comes_with_the_command_that_brings_it(icf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = icf("doctor")
    assert found.status == 0  # another engine can run
    assert any(line.startswith("ort: ") and "pip install 'icf-deploy[cpu]'" in line for line in found.out.splitlines())


def test_where_no_engine_can_run_the_status_is_5(icf, monkeypatch: pytest.MonkeyPatch) -> None:
    from icf_deploy.runtimes import registry
    from icf_deploy.runtimes.base import Availability

    class Absent:
        name = "ort"

        def available(self) -> Availability:
            return Availability(False, reason="it is not installed", install="pip install it")

    monkeypatch.setattr(registry, "get", lambda _: Absent())
    found = icf("doctor")
    assert found.status == 5
    assert "ort: it is not installed; pip install it" in found.out


def test_a_damaged_shipped_bundle_is_said_and_has_status_6(icf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from icf_deploy.bundle import opening

    opened = opening.open_bundle
    monkeypatch.setattr(opening, "open_bundle", lambda path=None: opened(tmp_path / "none.icf"))
    found = icf("doctor")
    assert found.status == 6
    assert "shipped bundle: there is no bundle" in found.out
