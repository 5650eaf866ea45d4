"""Fold a level's input projection into its key and value products where that saves work.

1. Wk (P x + p) = (Wk P) x + Wk p, and so for values; a bias of the projection is moved the same way.
2. Positions that were added between the two, once for all blocks, are added behind: a table Wk pos per block.

Precondition: the keys of the level are made on its map (`keys-on-map`), nothing but the positions stands between, and
(K + V) C_l multiplications per pixel are fewer than C C_l + (K + V) C.
Saves: that difference. It holds for DDColor's finest level and all of `icf-edge`'s.
"""

from __future__ import annotations

from torch import Tensor, nn

from icf_deploy.export.lowering.affine import linear, pointwise
from icf_deploy.export.lowering.keys_on_map import FullTable, MapSource, map_sources
from icf_deploy.export.lowering.position_tables import AxisTables
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.network import ColorizationNetwork


def fold_level_projection(network: ColorizationNetwork, _: Context) -> Result:
    """Fold the projection of every level where it saves."""
    sources = map_sources(network)
    if not sources:
        return skipped("no level's keys are made on its map")
    fitting = [source for source in sources if _saves(source)]
    if not fitting:
        return skipped("folding would cost more multiplications than the projections")
    for source in fitting:
        _fold(source)
    return applied(f"{len(fitting)} of {counted(len(sources), 'level')}")


def _saves(source: MapSource) -> bool:
    project = source.project
    if not isinstance(project, nn.Conv2d) or project.kernel_size != (1, 1) or project.groups != 1:
        return False
    outputs = 2 * len(source.keys) * project.out_channels
    return outputs * project.in_channels < project.out_channels * project.in_channels + outputs * project.out_channels


def _fold(source: MapSource) -> None:
    project, place = source.project, source.place
    assert isinstance(project, nn.Conv2d) and isinstance(place, FullTable | AxisTables)
    for i, (key, value) in enumerate(zip(source.keys, source.values, strict=True)):
        assert isinstance(key, nn.Conv2d) and isinstance(value, nn.Linear)
        weight = key.weight.detach()[:, :, 0, 0]
        source.places[i] = place.behind(weight)
        source.keys[i] = pointwise(*_through(weight, key.bias, project))
        source.values[i] = linear(*_through(value.weight.detach(), value.bias, project))
    source.project = source.place = nn.Identity()


def _through(outer: Tensor, bias: Tensor | None, project: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a product behind the projection, as one product."""
    if project.bias is not None:
        moved = outer @ project.bias.detach()
        bias = moved if bias is None else bias.detach() + moved
    return outer @ project.weight.detach()[:, :, 0, 0], bias
