"""What `export --precision int8` writes compiles ahead for GPUs: mixed formats, learned rounding, corrected biases and all."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

pytest.importorskip("tensorrt_rtx")
SIZE = (64, 64)
# What choose_int8 leaves wide in the shipped icf-edge.
WIDE = ("stem.0", "blocks.0.layers.0", "blocks.0.layers.3", "blocks.1.layers.3", "blocks.1.layers.6")


def test_tensorrt_compiles_the_very_int8_file_that_the_cpu_engines_run(tmp_path: Path) -> None:
    from icf_deploy.export.graph import example_gray, to_onnx
    from icf_deploy.export.lowering import lower, lower_graph
    from icf_deploy.export.pipeline import export_bundle, open_source
    from icf_deploy.export.precision.identity import network_digest
    from icf_deploy.export.precision.recipe import Recipe
    from icf_deploy.runtimes.trt_plan import decode_plan

    model = lower_graph(to_onnx(lower(open_source(None).network, SIZE).network, (example_gray(SIZE),))).model
    nodes = {f"backbone.{path}/Conv": "fp32" for path in WIDE}
    recipe = Recipe("icf-edge", SIZE, network_digest(model), "int8", nodes=nodes)
    (tmp_path / "recipe.json").write_bytes(recipe.to_json())
    bundle = export_bundle(None, tmp_path / "x.icf", size=SIZE, precision=tmp_path / "recipe.json", targets=["rtx40"])
    (graph,), (engine,) = bundle.manifest.graphs, bundle.manifest.engines
    plan = decode_plan(bundle.content(engine))
    written = onnx.load_model_from_string(bundle.graph().data)
    products = sum(node.op_type == "DequantizeLinear" for node in written.graph.node if len(node.attribute))
    assert plan.graph == graph.sha256 and plan.recipe == graph.recipe == "int8+fp32"
    assert plan.formats["int8"] == products > 80
