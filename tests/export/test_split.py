"""Three graphs whose composition is the whole, and whose boundaries mean the same with and without lowering."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from icf_deploy.errors import UsageError
from icf_deploy.export.split import STEPS, SplitGraphs, split_graphs
from icf_deploy.export.statistics import statistics
from icf_deploy.network.network import ColorizationNetwork

SIZE = (64, 96)
FLOAT32 = 1e-4  # of a tensor's standard deviation, between PyTorch and ONNX Runtime
LEVELS = {"ddcolor": ("level_16", "level_8", "features"), "edge": ("level_32", "level_16", "level_8")}
Arrays = dict[str, np.ndarray]


def _run(model: onnx.ModelProto, values: Arrays) -> Arrays:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {i.name: values[i.name] for i in session.get_inputs()}), strict=True))


def _compose(split: SplitGraphs, gray: np.ndarray) -> Arrays:
    values = {"gray": gray}
    for step in STEPS:
        values |= _run(split.graphs[step], values)
    return values


@pytest.fixture
def expected(networks: dict[str, ColorizationNetwork], gray: Callable[[tuple[int, int]], Tensor]) -> dict[str, Arrays]:
    """Per family, what PyTorch gives in float64."""
    found: dict[str, Arrays] = {}
    for family, network in networks.items():
        with torch.no_grad():
            features, levels = network.features(gray(SIZE))
            tensors = {"features": features, **dict(zip(LEVELS[family], levels, strict=True))}
            tensors |= {"palette": network.palette(levels), "ab": network(gray(SIZE))}
        found[family] = {name: tensor.numpy() for name, tensor in tensors.items()}
    return found


@pytest.mark.parametrize("lowering", [True, False], ids=["lowered", "plain"])
@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_every_boundary_and_the_result_are_the_networks_own(
    networks: dict[str, ColorizationNetwork],
    family: str,
    lowering: bool,
    expected: dict[str, Arrays],
    gray: Callable[[tuple[int, int]], Tensor],
) -> None:
    """So a palette of a plain graph fits a lowered one. The batch is free: 2 here, while the example had another size."""
    split = split_graphs(networks[family].float(), SIZE, lowering=lowering)
    found = _compose(split, gray(SIZE).float().numpy())
    assert set(found) == {"gray", *expected[family]}
    for name, wanted in expected[family].items():
        assert np.abs(found[name] - wanted).max() <= FLOAT32 * wanted.std(), name
    assert bool(split.outcomes) == lowering
    assert set(split.graph_outcomes) == (set(STEPS) if lowering else set())


@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_each_graph_takes_and_gives_what_its_neighbours_give_and_take(
    networks: dict[str, ColorizationNetwork], family: str
) -> None:
    graphs = split_graphs(networks[family].float(), SIZE).graphs
    names = {step: ([v.name for v in graphs[step].graph.input], [v.name for v in graphs[step].graph.output]) for step in STEPS}
    levels = LEVELS[family]
    passed = ["features", *(name for name in levels if name != "features")]
    assert names["features"] == (["gray"], passed)
    assert names["palette"] == (list(levels), ["palette"])
    assert names["paint"] == (["palette", "features", "gray"], ["ab"])
    for graph in graphs.values():
        onnx.checker.check_model(graph, full_check=True)


def test_nothing_wide_of_full_resolution_is_left(ddcolor: ColorizationNetwork) -> None:
    """Features end before the last upsampling, and what `paint` holds at H x W has two channels."""
    single = ddcolor.float()
    plain, lowered = (split_graphs(single, SIZE, lowering=lowering, pieces=16).graphs for lowering in (False, True))
    pixels = SIZE[0] * SIZE[1]
    features, *_ = lowered["features"].graph.output
    assert [dim.dim_value for dim in features.type.tensor_type.shape.dim][1:] == [32, SIZE[0] // 4, SIZE[1] // 4]
    assert statistics(plain["paint"]).largest.bytes >= 4 * 32 * pixels
    assert statistics(lowered["paint"]).largest.bytes == 4 * 2 * pixels


def test_weights_are_in_one_graph_each(edge: ColorizationNetwork) -> None:
    graphs = split_graphs(edge.float(), SIZE).graphs
    whole = sum(parameter.numel() for parameter in edge.parameters())
    assert sum(statistics(graph).parameters for graph in graphs.values()) <= whole


def test_an_unknown_name_to_keep_is_refused(edge: ColorizationNetwork) -> None:
    with pytest.raises(UsageError, match="no rewrite is called 'x'"):
        split_graphs(edge, SIZE, lowering=False, keep=["x"])
