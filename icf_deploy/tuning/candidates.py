"""What there is to choose from: every whole graph of a bundle's default size on every engine of this device."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icf_deploy.benchmarks.candidate import Candidate
from icf_deploy.benchmarks.measured import Measured
from icf_deploy.errors import ArtefactError, EngineUnavailableError, IcfError
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import KeepsEngines, Target
from icf_deploy.runtimes.session import known_devices
from icf_deploy.tuning.result import TuneRow
from icf_deploy.tuning.yardstick import chosen_graphs

if TYPE_CHECKING:
    from icf_deploy.bundle.opening import Bundle


def engines_of_device() -> list[str]:
    """Names of the engines that are installed and can run graphs here, on each of their devices; preferred ones first.

    Not `pytorch`: what has it hardly needs tuning, and it is measured where it is named. EngineUnavailableError without any.
    """
    found = []
    for name, line in registry.RUNTIMES.items():
        runtime = registry.get(name)
        if not line.runs_checkpoint and runtime.available().ok:
            default = known_devices(runtime)[0]
            found += [name if device == default else f"{name}:{device}" for device in runtime.devices()]
    if not found:
        raise EngineUnavailableError("no engine is installed that can run a graph here: pip install 'icf-deploy[cpu]'")
    return found


def candidates(
    bundle: Bundle, path: Path | None, engines: Sequence[str], graphs: Sequence[str], threads: int | None
) -> tuple[list[TuneRow], list[str]]:
    """One row for each engine and graph, and what was left out, in words: engines that are another one under a second name.

    path: as the bundle was given, None for the shipped one. Raises UsageError for an engine or graph that there is not. What
    this device cannot run is a row whose look has an error.
    """
    entries = chosen_graphs(bundle, graphs)
    rows: list[TuneRow] = []
    same: list[str] = []
    seen: dict[str, str] = {}
    for engine in dict.fromkeys(engines):
        registry.get(engine)
        for graph in (None,) if registry.line(engine).runs_checkpoint else tuple(entry.name for entry in entries):
            row = _row(bundle, path, engine, graph, threads)
            digest = _engine_digest(bundle, row)
            if digest is not None and digest in seen:
                same.append(f"{row.label} is the same engine as {seen[digest]}")
                continue
            if digest is not None:
                seen[digest] = row.label
            rows.append(row)
    return rows, same


def _row(bundle: Bundle, path: Path | None, engine: str, graph: str | None, threads: int | None) -> TuneRow:
    label = engine if graph is None else f"{engine} {graph}"
    candidate = Candidate(label, engine, threads, path, graph, expect_digest=bundle.digest, trust_engines=bundle.trust_engines)
    row = TuneRow(Measured(candidate))
    try:
        found = registry.graph_for(bundle, engine, graph)
    except (ArtefactError, EngineUnavailableError) as error:
        row.look.error = type(error)(f"{label}: {error}")
    else:
        row.sha256, row.bytes, row.recipe = found.sha256, len(found.data), found.recipe
    return row


def _engine_digest(bundle: Bundle, row: TuneRow) -> str | None:
    """The key under which the row's engine would be kept; None where that engine keeps none, or refuses the graph."""
    candidate = row.look.candidate
    runtime = registry.get(candidate.runtime)
    if row.look.error is None and isinstance(runtime, KeepsEngines):
        with contextlib.suppress(IcfError):  # a refusal is told where the row is measured
            _, device = registry.split(candidate.runtime)
            key = runtime.cache_key(bundle.graph(candidate.graph), Target(device, candidate.threads))
            return None if key is None else key.digest
    return None
