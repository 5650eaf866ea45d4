"""Store the positions as one small table per axis.

1. The sine position of a token is [y-part, x-part], so as a map it is Y[row] + X[column], Y zero in the channels of the x-part
   and X in those of the y-part. Behind a product with Wk it is Wk Y[row] + Wk X[column].
2. The two are added to the map one after the other. Summed with each other first they would be constants, which any constant
   folder adds up into the full table again.

Precondition: the keys are made on the map with a table of positions, and the table is such a sum to SUM_TOLERANCE of its size.
Saves: C (h + w) instead of C h w numbers per table.
"""

from __future__ import annotations

from torch import Tensor, nn

from icf_deploy.export.lowering.keys_on_map import FullTable, map_sources
from icf_deploy.export.lowering.rewrite import Context, Result, applied, counted, skipped
from icf_deploy.network.network import ColorizationNetwork

SUM_TOLERANCE = 1e-12  # of the table's largest number; float64 rounding of sums over a few hundred channels stays below


class AxisTables(nn.Module):
    """A map [N,C,h,w] plus rows [1,C,h,1] plus columns [1,C,1,w]."""

    rows: Tensor
    columns: Tensor

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out."""
        return x + self.rows + self.columns

    def behind(self, weight: Tensor) -> AxisTables:
        """As in FullTable."""
        rows, columns = (weight @ self.rows[..., 0], weight @ self.columns[:, :, 0])
        return AxisTables(rows[..., None], columns[:, :, None])


def separate_axes(network: ColorizationNetwork, _: Context) -> Result:
    """Split every full table into its two axes."""
    sources = [source for source in map_sources(network) if isinstance(source.place, FullTable)]
    tables = [source.place.table for source in sources if isinstance(source.place, FullTable)]
    if not sources:
        return skipped("no keys are made on a map with a table of positions")
    axes = [_separate(table) for table in tables]
    if not all(_is_sum(table, *parts) for table, parts in zip(tables, axes, strict=True)):
        return skipped("a table of positions is no sum of a row part and a column part")
    for source, (rows, columns) in zip(sources, axes, strict=True):
        source.place = AxisTables(rows, columns)
    kept = sum(rows.numel() + columns.numel() for rows, columns in axes)
    return applied(f"{counted(len(tables), 'table')}: {kept} numbers instead of {sum(table.numel() for table in tables)}")


def _separate(table: Tensor) -> tuple[Tensor, Tensor]:
    """Row part [1,C,h,1] and column part [1,C,1,w] of a table that is their sum; each takes half of what both share."""
    shared = table[..., :1, :1] / 2
    return (table[..., :1] - shared).contiguous(), (table[..., :1, :] - shared).contiguous()


def _is_sum(table: Tensor, rows: Tensor, columns: Tensor) -> bool:
    return bool((rows + columns - table).abs().max() <= SUM_TOLERANCE * table.abs().max())
