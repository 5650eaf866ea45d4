"""A bundle that works, to be turned into one that must be refused, and the check that it is refused everywhere.

Its graph is a formula, ab = (100 * gray, -100 * gray) averaged over 4 x 4, so that a test sees whose graph was run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from icf_deploy.bundle.manifest import Parity, Provenance
from icf_deploy.bundle.reference import ReferenceSet
from icf_deploy.bundle.store import NewEngine, NewGraph, write_bundle
from icf_deploy.cli import run

SIZE, STRIDE = (64, 96), 4
Refused = Callable[..., None]
Restate = Callable[..., None]


def model(gain: float) -> onnx.ModelProto:
    """gray -> ab = (gain * gray, -gain * gray), averaged over STRIDE x STRIDE."""
    weight = np.full((2, 1, STRIDE, STRIDE), gain / STRIDE**2, np.float32)
    weight[1] *= -1
    graph = helper.make_graph(
        [helper.make_node("Conv", ["gray", "weight"], ["ab"], strides=[STRIDE, STRIDE])],
        "formula",
        [helper.make_tensor_value_info("gray", TensorProto.FLOAT, ["N", 1, *SIZE])],
        [helper.make_tensor_value_info("ab", TensorProto.FLOAT, ["N", 2, SIZE[0] // STRIDE, SIZE[1] // STRIDE])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def models() -> Callable[[float], onnx.ModelProto]:
    return model


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory, photo: Callable[[str], npt.NDArray[np.uint8]]) -> Path:
    height, width = SIZE
    gray = photo("coffee")[None, None, :height, :width, 1].astype(np.float32) / np.float32(255)
    mean = gray.reshape(1, 1, height // STRIDE, STRIDE, width // STRIDE, STRIDE).mean(axis=(3, 5))
    return write_bundle(
        tmp_path_factory.mktemp("written") / "edge.icf",
        preset="icf-edge",
        stride=STRIDE,
        size=SIZE,
        graphs=[NewGraph("fp32", model(100).SerializeToString(), "fp32", SIZE)],
        reference=ReferenceSet(("coffee",), gray, np.concatenate([100 * mean, -100 * mean], axis=1).astype(np.float32)),
        parity=Parity(0.0, 1e-3, 1),
        provenance=Provenance("0", "0", "0", "3", "2026-01-01T00:00:00Z", None, "test"),
        checkpoint=(2).to_bytes(8, "little") + b"{}",
        engines=[NewEngine("fp32-sm86", b"machine code" * 100, "trt", "sm86", "tensorrt_rtx 1.7.1", "fp32")],
    ).path


@pytest.fixture
def victim(written: Path, tmp_path: Path) -> Path:
    """The folder of a bundle that works, in a folder of its own."""
    return Path(shutil.copytree(written, tmp_path / "in" / "edge.icf"))


@pytest.fixture
def restate() -> Restate:
    """restate(folder, {file: content}, change): write files, and a manifest that fits them: what an attacker would do."""

    def restated(
        folder: Path, files: dict[str, bytes] | None = None, change: Callable[[dict[str, Any]], object] | None = None
    ) -> None:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        for file, data in (files or {}).items():
            (folder / file).write_bytes(data)
            for entry in (*manifest["graphs"], manifest["reference"], manifest["checkpoint"], *manifest["engines"]):
                if entry["file"] == file:
                    entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if change is not None:
            change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return restated


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", "off")


@pytest.fixture
def gray_photo(tmp_path: Path, photo: Callable[[str], npt.NDArray[np.uint8]]) -> Path:
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo("astronaut")).convert("L").save(tmp_path / "photos" / "gray.png")
    return tmp_path / "photos" / "gray.png"


@pytest.fixture
def refused(tmp_path: Path, gray_photo: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """refused(bundle, message, status=6, opens=False): every command refuses it with one line, and nothing is written.

    opens: the bundle can be opened and run, and what is wrong with it is for `verify` to find.
    """

    def check(bundle: Path, message: str, *, status: int = 6, opens: bool = False) -> None:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        commands = [["verify", str(bundle)], ["inspect", str(bundle)], ["pack", str(bundle), "-o", str(out / "copy.icf")]]
        if not opens:
            commands.append(["colorize", str(gray_photo), "-o", str(out / "coloured.png"), "--bundle", str(bundle)])
        before = _everything(tmp_path)
        for command in commands:
            capsys.readouterr()
            found = run(command)
            printed = capsys.readouterr()
            assert found == status, (command[0], printed.err)
            assert printed.out == "", command[0]
            assert len(printed.err.splitlines()) == 1, printed.err
            assert printed.err.startswith("error: ")
            assert re.search(message, printed.err), printed.err
            assert _everything(tmp_path) == before, command[0]

    return check


def _everything(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every path below `folder`: its type, length, and when it was changed."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            facts = (Path(root) / name).lstat()
            found[str(Path(root) / name)] = (facts.st_mode, facts.st_size, facts.st_mtime_ns)
    return found
