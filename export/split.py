"""The network's three steps as three graphs, whose composition is the whole.

    features:  gray [N,1,H,W]                       -> features [N,C,H/4,W/4], level_S [N,C_S,H/S,W/S] per attention level
    palette:   the levels                           -> palette [N,2,C]
    paint:     palette, features, gray              -> ab [N,2,h,w]

A level that is the features themselves (DDColor's finest) passes under that name and once. Features end before the last
upsampling, which `paint` owns, so nothing of full resolution with many channels passes between graphs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from icf_deploy.export.graph import INPUT_NAME, OUTPUT_NAME, example_gray, to_onnx
from icf_deploy.export.lowering import Outcome, check_names, lower, lower_graph
from icf_deploy.network.network import ColorizationNetwork

FEATURES, PALETTE, PAINT = "features", "palette", "paint"
STEPS = (FEATURES, PALETTE, PAINT)


class FeaturesStep(nn.Module):
    """gray -> features and the levels that are not the features themselves."""

    def __init__(self, network: ColorizationNetwork) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.image_decoder = network.image_decoder

    def forward(self, gray: Tensor) -> tuple[Tensor, ...]:
        """[N,1,H,W] -> [N,C,H/4,W/4] and levels, coarse to fine."""
        features, levels = self.image_decoder(self.backbone(gray))
        return (features, *(level for level in levels if level is not features))


class PaletteStep(nn.Module):
    """The three attention levels -> palette."""

    def __init__(self, network: ColorizationNetwork) -> None:
        super().__init__()
        self.color_decoder = network.color_decoder
        self.fusion = network.fusion

    def forward(self, coarse: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        """[N,C_l,h_l,w_l] three times -> [N,2,C]."""
        embeddings = self.color_decoder((coarse, middle, fine))
        palette: Tensor = self.fusion.palette(embeddings)  # type: ignore[operator]  # a module's method
        return palette


class PaintStep(nn.Module):
    """palette, features, gray -> ab."""

    def __init__(self, network: ColorizationNetwork) -> None:
        super().__init__()
        self.fusion = network.fusion

    def forward(self, palette: Tensor, features: Tensor, gray: Tensor) -> Tensor:
        """[N,2,C], [N,C,H/4,W/4], [N,1,H,W] -> [N,2,h,w]."""
        ab: Tensor = self.fusion.paint(palette, features, gray)  # type: ignore[operator]  # a module's method
        return ab


@dataclass(frozen=True)
class SplitGraphs:
    """graphs: by the names in STEPS. outcomes: what became of each rewrite of the network; empty without lowering.

    graph_outcomes: per step, what became of each rewrite of its graph.
    """

    graphs: Mapping[str, onnx.ModelProto]
    outcomes: tuple[Outcome, ...]
    graph_outcomes: Mapping[str, tuple[Outcome, ...]]


def split_graphs(
    network: ColorizationNetwork,
    size: tuple[int, int],
    *,
    lowering: bool = True,
    keep: Collection[str] = (),
    pieces: int | None = None,
) -> SplitGraphs:
    """Export the three steps for gray inputs of `size` (H, W). Arguments and errors as in `lower`.

    What passes between the steps has the same values with and without lowering, so a palette of one fits the other.
    """
    check_names(keep)
    outcomes: tuple[Outcome, ...] = ()
    if lowering:
        lowered = lower(network, size, keep=keep, split=True, pieces=pieces)
        network, outcomes = lowered.network, lowered.outcomes
    network.eval()
    gray = example_gray(size).to(next(network.parameters()).dtype)
    with torch.no_grad():
        features, levels = network.features(gray)
        palette = network.palette(levels)
    names = tuple(FEATURES if level is features else f"level_{size[0] // level.shape[-2]}" for level in levels)
    own_names = tuple(name for name in names if name != FEATURES)
    graphs = {
        FEATURES: to_onnx(FeaturesStep(network), (gray,), output_names=(FEATURES, *own_names)),
        PALETTE: to_onnx(PaletteStep(network), levels, input_names=names, output_names=(PALETTE,)),
        PAINT: to_onnx(
            PaintStep(network),
            (palette, features, gray),
            input_names=(PALETTE, FEATURES, INPUT_NAME),
            output_names=(OUTPUT_NAME,),
        ),
    }
    graph_outcomes: dict[str, tuple[Outcome, ...]] = {}
    if lowering:
        for name, graph in graphs.items():
            rewritten = lower_graph(graph, keep=keep)
            graphs[name], graph_outcomes[name] = rewritten.model, rewritten.outcomes
    return SplitGraphs(graphs, outcomes, graph_outcomes)
