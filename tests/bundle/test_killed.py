"""Writers that are killed with SIGKILL at every step, and at random moments: what is left is the old bundle or the new one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("killed_writer.py")
LEFTOVER = re.compile(r"\.edge\.icf\.([0-9a-f]{8}\.(new|old)|lock)")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")


def killed(folder: Path, scenario: str) -> list[dict[str, Any]]:
    """What every writer of a scenario has left."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), scenario], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("scenario", ["new", "pack new"])
def test_a_new_bundle_is_there_as_a_whole_or_not_at_all(scenario: str, tmp_path: Path) -> None:
    left = killed(tmp_path, scenario)
    assert sum(found["killed"] for found in left) >= 20
    for found in left:
        assert found["whole"] == "new" or "there is no bundle" in found["error"], found
        assert all(LEFTOVER.fullmatch(name) for name in found["names"] if name != "edge.icf"), found
    assert {found["whole"] for found in left} == {None, "new"}
    assert left[-1] == {**left[-1], "killed": False, "whole": "new", "names": ["edge.icf"]}


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param("replace", marks=pytest.mark.skipif(sys.platform != "linux", reason="needs renameat2")),
        "pack replace",
        "timed replace",
    ],
)
def test_a_bundle_that_is_replaced_is_the_old_one_or_the_new_one_at_every_moment(scenario: str, tmp_path: Path) -> None:
    left = killed(tmp_path, scenario)
    assert sum(found["killed"] for found in left) >= 20
    for found in left:
        assert found["whole"] in ("old", "new"), found
        assert all(LEFTOVER.fullmatch(name) for name in found["names"] if name != "edge.icf"), found
    if "timed" not in scenario:
        assert {found["whole"] for found in left} == {"old", "new"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["edge.icf"]


def test_where_two_folders_cannot_be_exchanged_the_old_one_is_never_lost_and_its_place_is_said(tmp_path: Path) -> None:
    left = killed(tmp_path, "replace, two steps")
    assert sum(found["killed"] for found in left) >= 20
    assert {found["whole"] for found in left} == {"old", "new", None}
    for found in left:
        if found["whole"] is None:
            assert any(name.endswith(".old") for name in found["names"]), found
            assert re.search(r"was being replaced when that was interrupted. mv .*\.old .*edge\.icf", found["error"])
    assert left[-1] == {**left[-1], "killed": False, "whole": "new", "names": ["edge.icf"]}


@pytest.mark.parametrize("scenario", ["export replace", "timed export replace"])
def test_an_export_that_is_killed_leaves_the_old_bundle_or_the_new_one(scenario: str, tmp_path: Path) -> None:
    """At every step of its writing, the moving included; and at twenty random moments of all its work."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    left = killed(tmp_path, scenario)
    assert sum(found["killed"] for found in left) >= 20
    for found in left:
        assert found["whole"] in ("old", "ddcolor-custom"), found
        assert all(LEFTOVER.fullmatch(name) for name in found["names"] if name != "edge.icf"), found
    if "timed" not in scenario:
        assert {found["whole"] for found in left} == {"old", "ddcolor-custom"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["edge.icf"]
