"""Engines that travel in a bundle: its graphs, compiled for GPUs that are elsewhere.

TensorRT for RTX does that without a GPU. Whoever opens the bundle uses such an engine only if they trust who made it
(`load(..., trust_engines=True)`), and only on the GPU and with the version of the library that it was built for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from icf_deploy.bundle.store import NewEngine
from icf_deploy.errors import ArtefactError
from icf_deploy.runtimes.base import Graph, Target
from icf_deploy.runtimes.trt import TrtRuntime, require_rtx
from icf_deploy.runtimes.trt_library import AheadTarget, require_ahead_target
from icf_deploy.runtimes.trt_plan import decode_plan


@dataclass(frozen=True)
class Step:
    """How far compiling is. number: which engine of `count`, from 1. phase: the builder's own word; done: of its `steps`."""

    graph: str
    target: str
    number: int
    count: int
    phase: str = ""
    done: int = 0
    steps: int = 0


Progress = Callable[[Step], None]
"""Called when an engine begins and as its builder goes on, possibly from a thread of its own."""


def require_targets(names: Iterable[str]) -> tuple[AheadTarget, ...]:
    """What the names stand for, each GPU once. Worth calling before an hour of work.

    names: `rtx30`, `sm86`, ...; `-tf32` at the end allows TF32. Raises EngineUnavailableError without TensorRT for RTX,
    UsageError for a name that is none, or a GPU that it does not compile for.
    """
    library = require_rtx()
    found: dict[tuple[str, bool], AheadTarget] = {}
    for name in names:
        target = require_ahead_target(name, library)
        found.setdefault((target.sm, target.tf32), target)
    return tuple(found.values())


def ahead_engines(graphs: Mapping[str, Graph], names: Iterable[str], progress: Progress | None = None) -> tuple[NewEngine, ...]:
    """Every graph compiled for every GPU, named GRAPH-TARGET; graphs: by name.

    Raises as `require_targets`, and ArtefactError that names graph and GPU where one of them does not take the other.
    """
    targets = require_targets(names)
    pairs = [(name, target) for name in graphs for target in targets]
    engines = []
    for number, (name, target) in enumerate(pairs, 1):
        start = Step(name, target.name, number, len(pairs))
        try:
            data = TrtRuntime(_phases(start, progress)).build(graphs[name], Target(target.name)).data
        except ArtefactError as error:
            raise ArtefactError(f"graph {name} for {target.name}: {error}") from error
        plan = decode_plan(data)
        engines.append(
            NewEngine(
                name=f"{name}-{target.name}",
                data=data,
                runtime=TrtRuntime.name,
                target=target.name,
                version=f"{plan.library} {plan.version}",
                graph=name,
                options={"capability": plan.sm, "largest_batch": plan.largest_batch, "formats": dict(plan.formats)},
            )
        )
    return tuple(engines)


def _phases(start: Step, progress: Progress | None) -> Callable[[str, int, int], None]:
    """What the builder of one engine calls."""
    if progress is None:
        return lambda phase, done, steps: None
    progress(start)
    return lambda phase, done, steps: progress(Step(start.graph, start.target, start.number, start.count, phase, done, steps))
