"""As a person meets it: the command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

Statuses = dict[str, int]
ATTACKS: Statuses = {"swapped graph": 6, "zip bomb": 6, "link": 6, "newer format": 4, "nested": 6}


def attacked(attack: str, victim: Path) -> Path:
    manifest = victim / "manifest.json"
    if attack == "swapped graph":
        data = (victim / "graphs/fp32.onnx").read_bytes()
        (victim / "graphs/fp32.onnx").write_bytes(data[::-1])
    elif attack == "zip bomb":
        with zipfile.ZipFile(victim.with_name("bomb.icf"), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(manifest, "manifest.json")
            archive.writestr("graphs/fp32.onnx", bytes(50_000_000))
        return victim.with_name("bomb.icf")
    elif attack == "link":
        manifest.rename(victim.parent / "outside.json")
        manifest.symlink_to(victim.parent / "outside.json")
    elif attack == "newer format":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 7}))
    else:
        manifest.write_text("[" * 1_000_000)
    return victim


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
@pytest.mark.parametrize("attack", ATTACKS)
def test_one_line_the_right_status_and_no_output(attack: str, victim: Path, gray_photo: Path, tmp_path: Path) -> None:
    bundle = str(attacked(attack, victim))
    output = tmp_path / "coloured.png"
    for command in (["verify", bundle], ["colorize", str(gray_photo), "-o", str(output), "--bundle", bundle]):
        done = subprocess.run(
            [sys.executable, "-m", "icf_deploy.cli", *command], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == ATTACKS[attack], done.stderr
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("error: ")
        assert not output.exists()
