"""`icf-deploy export --engine trt`: engines for GPUs that are elsewhere, put into a bundle."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from onnx import TensorProto

from icf_deploy.bundle.manifest import Parity, Provenance
from icf_deploy.bundle.reference import ReferenceSet
from icf_deploy.bundle.store import Bundle, NewEngine, NewGraph, open_bundle, write_bundle
from icf_deploy.cli import run
from icf_deploy.errors import ArtefactError
from icf_deploy.export import export_bundle
from icf_deploy.network.checkpoint import save_checkpoint
from icf_deploy.network.presets import build
from icf_deploy.runtimes.base import Graph
from icf_deploy.runtimes.trt_ahead import Step
from icf_deploy.runtimes.trt_plan import Plan, decode_plan

pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def two_graphs(small: Any, gray: npt.NDArray[np.float32], tmp_path: Path) -> Bundle:
    """A bundle with a graph in fp32, one in fp16, and one that is a part only."""
    codes = np.rint(gray * 255).astype(np.float32) / np.float32(255)
    return write_bundle(
        tmp_path / "two.icf",
        preset="small",
        stride=small.stride,
        size=small.size,
        graphs=[
            NewGraph("fp32", small.fp32(), "fp32", small.size),
            NewGraph("fp16", small.low(TensorProto.FLOAT16), "fp16", small.size),
            NewGraph("fp32-palette", small.fp32(), "fp32", small.size, part="palette"),
        ],
        reference=ReferenceSet(("a", "b", "c"), codes, small.network.expected(codes).astype(np.float32)),
        parity=Parity(0.0, 1e-3, 1),
        provenance=Provenance("0", "0", "0", "3", "2026-01-01T00:00:00Z", None, "test"),
        engines=[NewEngine("fp32-rtx40", b"an old one", "trt", "rtx40", "tensorrt_rtx 1.0", "fp32")],
    )


def test_engines_of_every_whole_graph_are_put_into_a_bundle_that_vouches_for_them(
    two_graphs: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = two_graphs.digest
    command = ["export", str(two_graphs.path), "--engine", "trt", "-o", str(tmp_path / "with.icf"), "--json"]
    assert run([*command, "--target", "rtx40,rtx50", "--target", "sm89,rtx40-tf32"]) == 0
    printed = capfd.readouterr()
    targets = ["rtx40", "rtx50", "rtx40-tf32"]  # sm89 is rtx40
    names = [f"{graph}-{target}" for graph in ("fp32", "fp16") for target in targets]
    assert printed.err.splitlines() == [
        f"compiling {name.partition('-')[0]} for {name.partition('-')[2]}, {number} of 6 ..."
        for number, name in enumerate(names, 1)
    ]
    bundle = open_bundle(tmp_path / "with.icf", trust_engines=True)
    assert json.loads(printed.out)["digest"] == bundle.digest != before
    assert [engine.name for engine in bundle.manifest.engines] == names
    assert set(bundle.verify()) >= {f"engines/{name}.engine" for name in names}
    for entry in bundle.engines("trt"):
        plan = decode_plan(bundle.engine(entry.name))
        assert plan.graph == bundle.graph(entry.graph).sha256
        assert entry.version == f"{plan.library} {plan.version}"
        assert entry.options["formats"] == dict(plan.formats)
    assert dict(bundle.manifest.engines[2].options)["formats"] == {"tf32": 2, "fp32": 1}
    assert two_graphs.digest == open_bundle(two_graphs.path).digest  # the one that it was made from is left alone


def test_engines_for_another_gpu_are_added_to_those_that_are_there(two_graphs: Bundle) -> None:
    place = str(two_graphs.path)
    for target in ("rtx30", "rtx50"):
        assert run(["export", place, "--engine", "trt", "--target", target, "--graph", "fp16", "-o", place, "--overwrite"]) == 0
    names = [engine.name for engine in open_bundle(place).manifest.engines]
    assert names == ["fp32-rtx40", "fp16-rtx30", "fp16-rtx50"]
    open_bundle(place).verify()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "rtx40,rtx99"], r"compiles for no GPU 'rtx99': choose of rtx20, rtx30"),
        (["--target", "rtx20", "--graph", "fp64"], r"two\.icf has no graph 'fp64': choose one of fp32, fp16"),
        (["--target", "rtx40", "--graph", "fp32-palette"], r"fp32-palette is the part palette"),
        (["--target", "rtx40", "--size", "64"], r"--size is for checkpoints, and .*two\.icf is a bundle"),
        (["--target", "rtx40", "--split"], r"--split is for checkpoints"),
        ([], r"--engine trt needs the GPUs to compile for: add --target"),
        (["--target", ","], r"--engine trt needs the GPUs to compile for: add --target"),
    ],
)
def test_what_cannot_be_compiled_is_said_in_one_line_and_nothing_is_written(
    two_graphs: Bundle, arguments: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(two_graphs.path), "--engine", "trt", "-o", str(tmp_path / "with.icf")]
    assert run([*command, *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and re.search(message, line), line
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["two.icf"]


def test_a_gpu_that_refuses_one_graph_is_named_with_it_and_nothing_is_written(
    two_graphs: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(graph: Graph, *_: object, **__: object) -> Plan:
        if graph.recipe == "fp16":
            return Plan("tensorrt_rtx", "1", "sm75", graph.sha256, graph.recipe, 4, {"fp16": 3}, b"code")
        raise ArtefactError("FP32 GEMM is not supported")

    monkeypatch.setattr("icf_deploy.runtimes.trt.compile_plan", refuse)
    command = ["export", str(two_graphs.path), "--engine", "trt", "--target", "rtx20", "-o", str(tmp_path / "with.icf")]
    assert run(command) == 4
    assert capfd.readouterr().err.splitlines()[-1] == "error: graph fp32 for rtx20: FP32 GEMM is not supported"
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["two.icf"]
    assert run([*command, "--graph", "fp16"]) == 0  # the way out


def test_without_tensorrt_for_rtx_the_command_that_brings_it_is_said_before_any_work(
    two_graphs: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    for source in ([], [str(two_graphs.path)]):  # the shipped checkpoint, and a bundle
        assert run(["export", *source, "--engine", "trt", "--target", "rtx40", "-o", str(tmp_path / "with.icf")]) == 5
        (line,) = capfd.readouterr().err.splitlines()
        assert "pip install 'icf-deploy[trt-rtx]'" in line
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["two.icf"]


def test_a_checkpoint_is_exported_with_engines_of_its_whole_graphs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = save_checkpoint(build("icf-edge"), tmp_path / "edge.safetensors")
    seen: list[Step] = []
    bundle = export_bundle(
        checkpoint, tmp_path / "edge.icf", size=(64, 64), lowering=False, targets=["rtx30", "rtx50"], compiling=seen.append
    )
    bundle.verify()
    assert [(engine.name, engine.target) for engine in bundle.manifest.engines] == [
        ("fp32-rtx30", "rtx30"),
        ("fp32-rtx50", "rtx50"),
    ]
    assert [(step.number, step.count) for step in seen if not step.phase] == [(1, 2), (2, 2)]
    assert any(step.phase and 0 < step.done <= step.steps for step in seen)
