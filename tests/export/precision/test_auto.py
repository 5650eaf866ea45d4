"""`--precision auto` end to end on a small network: real drift on real engines, latency from a stand-in for `compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from icf_deploy.bundle.sensitivity import Point, Sensitivity
from icf_deploy.errors import EngineUnavailableError, UsageError
from icf_deploy.export import pipeline
from icf_deploy.export.precision import auto, measuring
from icf_deploy.export.precision import narrow as narrow_module
from icf_deploy.export.precision.apply import apply_recipe
from icf_deploy.export.precision.auto import BUDGETS, Front, find_front, require_engines
from icf_deploy.export.precision.blocks import BLOCKS
from icf_deploy.export.precision.calibrating import Calibrating
from icf_deploy.export.precision.calibration import Calibration, tensor_keys
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.ledger import Ledger, ledger_for
from icf_deploy.export.precision.nodes import node_keys
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.export.precision.trained import TrainedInt8
from icf_deploy.network.checkpoint import save_checkpoint
from icf_deploy.network.presets import DDColorConfig, build_ddcolor

SIZE = (32, 32)
GAIN = {"Conv": 1.0, "MatMul": 0.1}  # milliseconds that int8 saves, of 10


class Machine:
    """Stands for `compare`: what int8 saves depends on the operator. factor: of what it saves; below 0 it costs."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.timed = 0

    def compare(self, rows: Sequence[Any], **_: Any) -> Any:
        times = {row.label: self._milliseconds(row.file) for row in rows}
        self.timed += len(rows) - 1
        ratios = {label: time / times[rows[0].label] for label, time in times.items()}
        return SimpleNamespace(
            interrupted=False,
            row=lambda label: SimpleNamespace(error=None, samples=np.full(9, times[label] * 1e6)),
            ratio=lambda label: SimpleNamespace(ratio=ratios[label], low=ratios[label] - 0.01, high=ratios[label] + 0.01),
        )

    def _milliseconds(self, file: Path) -> float:
        graph = onnx.load(file).graph
        makers = {output: node.op_type for node in graph.node for output in node.output}
        narrow = [
            node.op_type for node in graph.node if len(node.input) > 1 and makers.get(node.input[1]) == "DequantizeLinear"
        ]
        return 10 - self.factor * sum(GAIN[operator] for operator in narrow if operator in GAIN)


def run(model: onnx.ModelProto, machine: Machine, patch: pytest.MonkeyPatch, ledger: Ledger | None = None) -> Front:
    patch.setattr(measuring, "compare", machine.compare)
    found = ledger if ledger is not None else Ledger(None)
    return find_front(model, preset="icf-edge", size=SIZE, stride=1, engines=["ort"], ledger=found)


def test_the_front_has_int8_and_what_is_faster_inside_each_budget(model: onnx.ModelProto) -> None:
    with pytest.MonkeyPatch.context() as patch:
        front = run(model, Machine(), patch)
    names = list(front.graphs)
    assert names[0] == "int8" and set(names) <= {"int8", *(f"ort-{budget:g}" for budget in BUDGETS)}
    table = front.sensitivity
    for name, graph in front.graphs.items():
        point = table.point(name)
        assert point is not None and point.on("ort:cpu") is not None
        assert graph.facts["recipe"]
        onnx.checker.check_model(graph.applied.model)
    fp32 = table.point("fp32")
    assert fp32 is not None and fp32.runs[0].de2000_p95 == 0 and set(fp32.blocks.values()) == {"fp32"}


def test_every_block_is_in_the_table_with_its_drift_and_its_gain(model: onnx.ModelProto) -> None:
    with pytest.MonkeyPatch.context() as patch:
        table = run(model, Machine(), patch).sensitivity
    blocks = {part.name: part for part in table.blocks if part.format == "int8"}
    assert set(blocks) == {"backbone.0", "image_decoder.coarse", "color_decoder", "fusion"}
    assert [part.de2000_p95 for part in table.blocks] == sorted((part.de2000_p95 for part in table.blocks), reverse=True)
    for part in blocks.values():
        assert part.de2000_p95 > 0
        for gain in part.gains:
            expected = 9.8 if part.name == "color_decoder" else 9.0
            assert gain.engine == "ort:cpu" and gain.milliseconds == pytest.approx(expected)
    assert all(part.block in blocks for part in table.nodes)


def test_where_int8_is_slower_no_graph_is_added_for_it(model: onnx.ModelProto) -> None:
    with pytest.MonkeyPatch.context() as patch:
        front = run(model, Machine(factor=-1), patch)
    assert list(front.graphs) == ["int8"]
    assert all(run.milliseconds is None or run.milliseconds >= 10 for point in front.sensitivity.points for run in point.runs)


