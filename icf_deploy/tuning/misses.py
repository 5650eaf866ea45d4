"""Nothing is inside the budget: what comes nearest, and which blocks of the network cause its drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from icf_deploy.bundle.sensitivity import WIDE
from icf_deploy.quality.budget import Budget
from icf_deploy.tuning.result import TuneRow

if TYPE_CHECKING:
    from icf_deploy.bundle.opening import Bundle
    from icf_deploy.bundle.sensitivity import Part

SHOWN_BLOCKS = 3
BF16 = "bf16"
NO_TABLE = "This bundle says nothing of its blocks: `icf-deploy export --precision auto` writes one that does"


@dataclass(frozen=True)
class NearestMiss:
    """The row that passes the budget least, by what, and the blocks that cause it, worst first.

    missing: why no block can be named; "" where some can.
    """

    row: TuneRow
    budget: Budget
    blocks: tuple[Part, ...] = ()
    missing: str = ""

    def __str__(self) -> str:
        return f"nothing is inside the budget {self.budget}. Nearest is {self.row.label}: {self.by}. {self.causes}"

    @property
    def by(self) -> str:
        """What it passes, and by how much."""
        assert self.row.drift is not None  # it was measured, or it would not be near
        return "; ".join([*map(str, self.budget.misses(self.row.drift)), *self.row.drift.problems])

    @property
    def causes(self) -> str:
        """The blocks in words, or why there are none."""
        if not self.blocks:
            return self.missing
        parts = ", ".join(f"{part.name} in {part.format} (alone {part.de2000_p95:.3g})" for part in self.blocks[:SHOWN_BLOCKS])
        return f"Its drift comes from {parts}: keep them wider with `icf-deploy export --recipe`, or allow more"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"by": self.by, "blocks": [asdict(part) for part in self.blocks], "missing": self.missing or None}


def nearest_miss(bundle: Bundle, rows: Sequence[TuneRow], budget: Budget) -> NearestMiss | None:
    """What comes nearest, of the rows whose drift is outside; None where none is. Raises as `Bundle.sensitivity`."""
    outside = [
        (budget.excess(row.drift), number, row)
        for number, row in enumerate(rows)
        if row.drift is not None and not row.is_inside(budget)
    ]
    if not outside:
        return None
    row = min(outside)[2]
    sensitivity = bundle.sensitivity()
    if sensitivity is None:
        return NearestMiss(row, budget, missing=NO_TABLE)
    if row.graph is None:
        return NearestMiss(row, budget, missing="It runs the checkpoint, which has no formats to choose")
    if row.recipe == WIDE and not row.engine.endswith(BF16):
        return NearestMiss(
            row, budget, missing="It computes in float32 throughout: its drift is rounding, and no format is left to widen"
        )
    # An engine such as openvino:cpu-bf16 computes in bf16 what the graph leaves in float32.
    wide = BF16 if row.engine.endswith(BF16) else WIDE
    blocks = sensitivity.causes(row.graph, wide=wide)
    missing = "" if blocks else f"Nothing was measured of the blocks of graph {row.graph} in the formats that ran"
    return NearestMiss(row, budget, blocks, missing)
