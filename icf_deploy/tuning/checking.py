"""The drift of every graph of a bundle on every engine: what `icf-deploy check` shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from icf_deploy.benchmarks.gallery import Shot
from icf_deploy.benchmarks.result_file import DRIFT_FLOOR
from icf_deploy.benchmarks.worst_photo import drawn
from icf_deploy.errors import ArtefactError, BudgetError, IcfError, UsageError
from icf_deploy.quality.table import METRICS
from icf_deploy.runtimes import registry
from icf_deploy.tuning.yardstick import chosen_graphs

if TYPE_CHECKING:
    from icf_deploy.bundle.opening import Bundle
    from icf_deploy.quality.budget import Budget
    from icf_deploy.quality.table import DriftTable
    from icf_deploy.runtimes.base import Session
    from icf_deploy.tuning.yardstick import Yardstick

MAIN_METRIC = "de2000_p95"  # by which photos and engines are ranked where a budget names nothing else

Tell = Callable[[int, int, str], None]
"""tell(done, total, what): engines done, in all, what happens now."""


@dataclass(eq=False)
class Checked:
    """One graph on one engine: its drift, or why there is none; and why it misses the budget, or None.

    graph, recipe: None for an engine that runs the checkpoint. shots: its worst photos, where they were asked for.
    """

    engine: str
    graph: str | None
    recipe: str | None
    formats: dict[str, int] | None = None
    drift: DriftTable | None = None
    error: IcfError | None = None
    miss: str | None = None
    shots: list[Shot] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Engine and graph."""
        return self.engine if self.graph is None else f"{self.engine}, graph {self.graph}"


def pairs(bundle: Bundle, engines: Sequence[str], graphs: Sequence[str]) -> list[Checked]:
    """Every engine with every graph (none named: all whole ones of the default size). UsageError for an unknown name."""
    entries = chosen_graphs(bundle, graphs)
    rows = []
    for engine in dict.fromkeys(engines):
        registry.get(engine)
        if registry.line(engine).runs_checkpoint:
            rows.append(Checked(engine, None, None))
        else:
            rows += [Checked(engine, entry.name, entry.recipe) for entry in entries]
    return rows


def check_engines(
    bundle: Bundle,
    rows: Sequence[Checked],
    yardstick: Yardstick,
    budget: Budget,
    *,
    threads: int | None = None,
    shots: int = 0,
    tell: Tell | None = None,
) -> None:
    """Fill the rows of `pairs`. shots: how many photos of each are drawn, its worst ones. UsageError for a bad budget."""
    for number, row in enumerate(rows):
        if tell is not None:
            tell(number, len(rows), row.label)
        try:
            with registry.open_session(bundle, row.engine, graph=row.graph, threads=threads) as session:
                row.drift = yardstick.measure(session)
                if shots:
                    row.shots = worst_shots(session, row.drift, yardstick, main_metric(budget), shots)
                row.formats = dict(session.formats)
            budget.check(row.drift)
        except BudgetError as error:
            row.miss = str(error)
        except UsageError:
            raise
        except IcfError as error:
            row.error = error


def failures(rows: Sequence[Checked], *, graphs_named: bool) -> list[Checked]:
    """The rows whose error is a failure of what was asked.

    That an engine refuses a graph, as one that would not execute its formats does, is an answer as long as it runs another
    one, and, where graphs were named, as another engine runs this one.
    """
    engines = {row.engine for row in rows if row.drift is not None}
    graphs = {row.graph for row in rows if row.drift is not None}

    def is_an_answer(row: Checked) -> bool:
        refused = isinstance(row.error, ArtefactError)
        return refused and row.engine in engines and (not graphs_named or row.graph in graphs)

    return [row for row in rows if row.error is not None and not is_an_answer(row)]


def main_metric(budget: Budget) -> str:
    """The budget's first metric; MAIN_METRIC where it is empty."""
    return budget.limits[0].metric if budget.limits else MAIN_METRIC


def worst_shots(session: Session, drift: DriftTable, yardstick: Yardstick, metric: str, count: int) -> list[Shot]:
    """The worst photos in `metric`, coloured once more by this engine; of those without a difference that is seen, one."""
    found: list[Shot] = []
    reference, truth = yardstick.reference, yardstick.truth
    for name, value in drift.ranked(metric)[:count]:
        number, column = reference.names.index(name), METRICS[metric].column
        row = drift.rows[number]
        if found and row.de2000_p95 < DRIFT_FLOOR:
            break
        ab = session.run(reference.gray[number : number + 1])[0]
        own = None if truth is None else truth[number]
        pictures = drawn(name, reference.gray[number, 0], reference.ab[number], ab, own)
        text = f"{column} {value:.3g}" + ("" if column == MAIN_METRIC else f", {MAIN_METRIC} {row.de2000_p95:.3g}")
        found.append(Shot(pictures, text))
    return found
