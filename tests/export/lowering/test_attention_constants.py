"""Constants cancel in keys, and come out of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from icf_deploy.network.color_decoder import ColorDecoder
from icf_deploy.network.network import ColorizationNetwork


@pytest.mark.parametrize("family", ["ddcolor", "edge"])
def test_no_key_value_or_projection_has_a_bias_left(
    networks: dict[str, ColorizationNetwork], family: str, applies_exactly: Callable[..., Any]
) -> None:
    """Level embeddings of ten units, so that one which is forgotten is seen."""
    network = networks[family]
    network.color_decoder.level_embed.weight.mul_(10)
    decoder = applies_exactly(network, "attention-constants").network.color_decoder
    for source in decoder.sources:
        layers = [source.project, *source.keys, *source.values]
        assert [layer.bias for layer in layers] == [None] * len(layers)
        assert source.level is None
    assert [block.among.key.bias for block in decoder.blocks] == [None] * len(decoder.blocks)
    assert [block.among.value.bias for block in decoder.blocks] == [None] * len(decoder.blocks)


def test_a_projection_with_an_activation_is_left_alone(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    project = edge.color_decoder.get_submodule("input_proj.1")
    edge.color_decoder.set_submodule("input_proj.1", nn.Sequential(project, nn.ReLU()))
    leaves_alone(edge, "attention-constants", reason="not known to put its keys into a softmax")


def test_another_decoder_is_left_alone(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    class OtherDecoder(ColorDecoder):
        """Might do anything."""

    edge.color_decoder.__class__ = OtherDecoder
    leaves_alone(edge, "attention-constants", reason="not known")
