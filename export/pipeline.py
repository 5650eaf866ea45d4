"""Checkpoint -> network -> graph -> bundle, and nothing is written that does not agree with PyTorch."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from icf_deploy.bundle.manifest import Lowering, Parity, Provenance, SkippedRewrite, Source
from icf_deploy.bundle.reference import ReferenceSet
from icf_deploy.bundle.replacement import check_output
from icf_deploy.bundle.store import SHIPPED_CHECKPOINT, Bundle, NewGraph, write_bundle
from icf_deploy.errors import ParityError, UsageError
from icf_deploy.export.graph import example_gray, to_onnx
from icf_deploy.export.lowering import Outcome, check_names, lower, lower_graph
from icf_deploy.export.reference import PHOTO_FOLDER, reference_set
from icf_deploy.network.checkpoint import load_checkpoint
from icf_deploy.network.network import SIZE_MULTIPLE, ColorizationNetwork
from icf_deploy.network.presets import EDGE_PRESET, PRESETS
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import Graph, Target

DEFAULT_SIZE = (256, 256)
LARGEST_SIDE = 4096  # pixels; positions and activations grow with the area, and no published use goes beyond 1024
# Largest |ab| difference between graph and PyTorch that an export may have. The eye needs about 1; float32 rounding in
# another order gives 1e-5 for icf-edge and up to 4e-4 for a DDColor whose ab spans tens of units.
PARITY_BOUND_AB = 1e-3

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Checkpoint:
    """Where the weights came from, and the network that they make."""

    file: str
    data: bytes
    network: ColorizationNetwork

    @property
    def source(self) -> Source:
        """File name and digest, as provenance records them."""
        return Source(self.file, hashlib.sha256(self.data).hexdigest())


def export_bundle(
    source: str | Path | None = None,
    output: str | Path | None = None,
    *,
    size: tuple[int, int] = DEFAULT_SIZE,
    overwrite: bool = False,
    with_checkpoint: bool = False,
    lowering: bool = True,
    keep: Collection[str] = (),
    command: str = "",
    progress: Progress | None = None,
) -> Bundle:
    """Write the bundle of a checkpoint and return it, opened.

    source: a checkpoint file, or a preset that has shipped weights (None: `icf-edge`). output: default `./PRESET.icf`.
    size: (H, W) in pixels that the graph computes at, multiples of 32. with_checkpoint: put the weights in as well, so that
    `--engine pytorch` runs from the bundle. lowering: apply the exact rewrites; keep: names of rewrites to leave out.
    command: the command line, for the provenance.

    Raises UsageError for a size or preset that makes no sense, CheckpointError for a file that is no checkpoint, WorkError
    for an output that exists (`overwrite`), ParityError for a graph that does not agree with PyTorch: then nothing is written.
    """
    say = progress or (lambda _: None)
    _require_size(size)
    if output is not None:
        check_output(Path(output), overwrite=overwrite)
    say("loading the checkpoint")
    checkpoint = open_source(source)
    network = checkpoint.network
    path = Path(output) if output is not None else Path(f"{network.preset}.icf")
    check_output(path, overwrite=overwrite)

    say(f"reference set: PyTorch float32 at {size[0]}x{size[1]}")
    reference = reference_set(network, size)
    check_names(keep)
    module, outcomes = network, []
    if lowering:
        say("lowering: exact rewrites")
        lowered = lower(network, size, keep=keep)
        module, outcomes = lowered.network, list(lowered.outcomes)
    say("exporting to ONNX")
    model = to_onnx(module, (example_gray(size),))
    if lowering:
        lowered_graph = lower_graph(model, keep=keep)
        model = lowered_graph.model
        outcomes += lowered_graph.outcomes
    data = model.SerializeToString(deterministic=True)
    graph = NewGraph(name="fp32", data=data, recipe="fp32", size=size, lowering=_record(outcomes))
    say("checking the graph against PyTorch on real photos")
    parity = check_parity(data, reference, network, size)
    return write_bundle(
        path,
        preset=network.preset,
        stride=network.stride,
        size=size,
        graphs=[graph],
        reference=reference,
        parity=parity,
        provenance=provenance(checkpoint.source, command),
        checkpoint=checkpoint_bytes(checkpoint) if with_checkpoint else None,
        overwrite=overwrite,
    )


def open_source(source: str | Path | None) -> Checkpoint:
    """The checkpoint of a file, or the shipped one of a preset. Raises as `export_bundle`."""
    name = EDGE_PRESET if source is None else str(source)
    path = Path(name)
    if name == EDGE_PRESET and not path.is_file():
        path = PHOTO_FOLDER.parent / SHIPPED_CHECKPOINT
    elif name in PRESETS and not path.is_file():
        raise UsageError(
            f"no weights of {name} are shipped: download its checkpoint and type `icf-deploy export FILE`; "
            f"{EDGE_PRESET} needs no file"
        )
    network = load_checkpoint(path)
    return Checkpoint(path.name, path.read_bytes(), network)


def check_parity(data: bytes, reference: ReferenceSet, network: ColorizationNetwork, size: tuple[int, int]) -> Parity:
    """Run the graph in ONNX Runtime on the reference photos. Raises ParityError beyond PARITY_BOUND_AB."""
    runtime = registry.get("ort")
    graph = Graph(data, hashlib.sha256(data).hexdigest(), size, network.stride, "fp32", network.preset)
    with runtime.open(runtime.build(graph, Target())) as session:
        ab = np.concatenate([session.run(photo[None]) for photo in reference.gray])
    distance = np.abs(ab - reference.ab).max(axis=(1, 2, 3))
    worst = int(distance.argmax())
    if not distance[worst] <= PARITY_BOUND_AB:  # also where it is not a number
        raise ParityError(
            f"the exported graph does not agree with PyTorch: ab differs by {distance[worst]:.3g} on photo "
            f"{reference.names[worst]!r}, at most {PARITY_BOUND_AB:g} is allowed; nothing was written"
        )
    return Parity(max_abs_ab=float(distance[worst]), bound=PARITY_BOUND_AB, photos=len(reference.names))


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """The checkpoint as our safetensors, whatever it was read from: a device never meets a pickle."""
    import tempfile

    from icf_deploy.network.checkpoint import save_checkpoint

    if checkpoint.file.endswith(".safetensors"):
        return checkpoint.data
    with tempfile.TemporaryDirectory() as folder:
        return save_checkpoint(checkpoint.network, Path(folder) / "checkpoint.safetensors").read_bytes()


def _record(outcomes: Sequence[Outcome]) -> Lowering:
    """What the manifest says about the rewrites."""
    return Lowering(
        applied=tuple(outcome.name for outcome in outcomes if outcome.applied),
        skipped=tuple(SkippedRewrite(outcome.name, outcome.reason) for outcome in outcomes if not outcome.applied),
    )


def provenance(source: Source | None, command: str) -> Provenance:
    """Versions and time of this export."""
    return Provenance(
        icf_deploy=importlib.metadata.version("icf-deploy"),
        torch=torch.__version__,
        onnx=onnx.__version__,
        python=platform.python_version(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        source=source,
        command=command,
    )


def _require_size(size: Sequence[int]) -> None:
    if any(side < SIZE_MULTIPLE or side % SIZE_MULTIPLE or side > LARGEST_SIDE for side in size):
        raise UsageError(
            f"--size {'x'.join(map(str, size))}: sides must be multiples of {SIZE_MULTIPLE} from {SIZE_MULTIPLE} to "
            f"{LARGEST_SIDE} (the coarsest feature map is 1/32 of the photo); 256 is the default"
        )
