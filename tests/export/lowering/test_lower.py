"""All rewrites together, any of them left out, and what `lower` promises about its input."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from icf_deploy.errors import UsageError
from icf_deploy.export.graph import example_gray, to_onnx
from icf_deploy.export.lowering import GRAPH_REWRITES, NETWORK_REWRITES, REWRITES, lower, lower_graph
from icf_deploy.network.network import ColorizationNetwork

EXACT = 1e-10  # of the output's standard deviation, in float64
FLOAT32 = 1e-4  # the same, in float32 through ONNX Runtime
SIZES = ((64, 64), (64, 96))
NAMES = [rewrite.name for rewrite in NETWORK_REWRITES]
NOT_FOR_EDGE = {
    "unused-norm",
    "spectral-norm",
    "skip-norm",
    "layer-scale",
    "palette",
    "batch-norm-forward",
    "skip-relu",
    "layer-norm-op",
    "split-expansion",
}
Difference = Callable[..., float]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_the_lowered_network_is_the_same_function(
    networks: dict[str, ColorizationNetwork], family: str, size: tuple[int, int], difference: Difference
) -> None:
    network = networks[family]
    lowered = lower(network, size, pieces=4 if family == "ddcolor" else None)
    assert [outcome.name for outcome in lowered.outcomes] == NAMES
    skipped = {outcome.name for outcome in lowered.outcomes if not outcome.applied}
    assert skipped == (NOT_FOR_EDGE if family == "edge" else set())
    assert all(outcome.reason for outcome in lowered.outcomes)
    assert difference(lowered.network, network, size) <= EXACT


@pytest.mark.parametrize("family", ["ddcolor", "edge"])
@pytest.mark.parametrize("seed", range(12))
def test_any_choice_of_rewrites_is_the_same_function(
    networks: dict[str, ColorizationNetwork], family: str, seed: int, difference: Difference
) -> None:
    """Rewrites build on each other; none may rely on one that was left out."""
    draw = random.Random(seed)
    keep = [name for name in NAMES if draw.random() < draw.choice((0.1, 0.5))]
    lowered = lower(networks[family], (64, 96), keep=keep, split=draw.random() < 0.3, pieces=draw.choice((1, 2, 16)))
    kept = {outcome.name for outcome in lowered.outcomes if outcome.reason == "kept as it is, as asked"}
    assert kept == set(keep)
    assert difference(lowered.network, networks[family], (64, 96)) <= EXACT, keep


@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_the_steps_compose_to_the_whole(
    networks: dict[str, ColorizationNetwork], family: str, gray: Callable[[tuple[int, int]], Tensor]
) -> None:
    lowered = lower(networks[family], (64, 96)).network
    with torch.no_grad():
        features, levels = lowered.features(gray((64, 96)))
        ab = lowered.paint(lowered.palette(levels), features, gray((64, 96)))
        assert torch.equal(ab, lowered(gray((64, 96))))


@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_the_network_itself_is_left_alone(networks: dict[str, ColorizationNetwork], family: str) -> None:
    network = networks[family]
    network.train()
    before, modules = copy.deepcopy(network.state_dict()), [type(module) for module in network.modules()]
    lower(network, (64, 64))
    assert network.training
    assert [type(module) for module in network.modules()] == modules
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_weights_are_folded_in_float64_and_rounded_once(ddcolor: ColorizationNetwork) -> None:
    """float32 in: each lowered weight is the float32 nearest to the one that float64 gives."""
    single = copy.deepcopy(ddcolor).float()
    exact = lower(copy.deepcopy(single).double(), (64, 64)).network.state_dict()
    rounded = lower(single, (64, 64)).network
    assert {value.dtype for value in rounded.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert all(torch.equal(value, exact[name].float()) for name, value in rounded.state_dict().items())
    assert not rounded.training
    assert not any(parameter.requires_grad for parameter in rounded.parameters())


def test_an_unknown_name_is_refused_and_the_names_are_listed(edge: ColorizationNetwork) -> None:
    with pytest.raises(UsageError, match=r"no rewrite is called 'pallete'; there are .*palette.*blur-padding"):
        lower(edge, (64, 64), keep=["pallete"])


def test_names_of_either_kind_are_accepted_by_both(edge: ColorizationNetwork) -> None:
    assert tuple(rewrite.name for rewrite in (*NETWORK_REWRITES, *GRAPH_REWRITES)) == REWRITES
    assert len(set(REWRITES)) == len(REWRITES)
    lower(edge, (32, 32), keep=[GRAPH_REWRITES[0].name])


@pytest.mark.parametrize("size", [(64, 65), (0, 64), (-32, 64)])
def test_a_size_that_no_network_takes_is_refused(edge: ColorizationNetwork, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        lower(edge, size)


def test_an_unknown_name_is_refused_for_a_graph_too() -> None:
    with pytest.raises(UsageError, match="no rewrite is called 'x'"):
        lower_graph(onnx.ModelProto(), keep=["x"])


@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_in_onnx_runtime_it_agrees_on_photos(
    networks: dict[str, ColorizationNetwork], family: str, gray: Callable[[tuple[int, int]], Tensor]
) -> None:
    """Lowered, exported, lowered as a graph, in float32, against the network in float64."""
    size = (96, 64)
    with torch.no_grad():
        expected = networks[family](gray(size)).numpy()
    lowered = lower(networks[family].float(), size, pieces=4 if family == "ddcolor" else None).network
    exported = to_onnx(lowered, (example_gray(size),))
    found = lower_graph(exported)
    onnx.checker.check_model(found.model, full_check=True)
    assert {outcome.name: outcome.applied for outcome in found.outcomes} == dict.fromkeys(
        ("transpose-chains", "blur-padding"), family == "ddcolor"
    )
    assert "Pad" not in {node.op_type for node in found.model.graph.node}  # the backbone's is inside its convolutions
    session = onnxruntime.InferenceSession(found.model.SerializeToString(), providers=["CPUExecutionProvider"])
    ab = session.run(None, {"gray": gray(size).float().numpy()})[0]
    assert np.abs(ab - expected).max() <= FLOAT32 * expected.std()


def test_equal_networks_give_equal_graphs(edge: ColorizationNetwork) -> None:
    def exported() -> bytes:
        lowered = lower(edge.float(), (64, 64)).network
        return lower_graph(to_onnx(lowered, (example_gray((64, 64)),))).model.SerializeToString(deterministic=True)

    assert exported() == exported()