def test_a_second_export_measures_nothing_and_gives_the_same(model: onnx.ModelProto, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        first, second = Machine(), Machine()
        front = run(model, first, patch, ledger_for("it", folder=tmp_path))
        again = run(model, second, patch, ledger_for("it", folder=tmp_path))
    assert first.timed > 0 and second.timed == 0
    assert again.sensitivity == front.sensitivity
    assert {name: graph.recipe for name, graph in again.graphs.items()} == {n: g.recipe for n, g in front.graphs.items()}


def test_an_interruption_says_that_the_same_command_goes_on(model: onnx.ModelProto, tmp_path: Path) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(interrupted=True)

    said: list[str] = []
    ledger = ledger_for("it", folder=tmp_path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(measuring, "compare", interrupted)
        find_front(model, preset="icf-edge", size=SIZE, stride=1, engines=["ort"], ledger=ledger, say=said.append)
    assert said[-1] == "what was measured is kept: the same command goes on from here."
    assert len(ledger_for("it", folder=tmp_path)) == len(ledger) > 0


def test_what_train_qat_left_is_taken_as_the_int8_of_every_graph(
    model: onnx.ModelProto, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measuring, "compare", Machine().compare)
    key, wide = "color_decoder.0/MatMul", "backbone.stem/Conv"
    graph = ir.from_proto(model).graph
    product = next(node for node, name in node_keys(graph).items() if name == key)
    read = tensor_keys(graph)[product.inputs[0]]
    weight = calibration.weights[key]
    codes = np.clip(weight.codes.astype(np.int64) + 1, -127, 127).astype(np.int8)
    trained = TrainedInt8(SIZE, {read: 1.25}, {key: replace(weight, codes=codes)}, (wide,))
    said: list[str] = []
    front = find_front(
        model,
        preset="icf-edge",
        size=SIZE,
        stride=1,
        engines=["ort"],
        ledger=Ledger(None),
        calibrating=Calibrating(model, SIZE, trained=trained, say=said.append),
    )
    int8 = front.graphs["int8"]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in int8.applied.model.graph.initializer}
    assert any(np.array_equal(value, codes) for value in constants.values() if value.dtype == np.int8)
    assert any(value.shape == () and np.isclose(value, 1.25 / 127) for value in constants.values())
    assert int8.recipe.nodes[wide] == "fp32" and int8.recipe.reasons[wide] == "train --qat left it wide"
    assert int8.facts["trained"] == {"size": list(SIZE), "products": 1}
    assert "int8 as train --qat left it in the checkpoint" in said


def test_engines_that_cannot_be_searched_on_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--engine pytorch runs checkpoints"):
        require_engines(["pytorch"])
    with pytest.raises(UsageError, match=r"no engine 'orth'.*Did you mean ort"):
        require_engines(["orth"])
    assert require_engines(["ort", "ort:cpu"]) == ("ort:cpu",)
    here = require_engines([])
    assert "ort:cpu" in here and "pytorch:cpu" not in here
    monkeypatch.setattr(auto, "_here", lambda: iter(()))
    with pytest.raises(EngineUnavailableError, match="pip install"):
        require_engines([])


def test_the_front_and_its_evidence_go_into_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def found(model: onnx.ModelProto, **options: Any) -> Front:
        asked.update(options)
        recipe = Recipe(options["preset"], options["size"], network_digest(model), "bf16")
        graph = narrow_module.NarrowGraph(apply_recipe(model, recipe), recipe, {"chosen_for": {"engine": "openvino:cpu"}})
        point = Point("openvino-1", dict.fromkeys(BLOCKS, "bf16"))
        return Front({"openvino-1": graph}, Sensitivity(recipe.preset, SIZE, recipe.digest, "", 1, "", (), (point,)))

    monkeypatch.setattr(pipeline, "find_front", found)
    torch.manual_seed(0)
    small = DDColorConfig(
        (1, 1, 1, 1), (16, 16, 32, 32), channels=32, queries=8, blocks=3, color_channels=32, hidden=32, heads=2
    )
    checkpoint = save_checkpoint(build_ddcolor(small), tmp_path / "small.safetensors")
    bundle = pipeline.export_bundle(checkpoint, tmp_path / "x.icf", size=SIZE, precision="auto", search_on=["ort"])
    assert (asked["engines"], asked["size"], asked["weight_bits"]) == (("ort",), SIZE, 8)
    assert bundle.verify()[-1] == "sensitivity.json"
    assert [(graph.name, graph.recipe) for graph in bundle.manifest.graphs] == [("fp32", "fp32"), ("openvino-1", "bf16")]
    assert bundle.manifest.default_graph == "fp32"
    table = bundle.sensitivity()
    assert table is not None and table.point("openvino-1") is not None
