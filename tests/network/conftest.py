"""Seeded checkpoints in the official DDColor layout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="session")
def ddcolor_tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `.pth` with the official tiny layout under `params`."""
    path = tmp_path_factory.mktemp("ddcolor") / "tiny.pth"
    maker, keys = DATA / "make_ddcolor_checkpoint.py", DATA / "ddcolor_tiny_keys.tsv"
    subprocess.run([sys.executable, str(maker), str(keys), str(path)], check=True, stdout=subprocess.DEVNULL)
    return path
