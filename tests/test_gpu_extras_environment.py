"""The extras for NVIDIA's GPUs, each in an environment of its own, on a machine without one: they install, and say so."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from pathlib import Path

import pytest

from icf_deploy.runtimes.cuda import driver_present

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.environment,
    pytest.mark.skipif("ICF_TEST_GPU_EXTRAS" not in os.environ, reason="downloads large wheels: set ICF_TEST_GPU_EXTRAS=1"),
    pytest.mark.skipif(driver_present(), reason="there is a GPU here: scripts/gpu.py tests more than this"),
]


@pytest.fixture(scope="module", params=["gpu", "trt-rtx"])
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The extra, and the bin folder of a fresh virtual environment that holds the wheel with it."""
    wheels = sorted((ROOT / "build" / "wheel").glob("icf_deploy-*.whl"))
    assert wheels, "no wheel: type `make wheel`"
    folder = tmp_path_factory.mktemp("device") / "venv"
    venv.create(folder, with_pip=True)
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    # pip must not take the unpacked wheel on PYTHONPATH for an installed one.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    install = ["-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), f"{wheels[-1]}[{request.param}]"]
    subprocess.run([str(binaries / "python"), *install], check=True, timeout=600, env=environment)
    return request.param, binaries


def _run(binaries: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [str(binaries / "icf-deploy"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


def test_what_runs_and_what_is_missing_is_said(device: tuple[str, Path], tmp_path: Path) -> None:
    extra, binaries = device
    engines = {item["name"]: item for item in json.loads(_run(binaries, "doctor", "--json", cwd=tmp_path).stdout)["engines"]}
    if extra == "gpu":
        assert engines["ort"]["ok"]
        assert engines["ort"]["devices"]["cpu"] == ["fp32", "int8"]
        assert engines["ort"]["devices"]["cuda"] == []
        assert "CUDA" in engines["ort"]["idle"]["cuda"]
        assert not engines["trt"]["ok"]
    else:
        assert engines["trt"]["version"].startswith("tensorrt_rtx 1.")
        assert not engines["trt"]["ok"]
        assert "driver" in engines["trt"]["reason"]
        assert engines["ort"]["install"] == "pip install 'icf-deploy[cpu]'"


def test_an_engine_whose_gpu_is_not_there_never_becomes_another_one(device: tuple[str, Path], tmp_path: Path) -> None:
    extra, binaries = device
    engine, needs = {"gpu": ("ort:cuda", "CUDA"), "trt-rtx": ("trt", "driver")}[extra]
    (tmp_path / "photo.png").write_bytes(b"")  # nobody gets as far as to read it
    done = _run(binaries, "colorize", "photo.png", "-o", "out.png", "--engine", engine, cwd=tmp_path)
    assert done.returncode == 5
    (line,) = done.stderr.splitlines()  # the engine's own library says nothing beside it
    assert needs in line
    assert not (tmp_path / "out.png").exists()
