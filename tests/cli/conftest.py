"""Running command lines: in this process where the behaviour counts, in one of their own where the process does."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from icf_deploy.cli import run

# The tiny bundle is that of the benchmarks' tests.
_spec = importlib.util.spec_from_file_location("benchmark_fixtures", Path(__file__).parents[1] / "benchmarks/conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
gray, tiny_bundle, tiny_onnx, make_result = (
    _fixtures.gray,
    _fixtures.tiny_bundle,
    _fixtures.tiny_onnx,
    _fixtures.make_result,
)


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong; nothing else may be there."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


@pytest.fixture
def icf(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """icf("colorize", path, ...) -> Result, in this process."""

    def of(*arguments: str | Path) -> Result:
        capfd.readouterr()
        status = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return of


@pytest.fixture
def process() -> Callable[..., Result]:
    """The same in a process of its own."""

    def of(*arguments: str | Path, **options: Any) -> Result:
        found = subprocess.run(
            [sys.executable, "-m", "icf_deploy.cli", *map(str, arguments)],
            text=True,
            check=False,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        return Result(found.returncode, found.stdout or "", found.stderr)

    return of
