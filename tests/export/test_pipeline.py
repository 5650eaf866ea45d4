"""A checkpoint becomes a bundle that agrees with PyTorch, or nothing is written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from icf_deploy.bundle.store import Bundle, open_bundle
from icf_deploy.errors import CheckpointError, ParityError, UsageError, WorkError
from icf_deploy.export import export_bundle, pipeline
from icf_deploy.export.graph import example_gray, to_onnx
from icf_deploy.export.reference import PHOTO_FOLDER
from icf_deploy.network.checkpoint import save_checkpoint
from icf_deploy.network.presets import DDColorConfig, build_ddcolor, build_edge
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import Target
from icf_deploy.tuning.yardstick import own_photos

SMALL = DDColorConfig((1, 1, 2, 1), (16, 32, 64, 96), channels=64, queries=12, blocks=3, color_channels=64, hidden=96, heads=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_checkpoint(build_ddcolor(SMALL), tmp_path_factory.mktemp("small") / "small.safetensors")


@pytest.fixture(scope="module")
def bundle_path(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "small.icf"
    return export_bundle(checkpoint, path, size=(64, 96), with_checkpoint=True).path


def test_the_bundle_verifies_and_says_where_it_came_from(bundle_path: Path, checkpoint: Path) -> None:
    bundle = open_bundle(bundle_path)
    bundle.verify()
    manifest = bundle.manifest
    assert (manifest.preset, manifest.stride, manifest.size) == ("ddcolor-custom", 1, (64, 96))
    assert manifest.provenance.source is not None
    assert manifest.provenance.source.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert 0 < manifest.parity.max_abs_ab <= manifest.parity.bound == 1e-3
    assert manifest.parity.photos == len(bundle.reference().names) >= 8


def test_the_reference_photos_are_photos_and_the_batch_is_free(bundle_path: Path) -> None:
    bundle = open_bundle(bundle_path)
    reference = bundle.reference()
    assert reference.gray.std(axis=(1, 2, 3)).min() > 0.1
    runtime = registry.get("ort")
    with runtime.open(runtime.build(bundle.graph(), Target(threads=1))) as session:
        together = session.run(reference.gray)
    assert np.abs(together - reference.ab).max() < 1e-3


def test_the_graph_carries_nothing_of_this_machine(bundle_path: Path) -> None:
    data = open_bundle(bundle_path).graph().data
    for trace in (b"stack_trace", b"site-packages", b"/home/", str(Path.cwd()).encode(), b".py"):
        assert trace not in data, trace
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert any(entry.key == "pkg.torch.onnx.name_scopes" for node in model.graph.node for entry in node.metadata_props)


def test_every_weight_is_in_the_graph_once(bundle_path: Path) -> None:
    model = onnx.load_from_string(open_bundle(bundle_path).graph().data)
    large = [hashlib.sha256(t.raw_data).digest() for t in model.graph.initializer if len(t.raw_data) > 4096]
    assert len(large) > 20
    assert len(large) == len(set(large))


def test_equal_checkpoints_give_equal_graphs(checkpoint: Path, bundle_path: Path, tmp_path: Path) -> None:
    again = export_bundle(checkpoint, tmp_path / "again.icf", size=(64, 96))
    assert again.graph().sha256 == open_bundle(bundle_path).graph().sha256


def test_the_checkpoint_inside_runs_in_pytorch_and_agrees(bundle_path: Path) -> None:
    bundle = open_bundle(bundle_path)
    graph = bundle.checkpoint()
    assert graph is not None
    runtime = registry.get("pytorch")
    with runtime.open(runtime.build(graph, Target(threads=1))) as session:
        assert np.abs(session.run(bundle.reference().gray[:1]) - bundle.reference().ab[:1]).max() < 1e-3


def test_a_graph_that_disagrees_is_not_written(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is changed between the reference and the export, as a broken rewrite would change it."""
    real = to_onnx

    def broken(module: Any, inputs: Any) -> onnx.ModelProto:
        module.fusion.refine.bias.data += 0.01
        return real(module, inputs)

    monkeypatch.setattr(pipeline, "to_onnx", broken)
    with pytest.raises(ParityError, match=r"differs by 0\.01.*nothing was written"):
        export_bundle(checkpoint, tmp_path / "bad.icf", size=(64, 64), lowering=False)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "x.icf").mkdir()
    with pytest.raises(WorkError, match="--overwrite"):
        export_bundle(tmp_path / "not even there.pth", tmp_path / "x.icf")


