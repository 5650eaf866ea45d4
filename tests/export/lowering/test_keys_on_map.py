"""Keys as convolutions of the map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from icf_deploy.network.network import ColorizationNetwork


@pytest.mark.parametrize("before", [(), ("attention-constants",), ("spectral-norm", "palette", "batch-norm-forward")])
@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_both_families(
    networks: dict[str, ColorizationNetwork], family: str, before: tuple[str, ...], applies_exactly: Callable[..., Any]
) -> None:
    """With and without biases on keys, values and projections."""
    decoder = applies_exactly(networks[family], *before, "keys-on-map").network.color_decoder
    blocks = {"ddcolor": [2, 1, 1], "edge": [1, 1, 1]}[family]
    assert [len(source.keys) for source in decoder.sources] == blocks
    assert all(isinstance(key, nn.Conv2d) for source in decoder.sources for key in source.keys)


def test_a_projection_with_an_activation_is_left_alone(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    project = edge.color_decoder.get_submodule("input_proj.0")
    edge.color_decoder.set_submodule("input_proj.0", nn.Sequential(project, nn.ReLU()))
    leaves_alone(edge, "keys-on-map", reason="not known to make its keys from tokens plus position")
