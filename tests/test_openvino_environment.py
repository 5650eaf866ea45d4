"""A device that installs `icf-deploy[openvino]` alone: no ONNX Runtime, no torch, no onnx."""

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
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from icf_deploy.bundle.manifest import Parity, Provenance
from icf_deploy.bundle.packing import pack
from icf_deploy.bundle.reference import ReferenceSet
from icf_deploy.bundle.store import Bundle, NewGraph, write_bundle

ROOT = Path(__file__).resolve().parents[1]
SIZE = (64, 64)
pytestmark = pytest.mark.environment


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh virtual environment that holds the wheel and its extra `openvino`."""
    wheels = sorted((ROOT / "build" / "wheel").glob("icf_deploy-*.whl"))
    assert wheels, "no wheel: type `make wheel`"
    folder = tmp_path_factory.mktemp("device") / "venv"
    venv.create(folder, with_pip=True)
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    # pip must not take the unpacked wheel on PYTHONPATH for an installed one.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    install = ["-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), f"{wheels[-1]}[openvino]"]
    subprocess.run([str(binaries / "python"), *install], check=True, timeout=600, env=environment)
    return binaries


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, photo: Callable[[str], npt.NDArray[np.uint8]]) -> Bundle:
    """ab = (60 * gray, -60 * gray), in one file."""
    weight = np.array([60, -60], np.float32).reshape(2, 1, 1, 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["gray", "weight"], ["ab"])],
        "formula",
        [helper.make_tensor_value_info("gray", TensorProto.FLOAT, ["N", 1, *SIZE])],
        [helper.make_tensor_value_info("ab", TensorProto.FLOAT, ["N", 2, *SIZE])],
        [numpy_helper.from_array(weight, "weight")],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    gray = photo("coffee")[None, None, : SIZE[0], : SIZE[1], 1].astype(np.float32) / np.float32(255)
    folder = tmp_path_factory.mktemp("bundle")
    written = write_bundle(
        folder / "folder.icf",
        preset="icf-edge",
        stride=1,
        size=SIZE,
        graphs=[NewGraph("fp32", data, "fp32", SIZE)],
        reference=ReferenceSet(("coffee",), gray, np.concatenate([60 * gray, -60 * gray], axis=1)),
        parity=Parity(0.0, 1e-3, 1),
        provenance=Provenance("0", "0", "0", "3", "2026-01-01T00:00:00Z", None, "test"),
    )
    return pack(written, folder / "edge.icf")


def _run(device: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["ICF_DEPLOY_CACHE"] = str(cwd / "cache")
    return subprocess.run(
        [str(device / "icf-deploy"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
        check=False,
    )


def test_the_other_engines_are_not_there(device: Path) -> None:
    listed = subprocess.run([str(device / "python"), "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0].lower() for line in listed.splitlines()[2:]}
    assert "openvino" in names
    assert not names & {"onnxruntime", "onnxruntime-gpu", "torch", "onnx", "safetensors"}


def test_without_a_name_openvino_is_taken_and_colours_a_photo(
    device: Path, bundle: Bundle, tmp_path: Path, photo: Callable[[str], npt.NDArray[np.uint8]]
) -> None:
    Image.fromarray(photo("chelsea")).convert("L").save(tmp_path / "cat.png")
    done = _run(device, "colorize", "cat.png", "-o", "coloured.png", "--bundle", bundle.path, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["engine"] == "openvino"
    coloured = np.asarray(Image.open(tmp_path / "coloured.png"), np.int32)
    assert coloured.shape == photo("chelsea").shape
    assert (coloured[..., 0] - coloured[..., 1]).mean() > 20  # a is positive everywhere: red over green


def test_its_drift_to_the_reference_set_is_rounding(device: Path, bundle: Bundle, tmp_path: Path) -> None:
    budget = ("--budget", "de2000_p95_worst<=0.05")
    done = _run(device, "check", bundle.path, "--engine", "openvino", *budget, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (engine,) = json.loads(done.stdout)["engines"]
    assert engine["within_budget"] is True
    assert engine["formats"].keys() == {"fp32"}


def test_a_bundle_is_verified_and_unpacked_without_any_host_package(device: Path, bundle: Bundle, tmp_path: Path) -> None:
    done = _run(device, "verify", bundle.path, "--expect-digest", bundle.digest, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = _run(device, "pack", bundle.path, "--unpack", "-o", "folder.icf", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["digest"] == bundle.digest


def test_an_engine_that_is_not_there_never_becomes_openvino(device: Path, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    done = _run(device, "colorize", "x.png", "-o", "y.png", "--bundle", bundle.path, "--engine", "ort", cwd=tmp_path)
    assert done.returncode == 5
    assert "pip install 'icf-deploy[cpu]'" in done.stderr


def test_doctor_says_what_runs_and_what_is_missing(device: Path, tmp_path: Path) -> None:
    engines = {
        engine["name"]: engine for engine in json.loads(_run(device, "doctor", "--json", cwd=tmp_path).stdout)["engines"]
    }
    assert engines["openvino"]["ok"]
    assert "fp32" in engines["openvino"]["devices"]["cpu"]
    assert engines["ort"]["ok"] is False
    assert engines["ort"]["install"] == "pip install 'icf-deploy[cpu]'"
