"""Which engine a bundle gets when nobody names one: the tuned one, else the first that can run it. Said aloud, in one line."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icf_deploy.errors import ArtefactError, EngineUnavailableError
from icf_deploy.runtimes import registry

if TYPE_CHECKING:
    from icf_deploy.bundle.opening import Bundle
    from icf_deploy.runtimes.base import Session

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """What tuning found to be the fastest inside the budget on this device: an engine, and which graph it runs.

    graph: None for an engine that runs the checkpoint. found: what was measured of it, in words.
    """

    engine: str
    graph: str | None
    found: str = ""


def remembered(bundle: Bundle, *, threads: int | None = None) -> Tuned | None:
    """What the device's cache remembers for this bundle and so many threads; None where it is not tuned, or not any more.

    What does not hold any more is logged as a warning that says why.
    """
    from icf_deploy.runtimes.tuned import recall

    choice = recall(bundle, threads)
    return None if choice is None else Tuned(choice.engine, choice.graph, choice.measured)


def open_named(bundle: Bundle, engine: str, *, threads: int | None = None) -> tuple[str, Session]:
    """Open this engine and no other one; its name and session. Raises as `registry.open_session`."""
    session = registry.open_session(bundle, engine, threads=threads)
    _log.info("engine %s for %s: as asked", engine, bundle.path)
    return engine, session


def open_best(bundle: Bundle, *, threads: int | None = None, tuned: Tuned | None = None) -> tuple[str, Session]:
    """Open the tuned engine, else the first of `registry.preferred` that can run this bundle here; its name and session.

    tuned: what the device's cache remembers for this bundle; None where this device has not been tuned. What is taken, and
    why, is logged in one line: as information, or as a warning that says the reason where an engine before it was skipped.
    Raises EngineUnavailableError or ArtefactError with every reason where none can, IntegrityError for a damaged bundle.
    """
    preferred = registry.preferred()
    candidates = [*([] if tuned is None else [tuned]), *(Tuned(name, None) for name in preferred)]
    skipped: list[tuple[str, ArtefactError | EngineUnavailableError]] = []
    for candidate in candidates:
        engine, graph = candidate.engine, candidate.graph
        try:
            session = registry.open_session(bundle, engine, graph=graph, threads=threads)
        except (ArtefactError, EngineUnavailableError) as error:
            skipped.append((engine, error))
            continue
        if candidate is tuned:
            what = "the checkpoint" if graph is None else f"graph {graph}"
            why = f"tuned for this device, with {what}" + (f" ({tuned.found})" if tuned.found else "")
        else:
            why = f"the first that can run it of {', '.join(preferred)}"
        reasons = "".join(f"; {name} was skipped: {error}" for name, error in skipped)
        _log.log(logging.WARNING if skipped else logging.INFO, "engine %s for %s: %s%s", engine, bundle.path, why, reasons)
        return engine, session
    raise _none_can(bundle, skipped)


def _none_can(
    bundle: Bundle, skipped: list[tuple[str, ArtefactError | EngineUnavailableError]]
) -> ArtefactError | EngineUnavailableError:
    if not skipped:
        return EngineUnavailableError("no engine is installed that can run a bundle here: pip install 'icf-deploy[cpu]'")
    if len(skipped) == 1:
        return skipped[0][1]
    kind = ArtefactError if all(isinstance(error, ArtefactError) for _, error in skipped) else EngineUnavailableError
    return kind(f"no engine can run {bundle.path.name} here: " + "; ".join(f"{name}: {error}" for name, error in skipped))
