"""Checkpoint -> network -> graph -> bundle, and nothing is written that does not agree with PyTorch."""

from __future__ import annotations

import dataclasses
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

from icf_deploy.bundle.fields import Json
from icf_deploy.bundle.manifest import WHOLE, Lowering, Parity, Provenance, SkippedRewrite, Source
from icf_deploy.bundle.reference import ReferenceSet
from icf_deploy.bundle.replacement import check_output
from icf_deploy.bundle.sensitivity import Sensitivity
from icf_deploy.bundle.store import SHIPPED_CHECKPOINT, Bundle, NewEngine, NewGraph, write_bundle
from icf_deploy.errors import ParityError, UsageError
from icf_deploy.export.graph import example_gray, to_onnx
from icf_deploy.export.lowering import Outcome, check_names, lower, lower_graph
from icf_deploy.export.portable import portable
from icf_deploy.export.precision.asked import FP32, RECIPE_NAME, Asked, Precision, require_precisions
from icf_deploy.export.precision.auto import find_front
from icf_deploy.export.precision.calibrating import Calibrating
from icf_deploy.export.precision.narrow import NarrowGraph, narrow
from icf_deploy.export.precision.trained import TrainedInt8
from icf_deploy.export.precision.weights import WEIGHT_BITS
from icf_deploy.export.reference import PHOTO_FOLDER, reference_set
from icf_deploy.export.split import split_graphs
from icf_deploy.export.statistics import statistics
from icf_deploy.network.checkpoint import load_checkpoint
from icf_deploy.network.network import SIZE_MULTIPLE, ColorizationNetwork
from icf_deploy.network.presets import EDGE_PRESET, PRESETS
from icf_deploy.runtimes import registry, trt_ahead
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
    portable_ops: bool = False,
    split: bool = False,
    targets: Sequence[str] = (),
    precision: Precision | Sequence[Precision] = FP32,
    photos: Path | None = None,
    weight_bits: int | None = None,
    search_on: Sequence[str] = (),
    command: str = "",
    progress: Progress | None = None,
    compiling: trt_ahead.Progress | None = None,
) -> Bundle:
    """Write the bundle of a checkpoint and return it, opened.

    source: a checkpoint file, or a preset that has shipped weights (None: `icf-edge`). output: default `./PRESET.icf`.
    size: (H, W) in pixels that the graph computes at, multiples of 32. with_checkpoint: put the weights in as well, so that
    `--engine pytorch` runs from the bundle. lowering: apply the exact rewrites; keep: names of rewrites to leave out.
    portable_ops: only operators that strict targets take. split: also write features, palette and paint as graphs.
    targets: GPUs to compile every whole graph for, such as `rtx40`; with TensorRT for RTX, and without a GPU. compiling: told
    how that goes on. precision: fp32, fp16, bf16, int8, auto, or the path of a recipe; several (but auto) give a graph each, of
    which the first is the bundle's default. photos: a folder to calibrate on instead of the packaged photos. weight_bits: 7 for
    int8 weights that do not saturate on x86 processors without VNNI. search_on: with auto, the engines to search on instead of
    all that are here. command: the command line, for the provenance.

    Raises UsageError for a size, preset or target that makes no sense, EngineUnavailableError for targets without TensorRT for
    RTX, CheckpointError for a file that is no checkpoint, WorkError for an output that exists (`overwrite`), ParityError for a
    graph that does not agree with PyTorch, ArtefactError for one that a target does not take, or a recipe of another network,
    BudgetError where int8 does not keep its drift target: then nothing is written.
    """
    say = progress or (lambda _: None)
    _require_size(size)
    check_names(keep)
    asked = require_precisions(precision, photos=photos, search_on=search_on, weight_bits=weight_bits, split=split)
    if targets:
        trt_ahead.require_targets(targets)
    if output is not None:
        check_output(Path(output), overwrite=overwrite)
    say("loading the checkpoint")
    checkpoint = open_source(source)
    network = checkpoint.network
    path = Path(output) if output is not None else Path(f"{network.preset}.icf")
    check_output(path, overwrite=overwrite)

    say(f"reference set: PyTorch float32 at {size[0]}x{size[1]}")
    reference = reference_set(network, size)
    say("exporting to ONNX" + (", with exact rewrites" if lowering else ""))
    plain = to_onnx(network, (example_gray(size),))
    model, record = (plain, Lowering()) if not lowering else _lowered(network, size, keep)
    if portable_ops:
        model = portable(model)
    measurements = {**_measured(model), "plain": _measured(plain)} if lowering else _measured(model)
    data = _bytes(model)
    wide = NewGraph(name=FP32, data=data, recipe=FP32, size=size, lowering=record, measurements=measurements)
    say("checking the graph against PyTorch on real photos")
    parity = check_parity(data, reference, network, size)
    graphs, sensitivity = _of_precisions(model, wide, asked, checkpoint, say)
    if split:
        say("exporting features, palette and paint")
        graphs += _steps(network, size, lowering=lowering, keep=keep, portable_ops=portable_ops)
    engines: Sequence[NewEngine] = ()
    if targets:
        whole = {graph.name: _as_graph(graph, network) for graph in graphs if graph.part == WHOLE}
        engines = trt_ahead.ahead_engines(whole, targets, compiling)
    return write_bundle(
        path,
        preset=network.preset,
        stride=network.stride,
        size=size,
        graphs=graphs,
        reference=reference,
        parity=parity,
        provenance=provenance(checkpoint.source, command),
        checkpoint=checkpoint_bytes(checkpoint) if with_checkpoint else None,
        engines=engines,
        sensitivity=sensitivity,
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


def _lowered(network: ColorizationNetwork, size: tuple[int, int], keep: Collection[str]) -> tuple[onnx.ModelProto, Lowering]:
    lowered = lower(network, size, keep=keep)
    graph = lower_graph(to_onnx(lowered.network, (example_gray(size),)), keep=keep)
    return graph.model, _record((*lowered.outcomes, *graph.outcomes))


def _steps(
    network: ColorizationNetwork, size: tuple[int, int], *, lowering: bool, keep: Collection[str], portable_ops: bool
) -> list[NewGraph]:
    """The three steps as graphs of the bundle."""
    parts = split_graphs(network, size, lowering=lowering, keep=keep)
    graphs = []
    for name, part in parts.graphs.items():
        model = portable(part) if portable_ops else part
        record = _record((*parts.outcomes, *parts.graph_outcomes.get(name, ())))
        new = NewGraph(f"fp32-{name}", _bytes(model), "fp32", size, part=name, lowering=record, measurements=_measured(model))
        graphs.append(new)
    return graphs


def _of_precisions(
    model: onnx.ModelProto, wide: NewGraph, asked: Asked, checkpoint: Checkpoint, say: Progress
) -> tuple[list[NewGraph], Sensitivity | None]:
    """The graphs of the precisions that were asked for, made of the float32 one that PyTorch has agreed with."""
    if asked.precisions == (FP32,):
        return [wide], None
    network = checkpoint.network
    trained = TrainedInt8.of_checkpoint(checkpoint.data)
    calibrating = Calibrating(model, wide.size, photos=asked.photos, trained=trained, say=say)
    if asked.auto:
        front = find_front(
            model,
            preset=network.preset,
            size=wide.size,
            stride=network.stride,
            calibrating=calibrating,
            weight_bits=asked.weight_bits or WEIGHT_BITS,
            engines=asked.search_on,
            say=say,
        )
        return [wide, *(_as_new(found, wide, name) for name, found in front.graphs.items())], front.sensitivity
    graphs = []
    for one in asked.precisions:
        if one == FP32:
            graphs.append(wide)
            continue
        found = narrow(
            model,
            one,
            preset=network.preset,
            size=wide.size,
            stride=network.stride,
            calibrating=calibrating,
            weight_bits=asked.weight_bits,
            say=say,
        )
        graphs.append(_as_new(found, wide, one if isinstance(one, str) else RECIPE_NAME))
    return graphs, None


def _as_new(found: NarrowGraph, wide: NewGraph, name: str) -> NewGraph:
    """A graph of another precision, with the figures of the float32 one that it was made from."""
    return dataclasses.replace(
        wide,
        name=name,
        data=_bytes(found.applied.model),
        recipe=found.applied.label,
        measurements={**wide.measurements, "bytes": found.applied.model.ByteSize(), "precision": found.facts},
    )


def _as_graph(new: NewGraph, network: ColorizationNetwork) -> Graph:
    """A graph that is to go into a bundle, as a runtime takes it."""
    digest = hashlib.sha256(new.data).hexdigest()
    return Graph(new.data, digest, new.size, network.stride, new.recipe, network.preset)


def _measured(model: onnx.ModelProto) -> dict[str, Json]:
    """Figures of a graph for a batch of one, as the manifest keeps them."""
    found = statistics(model)
    return {
        "gmac": round(found.gmac, 4),
        "parameters": found.parameters,
        "nodes": found.nodes,
        "bytes": found.bytes,
        "largest_activation_mb": round(found.largest.bytes / 1e6, 3),
        "peak_activation_mb": round(found.peak_bytes / 1e6, 3),
    }


def _bytes(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data


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
