"""`icf-deploy export`: a checkpoint becomes a bundle, a bundle gets engines."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from icf_deploy.cli.options import PATH, Size, json_option, overwrite_option
from icf_deploy.cli.terminal import progress_bar, say, show_json, show_lines
from icf_deploy.errors import EngineUnavailableError, UsageError

if TYPE_CHECKING:
    from icf_deploy.bundle.manifest import GraphEntry
    from icf_deploy.bundle.opening import Bundle
    from icf_deploy.runtimes.trt_ahead import Step

FP32 = "fp32"
PRECISIONS = (FP32, "fp16", "bf16", "int8", "auto")
HOST_PACKAGES = ("torch", "onnx", "onnxscript", "onnx_ir", "safetensors")
BUNDLE_SUFFIX = ".icf"
AUTO = "auto"
COMPILER = "trt"
# What only the way from a checkpoint to a graph has.
OF_CHECKPOINTS = ("size", "precisions", "recipe", "photos", "weight_bits", "with_checkpoint", "no_lowering", "keep",
                  "portable_ops", "split")  # fmt: skip
MEGABYTE = 1_000_000


@click.command("export", short_help="Turn a checkpoint into a bundle; compile engines into it.")
@click.argument("source", required=False, metavar="[CHECKPOINT|PRESET|BUNDLE]")
@click.option("-o", "--output", type=PATH, metavar="NAME.icf", help="Bundle to write; by default ./PRESET.icf.")
@click.option("--size", type=Size(), default="256", show_default=True, help="What the network sees: a side, or height x width.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    help="Number format of the graph; fp32 by default. Repeated: a graph each, the first is the bundle's default. auto "
    "searches formats part by part on this machine and writes the graphs worth having.",
)
@click.option(
    "--recipe", type=PATH, metavar="FILE", help="A graph with the number format of each part from a file: docs/precision.md."
)
@click.option(
    "--photos", type=PATH, metavar="FOLDER", help="Photos to calibrate int8, fp16 and auto on; by default the packaged ones."
)
@click.option(
    "--weight-bits",
    type=click.Choice(("7", "8")),
    help="Of int8 weights: 7 for x86 processors without VNNI, where 8 can saturate; 8 by default, or what a recipe says.",
)
@click.option(
    "--with-checkpoint", is_flag=True, help="Put the weights in as well, so that --engine pytorch runs from the bundle."
)
@click.option("--no-lowering", is_flag=True, help="Leave the exact rewrites out: the graph as torch.onnx.export makes it.")
@click.option("--keep", multiple=True, metavar="NAME", help="Leave one rewrite out (repeatable); `inspect` lists their names.")
@click.option("--portable-ops", is_flag=True, help="Only operators that strict targets take: no einsum, at most 5 dimensions.")
@click.option("--split", is_flag=True, help="Also write features, palette and paint as graphs of their own.")
@click.option("--engine", "engines", multiple=True, metavar="E",
              help="trt, with --target: also compile the graphs for every target; needs no GPU. With --precision auto: search "
                   "on this engine (repeatable) instead of all that are here.")  # fmt: skip
@click.option("--target", "targets", multiple=True, metavar="GPU,...",
              help="GPUs to compile for: rtx30, rtx40, rtx50, sm86, ...; -tf32 at the end allows TF32.")  # fmt: skip
@click.option("--graph", "graphs", multiple=True, metavar="NAME",
              help="Compile only this graph of BUNDLE (repeatable); by default all that turn gray into ab.")  # fmt: skip
@overwrite_option
@json_option
def command(
    *,
    source: str | None,
    output: Path | None,
    engines: tuple[str, ...],
    targets: tuple[str, ...],
    graphs: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
    **of_checkpoint: Any,
) -> None:
    """Turn a checkpoint into a bundle: graph, reference set, hashes.

    CHECKPOINT is a trained file (ICF .safetensors; DDColor .pth, .pt, .bin, .safetensors), PRESET a network with shipped
    weights; without either it is icf-edge. Nothing is written unless the graph agrees with PyTorch on real photos.

    With --engine trt --target rtx40 the graphs are also compiled for GPUs that are elsewhere. Of a BUNDLE that exists already
    a copy with such engines is written; that takes no PyTorch. Devices use them only with --trust-engines.
    """
    names, search_on = _engines(engines, targets, auto=AUTO in of_checkpoint["precisions"])
    if source is not None and is_bundle(Path(source)):
        bundle = _with_engines(Path(source), output, names, graphs, overwrite=overwrite)
    elif graphs:
        raise UsageError("--graph chooses among the graphs of a bundle: name the bundle")
    else:
        bundle = _exported(source, output, names, search_on, overwrite=overwrite, **of_checkpoint)
    _show(bundle, as_json=as_json)


def is_bundle(path: Path) -> bool:
    """Whether the path names a bundle, and not a checkpoint or preset."""
    from icf_deploy.bundle.manifest import MANIFEST_FILE

    return (path / MANIFEST_FILE).is_file() or (path.suffix == BUNDLE_SUFFIX and path.exists())


def _engines(engines: tuple[str, ...], targets: tuple[str, ...], *, auto: bool) -> tuple[list[str], list[str]]:
    """The GPUs to compile for, and the engines to search on. UsageError where one option is there without the other."""
    names = [name for given in targets for name in (part.strip() for part in given.split(",")) if name]
    compiling = [engine for engine in engines if engine == COMPILER and (names or not auto)]
    search_on = [engine for engine in engines if engine not in compiling]
    if search_on and not auto:
        raise UsageError(
            f"--engine {search_on[0]}: {search_on[0]!r} is not {COMPILER!r}, which compiles for --target; to search number "
            "formats on an engine, add --precision auto"
        )
    if targets and not compiling:
        raise UsageError("--target names GPUs to compile for: add --engine trt")
    if compiling and not names:
        raise UsageError(f"--engine {COMPILER} needs the GPUs to compile for: add --target rtx30,rtx40,rtx50")
    return names, search_on


def _exported(
    source: str | None, output: Path | None, targets: list[str], search_on: list[str], *, overwrite: bool, **options: Any
) -> Bundle:
    """Write the bundle of a checkpoint. options: those of OF_CHECKPOINTS."""
    _require_host()
    from icf_deploy.export.pipeline import export_bundle

    asked: dict[str, Any] = {"lowering": False} if options["no_lowering"] else {}
    asked |= {"keep": options["keep"]} if options["keep"] else {}
    asked |= {name: True for name in ("portable_ops", "split") if options[name]}
    asked |= {"targets": targets} if targets else {}
    asked |= {"search_on": search_on} if search_on else {}
    asked |= {"weight_bits": int(options["weight_bits"])} if options["weight_bits"] else {}
    asked |= {"precision": [*options["precisions"], *([options["recipe"]] if options["recipe"] else [])] or FP32}
    asked |= {"photos": options["photos"]}
    with _compiling() as compiling:
        asked |= {"compiling": compiling} if targets else {}
        return export_bundle(
            source,
            output,
            size=options["size"],
            overwrite=overwrite,
            with_checkpoint=options["with_checkpoint"],
            command=shlex.join(["icf-deploy", *sys.argv[1:]]),
            progress=lambda line: say(line if line.endswith(".") else f"{line} ..."),
            **asked,
        )


def _with_engines(path: Path, output: Path | None, targets: list[str], graphs: tuple[str, ...], *, overwrite: bool) -> Bundle:
    """Write a bundle again, with engines of its graphs."""
    context = click.get_current_context()
    given = [name for name in OF_CHECKPOINTS if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if given:
        option = "--" + given[0].removesuffix("s" if given[0] == "precisions" else "").replace("_", "-")
        raise UsageError(f"{option} is for checkpoints, and {path} is a bundle: its graphs stay as they are")
    if not targets:
        raise UsageError(f"{path} is a bundle already: name a checkpoint, or compile engines into it with "
                         "--engine trt --target rtx30,rtx40,rtx50")  # fmt: skip
    from icf_deploy.bundle.manifest import WHOLE
    from icf_deploy.bundle.opening import open_bundle
    from icf_deploy.bundle.replacement import check_output
    from icf_deploy.bundle.store import add_engines
    from icf_deploy.runtimes import trt_ahead

    trt_ahead.require_targets(targets)
    bundle = open_bundle(path)
    output = output if output is not None else Path(f"{bundle.manifest.preset}{BUNDLE_SUFFIX}")
    check_output(output, overwrite=overwrite)
    parts = {graph.name: graph.part for graph in bundle.manifest.graphs}
    for name in graphs:
        if parts.get(name, WHOLE) != WHOLE:  # an unknown one is named below
            raise UsageError(
                f"graph {name} is the part {parts[name]} of its network, and engines turn gray into ab: choose another"
            )
    chosen = {name: bundle.graph(name) for name in graphs or [name for name, part in parts.items() if part == WHOLE]}
    with _compiling() as compiling:
        engines = trt_ahead.ahead_engines(chosen, targets, compiling)
    return add_engines(bundle, output, engines, overwrite=overwrite)


@contextmanager
def _compiling() -> Iterator[Callable[[Step], None]]:
    """Gives what shows the compiling of engines: a bar on a terminal, elsewhere a line for each."""
    with progress_bar() as update:

        def show(step: Step) -> None:
            what = f"{step.graph} for {step.target}"
            if update is not None:
                detail = f": {step.phase}, {step.done} of {step.steps}" if step.phase else ""
                update(step.number - 1, step.count, f"compiling {what}{detail}")
            elif not step.phase:
                say(f"compiling {what}, {step.number} of {step.count} ...")

        yield show


def _show(bundle: Bundle, *, as_json: bool) -> None:
    manifest = bundle.manifest
    graph = manifest.graph(manifest.default_graph)
    assert graph is not None  # the manifest was checked when it was written
    if as_json:
        engines = [
            {"name": engine.name, "target": engine.target, "version": engine.version, "bytes": engine.bytes}
            for engine in manifest.engines
        ]
        graphs = [{"name": one.name, "part": one.part, "precision": one.recipe, "bytes": one.bytes} for one in manifest.graphs]
        show_json({"bundle": str(bundle.path), "digest": bundle.digest, "precision": graph.recipe, "graph": graph.name,
                   "bytes": graph.bytes, "max_abs_ab": manifest.parity.max_abs_ab, "graphs": graphs,
                   "engines": engines})  # fmt: skip
        return
    show_lines([str(bundle.path)])
    wide = "" if graph.recipe == PRECISIONS[0] else " before its recipe; `icf-deploy check` measures what it does to colours"
    say(f"{graph.bytes / MEGABYTE:.1f} MB; differs from PyTorch by at most {manifest.parity.max_abs_ab:.2g} in ab{wide}")
    for other in manifest.graphs:
        if other.name != graph.name:
            chosen = _chosen_for(other)
            say(f"graph {other.name}: {other.bytes / MEGABYTE:.1f} MB{f'; {chosen}' if chosen else ''}")
    if all(one.recipe != FP32 for one in manifest.graphs) and graph.name in PRECISIONS:
        say(f"--precision {graph.name} --precision {FP32} adds the float32 graph: `check --photos` and `tune` compare with it")
    if manifest.sensitivity is not None:
        say("`icf-deploy tune` measures these graphs on a device and remembers the fastest one inside a budget")
    for engine in manifest.engines:
        say(f"engine {engine.name}: {engine.bytes / MEGABYTE:.1f} MB, by {engine.version}; used only with --trust-engines")


def _chosen_for(graph: GraphEntry) -> str:
    """For what `--precision auto` has put a graph into the bundle, in words; "" where it says nothing of that."""
    precision = graph.measurements.get("precision")
    chosen = precision.get("chosen_for") if isinstance(precision, dict) else None
    if not isinstance(chosen, dict):
        return ""
    engine, budget, milliseconds = (chosen.get(name) for name in ("engine", "budget", "milliseconds"))
    return f"the fastest found on {engine} inside {budget}: {milliseconds} ms here"


def _require_host() -> None:
    """Raise EngineUnavailableError where the packages of the host side are missing."""
    import importlib.util

    missing = [name for name in HOST_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineUnavailableError(
            f"exporting needs {', '.join(missing)}, which this machine does not have: pip install 'icf-deploy[export]'"
        )
