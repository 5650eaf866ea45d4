"""A device that installs `icf-deploy[cpu]` alone: no torch, no onnx, and everything that it needs works."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.environment


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh virtual environment that holds the wheel and its extra `cpu`."""
    wheels = sorted((ROOT / "build" / "wheel").glob("icf_deploy-*.whl"))
    assert wheels, "no wheel: type `make wheel`"
    folder = tmp_path_factory.mktemp("device") / "venv"
    venv.create(folder, with_pip=True)
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    # pip must not take the unpacked wheel on PYTHONPATH for an installed one.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    install = ["-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), f"{wheels[-1]}[cpu]"]
    subprocess.run([str(binaries / "python"), *install], check=True, timeout=600, env=environment)
    return binaries


def _run(device: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(device / "icf-deploy"), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
        check=False,
    )


def test_the_frameworks_of_the_host_are_not_there(device: Path) -> None:
    listed = subprocess.run([str(device / "python"), "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0].lower() for line in listed.splitlines()[2:]}
    assert "onnxruntime" in names
    assert not names & {"torch", "onnx", "onnxscript", "safetensors", "openvino"}


def test_colorize_check_and_bench_work(device: Path, tmp_path: Path, photo: Callable[[str], npt.NDArray[np.uint8]]) -> None:
    Image.fromarray(photo("chelsea")).convert("L").save(tmp_path / "cat.png")
    done = _run(device, "colorize", "cat.png", "-o", "coloured.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    coloured = np.asarray(Image.open(tmp_path / "coloured.png"), np.int32)
    assert coloured.shape == photo("chelsea").shape
    assert (coloured.max(axis=2) - coloured.min(axis=2)).mean() > 5

    done = _run(device, "check", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)

    done = _run(device, "bench", "--engine", "ort", "--seconds", "0.2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


def test_asking_for_an_engine_that_is_not_there_says_what_to_install(device: Path, tmp_path: Path) -> None:
    done = _run(device, "check", "--engine", "openvino", cwd=tmp_path)
    assert done.returncode == 5
    assert "icf-deploy[openvino]" in done.stderr


def test_export_says_which_extra_it_needs(device: Path, tmp_path: Path) -> None:
    done = _run(device, "export", cwd=tmp_path)
    assert done.returncode == 5
    assert "icf-deploy[export]" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_runs_on_a_bare_device(device: Path, tmp_path: Path) -> None:
    done = _run(device, "doctor", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
