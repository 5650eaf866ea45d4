"""LayerNorm weights go into the linear layers behind them, and stay where padding or a residual reads them too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from icf_deploy.export.lowering.lean_backbone import ChannelNorm, LeanConvNeXt
from icf_deploy.network.network import ColorizationNetwork


def _bare(network: ColorizationNetwork) -> int:
    """LayerNorms without weights."""
    norms = [layer for layer in network.modules() if isinstance(layer, ChannelNorm | nn.LayerNorm)]
    return sum(norm.weight is None for norm in norms)


def test_blocks_downsamplings_the_coarsest_skip_and_the_decoder_norm_are_folded(
    ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]
) -> None:
    lowered = applies_exactly(ddcolor, "spectral-norm", "layer-norm-affine").network
    assert _bare(lowered) == 5 + 3 + 1 + 1
    backbone = lowered.backbone
    assert isinstance(backbone, LeanConvNeXt)
    assert backbone.stem_norm.weight is not None  # a residual and a padded 7x7 read it
    assert [norm.weight is None for norm in backbone.norms] == [False, False, False, True]
    assert all(block.norm.weight is not None for block in lowered.color_decoder.transformer_ffn_layers)  # residual


def test_the_edge_family_has_one(edge: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    assert _bare(applies_exactly(edge, "layer-norm-affine").network) == 1


def test_a_downsampling_that_pads_keeps_its_norm(ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    padded = nn.Conv2d(16, 32, 4, stride=2, padding=1).double().requires_grad_(False)
    ddcolor.backbone.set_submodule("downsample_layers.1.1", padded)
    lowered = applies_exactly(ddcolor, "spectral-norm", "layer-norm-affine").network
    assert lowered.backbone.get_submodule("down_norms.0").weight is not None
    assert _bare(lowered) == 9


def test_a_subclass_that_pads_in_its_own_way_keeps_its_norm(
    ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]
) -> None:
    from torch import Tensor
    from torch.nn import functional

    class PaddedInForward(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(functional.pad(x, (1, 1, 1, 1)))

    layer = PaddedInForward(16, 32, 4, stride=2).double().requires_grad_(False)
    ddcolor.backbone.set_submodule("downsample_layers.1.1", layer)
    assert _bare(applies_exactly(ddcolor, "spectral-norm", "layer-norm-affine").network) == 9


def test_where_no_layer_norm_has_such_a_reader_it_says_so(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    edge.color_decoder.decoder_norm = nn.Tanh()
    leaves_alone(edge, "layer-norm-affine", reason="no LayerNorm stands before nothing but")
