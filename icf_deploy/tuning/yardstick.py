"""What colours are compared with: the reference set of the bundle, or photos of the user with a reference made here.

On the device there is no PyTorch. On photos that are not in the reference set its place is taken by the bundle's float32 graph
on the best engine that computes in float32, which is itself compared with PyTorch on the reference set: that is stated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icf_deploy.bundle.manifest import WHOLE, GraphEntry
from icf_deploy.bundle.reference import ReferenceSet
from icf_deploy.errors import ArtefactError, EngineUnavailableError, PhotoError, UsageError
from icf_deploy.quality.drift import Truth, measure_drift
from icf_deploy.quality.photos import NAMED, ColourPhotos, Tell, read_colour_photos
from icf_deploy.runtimes import registry

if TYPE_CHECKING:
    from icf_deploy.bundle.opening import Bundle
    from icf_deploy.quality.budget import Budget
    from icf_deploy.quality.table import DriftTable
    from icf_deploy.runtimes.base import Session

WIDE = "fp32"
# Engines that compute a float32 graph in float32, the one whose order of sums is nearest to PyTorch's first.
WIDE_ENGINES = ("ort", "openvino", "trt", "ort:cuda")


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Photos, the ab that counts as right on them, and the photos' own ab where it is known.

    source: what the photos are, in words; reference_source: what gave the ab. photos: None for the reference set.
    """

    reference: ReferenceSet
    source: str
    reference_source: str
    truth: Truth | None = None
    photos: ColourPhotos | None = None

    def measure(self, session: Session) -> DriftTable:
        """The drift of an engine. ArtefactError where it has another size."""
        return measure_drift(session, self.reference, self.truth)

    def require_truth(self, budget: Budget) -> None:
        """PhotoError where the budget compares with true colours and no photo has any."""
        if budget.against_truth and self.photos is not None and not any(ab is not None for ab in self.photos.truth):
            raise PhotoError(
                f"{', '.join(budget.against_truth)} compares with the photos' own colours, and all of {self.source} are gray: "
                "name a folder of colour photos with --photos"
            )

    def notes(self) -> list[str]:
        """What a reader should know about the photos."""
        lines = [f"{self.source}; compared with {self.reference_source}"]
        photos = self.photos
        if photos is None:
            return lines
        if photos.left_out:
            lines.append(f"{photos.left_out} more photos are in the folder: these are evenly spread over their names")
        if photos.skipped:
            lines.append(
                f"{_count(len(photos.skipped), 'file')} could not be read: {_named(reason for _, reason in photos.skipped)}"
            )
        if photos.colourless:
            lines.append(
                f"{_count(len(photos.colourless), 'photo')} gray: no true colours to compare with, left out where the truth "
                f"counts: {_named(photos.colourless)}"
            )
        return lines


def graphs_of_default_size(bundle: Bundle) -> list[GraphEntry]:
    """The whole graphs that take what the default graph takes, the default one first."""
    manifest = bundle.manifest
    found = [entry for entry in manifest.graphs if entry.part == WHOLE and entry.size == manifest.size]
    return sorted(found, key=lambda entry: entry.name != manifest.default_graph)


def chosen_graphs(bundle: Bundle, names: Sequence[str]) -> list[GraphEntry]:
    """The graphs of these names; without names, those of the default size. UsageError for a name that none has."""
    found = []
    for name in dict.fromkeys(names):
        entry = bundle.manifest.graph(name)
        if entry is None:
            known = ", ".join(graph.name for graph in bundle.manifest.graphs)
            raise UsageError(f"{bundle.path.name} has no graph {name!r}: choose one of {known}")
        found.append(entry)
    return found or graphs_of_default_size(bundle)


def reference_set(bundle: Bundle) -> Yardstick:
    """The reference set that travels in the bundle."""
    reference = bundle.reference()
    count = _count(len(reference.names), "photo")
    return Yardstick(reference, f"{count} of the reference set ({', '.join(reference.names)})", "PyTorch in float32")


def own_photos(bundle: Bundle, folder: Path, *, threads: int | None = None, tell: Tell | None = None) -> Yardstick:
    """The photos of a folder, and what the bundle's float32 graph gives for them here.

    Raises PhotoError as `read_colour_photos`, UsageError for a bundle without anything in float32, EngineUnavailableError
    where no engine computes it here.
    """
    manifest = bundle.manifest
    size, grid = manifest.size, (manifest.size[0] // manifest.stride, manifest.size[1] // manifest.stride)
    engine, graph, session = _widest(bundle, threads)
    with session:
        photos = read_colour_photos(folder, size, grid, tell=tell)
        own = measure_drift(session, bundle.reference()).value("de2000_p95")
        ab = []
        for number, name in enumerate(photos.names):
            if tell is not None:
                tell(number, len(photos.names), f"reference of {name}")
            ab.append(session.run(photos.gray[number : number + 1]))
    what = f"graph {graph} on {engine}" if graph is not None else f"the checkpoint on {engine}"
    return Yardstick(
        ReferenceSet(photos.names, photos.gray, np.concatenate(ab)),
        f"{_count(len(photos.names), 'photo')} of {folder}",
        f"{what} (de2000_p95 {own:.2g} to PyTorch on the reference set)",
        photos.truth,
        photos,
    )


def _widest(bundle: Bundle, threads: int | None) -> tuple[str, str | None, Session]:
    """The nearest thing to PyTorch in float32 that this device has, open: engine, graph (None: the checkpoint), session."""
    graphs = [entry.name for entry in graphs_of_default_size(bundle) if entry.recipe == WIDE]
    choices: list[tuple[str, str | None]] = [(engine, graph) for graph in graphs[:1] for engine in WIDE_ENGINES]
    if bundle.checkpoint() is not None:
        choices.append(("pytorch", None))
    if not choices:
        raise UsageError(
            f"{bundle.path.name} has no graph in float32, and on your own photos that is the reference: export it again with "
            f"--precision {WIDE} beside the others, as in `icf-deploy export --precision int8 --precision {WIDE}`, or leave "
            "--photos out to compare on the reference set"
        )
    reasons = []
    for engine, graph in choices:
        try:
            return engine, graph, registry.open_session(bundle, engine, graph=graph, threads=threads)
        except (ArtefactError, EngineUnavailableError) as error:
            reasons.append(f"{engine}: {error}")
    raise EngineUnavailableError(f"no engine here computes in float32, so there is no reference: {'; '.join(reasons)}")


def _named(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return "; ".join(found[:NAMED]) + more


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