@pytest.mark.parametrize("size", [(250, 256), (0, 256), (256, 8192)])
def test_an_impossible_size_is_a_usage_error(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        export_bundle(output=tmp_path / "x.icf", size=size)


def test_a_preset_without_shipped_weights_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="export FILE"):
        export_bundle("ddcolor-tiny")


def test_a_text_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("hello")
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        export_bundle(tmp_path / "a.pth", tmp_path / "x.icf")
    assert not (tmp_path / "x.icf").exists()


def test_export_leaves_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    network = build_edge().eval()
    gray = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        before = network(gray)
    to_onnx(network, (example_gray((64, 64)),))
    with torch.inference_mode():
        assert torch.equal(network(gray), before)


def test_lowering_is_recorded_and_makes_the_graph_cheaper(bundle_path: Path) -> None:
    entry = open_bundle(bundle_path).manifest.graphs[0]
    assert {"palette", "spectral-norm", "project-first"} <= set(entry.lowering.applied)
    plain = entry.measurements["plain"]
    assert isinstance(plain, dict)
    for figure in ("gmac", "nodes", "peak_activation_mb"):
        assert float(str(entry.measurements[figure])) < float(str(plain[figure])), figure


def test_split_writes_three_more_graphs_whose_composition_is_the_whole(checkpoint: Path, tmp_path: Path) -> None:
    import onnxruntime

    bundle = export_bundle(checkpoint, tmp_path / "split.icf", size=(64, 64), split=True, portable_ops=True)
    assert [graph.part for graph in bundle.manifest.graphs] == ["whole", "features", "palette", "paint"]
    steps = {
        part: onnxruntime.InferenceSession(bundle.graph(f"fp32-{part}").data, providers=["CPUExecutionProvider"])
        for part in ("features", "palette", "paint")
    }
    reference = bundle.reference()
    values: dict[str, Any] = {"gray": reference.gray[:2]}
    for session in steps.values():
        wanted = {entry.name: values[entry.name] for entry in session.get_inputs()}
        values |= dict(zip([entry.name for entry in session.get_outputs()], session.run(None, wanted), strict=True))
    assert np.abs(values["ab"] - reference.ab[:2]).max() < 1e-3


def test_without_lowering_the_graph_is_the_plain_one(checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_bundle(checkpoint, tmp_path / "plain.icf", size=(64, 64), lowering=False)
    assert bundle.manifest.graphs[0].lowering.applied == ()
    operators = {node.op_type for node in onnx.load_from_string(bundle.graph().data).graph.node}
    assert "Einsum" in operators  # a map per query, as the original computes it


def test_an_unknown_rewrite_is_a_usage_error_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="palette"):
        export_bundle(tmp_path / "not there.pth", tmp_path / "x.icf", keep=["palete"])


def test_a_narrow_bundle_holds_the_graph_of_its_precision_and_its_recipe_makes_it_again_beside_the_float32_one(
    checkpoint: Path, tmp_path: Path
) -> None:
    bundle = export_bundle(checkpoint, tmp_path / "narrow.icf", size=(64, 64), precision="bf16")
    (entry,) = bundle.manifest.graphs
    assert entry.name == "bf16" and "bf16" in entry.recipe
    cast = {onnx.helper.get_attribute_value(node.attribute[0]) for node in _nodes(bundle) if node.op_type == "Cast"}
    assert onnx.TensorProto.BFLOAT16 in cast
    assert set(entry.measurements["precision"]["formats"]) >= {"bf16"}
    with pytest.raises(UsageError, match="icf-deploy export --precision int8 --precision fp32"):
        own_photos(bundle, PHOTO_FOLDER)  # nothing in it is a reference on other photos
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(entry.measurements["precision"]["recipe"]))
    again = export_bundle(checkpoint, tmp_path / "again.icf", size=(64, 64), precision=[recipe, "fp32"])
    assert [graph.name for graph in again.manifest.graphs] == ["recipe", "fp32"]
    assert again.manifest.default_graph == "recipe"
    assert again.graph().sha256 == bundle.graph().sha256
    assert "graph fp32 on ort" in own_photos(again, PHOTO_FOLDER).reference_source


def _nodes(bundle: Bundle) -> list[onnx.NodeProto]:
    return list(onnx.load_from_string(bundle.graph().data).graph.node)
