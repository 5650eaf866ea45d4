"""fp8 runs on GPUs from Ada on; everybody else says so and takes nothing."""

from __future__ import annotations

import hashlib

import onnx
import pytest

from icf_deploy.errors import ArtefactError
from icf_deploy.export.precision.apply import apply_recipe
from icf_deploy.export.precision.calibration import Calibration
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.recipe import Recipe
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import Graph, Target

SIZE = (32, 32)
NEEDS = {"ort": "onnxruntime", "openvino": "openvino", "pytorch": "torch"}


@pytest.fixture(scope="module")
def graph(model: onnx.ModelProto, calibration: Calibration) -> Graph:
    """Every product in fp8."""
    applied = apply_recipe(model, Recipe("small", SIZE, network_digest(model), "fp8"), calibration)
    assert applied.label == "fp8+fp32"
    data = applied.model.SerializeToString()
    return Graph(data, hashlib.sha256(data).hexdigest(), SIZE, 1, applied.label, "small")


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_an_engine_that_would_not_execute_fp8_refuses_the_graph_with_exit_status_4(engine: str, graph: Graph) -> None:
    pytest.importorskip(NEEDS[engine])
    with pytest.raises(ArtefactError, match="would not execute fp8") as error:
        registry.get(engine).build(graph, Target("cpu"))
    assert error.value.exit_status == 4


def test_tensorrt_compiles_fp8_for_the_gpus_that_have_it_and_refuses_the_others(graph: Graph) -> None:
    pytest.importorskip("tensorrt_rtx")
    from icf_deploy.runtimes.trt import build_ahead
    from icf_deploy.runtimes.trt_plan import decode_plan

    with pytest.raises(ArtefactError, match="would not execute fp8 on sm86") as error:
        build_ahead(graph, ["rtx30"])
    assert error.value.exit_status == 4
    for target in ("rtx40", "rtx50"):
        plan = decode_plan(build_ahead(graph, [target])[target])
        assert plan.formats.get("fp8", 0) >= 5 and plan.recipe == "fp8+fp32"
