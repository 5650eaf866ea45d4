"""The published layout at full width, against what the original implementation computes."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from icf_deploy.export.graph import example_gray, to_onnx
from icf_deploy.export.lowering import Lowered, lower, lower_graph
from icf_deploy.export.statistics import statistics
from icf_deploy.network.checkpoint import load_checkpoint
from icf_deploy.network.network import ColorizationNetwork

DATA = Path(__file__).resolve().parents[2] / "data"
SIZE = (256, 256)
FLOAT32 = 1e-4  # of the output's standard deviation, through ONNX Runtime
EXACT = 1e-10  # the same, in float64


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> ColorizationNetwork:
    """Seeded weights in the official layout."""
    path = tmp_path_factory.mktemp("ddcolor") / "tiny.pth"
    maker, keys = DATA / "make_ddcolor_checkpoint.py", DATA / "ddcolor_tiny_keys.tsv"
    subprocess.run([sys.executable, str(maker), str(keys), str(path)], check=True, stdout=subprocess.DEVNULL)
    return load_checkpoint(path)


@pytest.fixture(scope="module")
def lowered(network: ColorizationNetwork) -> Lowered:
    return lower(network, SIZE)


@pytest.fixture(scope="module")
def graph(lowered: Lowered) -> onnx.ModelProto:
    return lower_graph(to_onnx(lowered.network, (example_gray(SIZE),))).model


def test_every_rewrite_applies(lowered: Lowered) -> None:
    assert [outcome.name for outcome in lowered.outcomes if not outcome.applied] == []
    reasons = {outcome.name: outcome.reason for outcome in lowered.outcomes}
    assert reasons["split-expansion"] == "16 pieces of 256 channels"
    assert reasons["level-projection"] == "1 of 3 levels"
    assert reasons["layer-norm-affine"] == "23 LayerNorms"


def test_in_float64_it_is_the_same_function(network: ColorizationNetwork, gray: Callable[[tuple[int, int]], Tensor]) -> None:
    double = copy.deepcopy(network).double()
    size = (64, 96)
    with torch.no_grad():
        expected, found = double(gray(size)), lower(double, size).network(gray(size))
    assert (found - expected).abs().max() <= EXACT * expected.std()


def test_the_graph_agrees_with_the_original_implementation(graph: onnx.ModelProto) -> None:
    reference = np.load(DATA / "ddcolor_tiny_reference.npz")
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    ab = session.run(None, {"gray": reference["gray_a"][None, None]})[0][0]
    assert np.abs(ab - reference["ab_a"]).max() <= FLOAT32 * reference["ab_a"].std()


def test_it_costs_less_and_the_plain_graph_costs_what_the_architecture_says(
    network: ColorizationNetwork, graph: onnx.ModelProto
) -> None:
    """25.15 GMAC at 256 were counted on the original implementation."""
    plain, found = statistics(to_onnx(network, (example_gray(SIZE),))), statistics(graph)
    assert plain.gmac == pytest.approx(25.15, abs=0.005)
    assert found.gmac < 0.93 * plain.gmac
    assert found.bytes < plain.bytes
    assert found.nodes < 0.7 * plain.nodes
    assert found.peak_bytes < 0.35 * plain.peak_bytes
