"""A table of positions becomes one per axis, if it is their sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from icf_deploy.export.lowering.keys_on_map import FullTable
from icf_deploy.export.lowering.position_tables import AxisTables, separate_axes
from icf_deploy.export.lowering.rewrite import Context
from icf_deploy.network.network import ColorizationNetwork

CONTEXT = Context((64, 96), ((4, 6), (8, 12), (16, 24)))


@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_a_table_per_axis_is_exact(
    networks: dict[str, ColorizationNetwork], family: str, applies_exactly: Callable[..., Any]
) -> None:
    decoder = applies_exactly(networks[family], "keys-on-map", "position-tables").network.color_decoder
    for source in decoder.sources:
        assert isinstance(source.place, AxisTables)
        assert source.place.rows.shape[3] == source.place.columns.shape[2] == 1


def test_a_table_that_is_no_such_sum_is_left_alone(ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    lowered = applies_exactly(ddcolor, "keys-on-map").network
    place = lowered.color_decoder.sources[1].place
    assert isinstance(place, FullTable)
    place.table[0, 3, 2, 5] += 1e-9 * place.table.abs().max()
    result = separate_axes(lowered, CONTEXT)
    assert not result.applied
    assert "no sum of a row part and a column part" in result.reason
    assert all(isinstance(source.place, FullTable) for source in lowered.color_decoder.sources)


def test_without_tables_it_is_left_alone(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(edge, "position-tables", reason="no keys are made on a map with a table")


def test_no_constant_folder_can_add_the_two_tables_again(edge: ColorizationNetwork) -> None:
    """ONNX Runtime's own optimizer folds constants: what it leaves must still hold no table of a whole map."""
    import onnxruntime

    from icf_deploy.export.graph import example_gray, to_onnx
    from icf_deploy.export.lowering import lower

    lowered = lower(edge.float(), (256, 256)).network
    model = to_onnx(lowered, (example_gray((256, 256)),))
    largest_level = 128 * 32 * 32
    assert not [tensor.name for tensor in model.graph.initializer if torch.Size(tensor.dims).numel() == largest_level]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    import tempfile
    from pathlib import Path

    import onnx

    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath)
    assert not [tensor.name for tensor in optimized.graph.initializer if torch.Size(tensor.dims).numel() == largest_level]
