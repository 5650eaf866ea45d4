"""`icf-deploy inspect`: what a bundle holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icf_deploy.cli.options import bundle_argument, digest_option, json_option
from icf_deploy.cli.terminal import show_json, show_lines, show_table

if TYPE_CHECKING:
    from icf_deploy.bundle.manifest import GraphEntry
    from icf_deploy.bundle.opening import Bundle

SHOWN_DIGITS = 12  # of a digest in a table
MEGABYTE = 1_000_000


@click.command("inspect", short_help="Show what a bundle holds, and verify it.")
@bundle_argument
@digest_option
@json_option
def command(bundle: Path | None, expect_digest: str | None, as_json: bool) -> None:
    """Show what a bundle holds, and verify it.

    BUNDLE is a bundle; without it the shipped icf-edge. Every file is read and its hash compared; one that is not what was
    written ends with exit status 6.
    """
    from icf_deploy.bundle.opening import open_bundle

    opened = open_bundle(bundle, expect_digest=expect_digest)
    verified = opened.verify()
    if as_json:
        show_json({"path": str(opened.path), "digest": opened.digest, "verified": verified, "manifest": _manifest(opened)})
    else:
        _show(opened, verified)


def _manifest(bundle: Bundle) -> Any:
    return json.loads(bundle.manifest.to_json())


def _show(bundle: Bundle, verified: list[str]) -> None:
    manifest = bundle.manifest
    source, made = manifest.provenance.source, manifest.provenance
    reference = manifest.reference
    before = "" if all(graph.recipe == "fp32" for graph in manifest.graphs) else ", before any recipe,"
    show_lines(
        [
            str(bundle.path),
            f"  preset      {manifest.preset}, {manifest.size[0]}x{manifest.size[1]}, stride {manifest.stride}",
            f"  digest      {bundle.digest}",
            f"  verified    {len(verified)} files",
            f"  reference   {len(reference.photos)} photos: {', '.join(reference.photos)}",
            f"  parity      |Δab| {manifest.parity.max_abs_ab:.2g} to PyTorch{before} on {manifest.parity.photos} photos "
            f"(at most {manifest.parity.bound:g} allowed)",
            f"  checkpoint  {'inside' if manifest.checkpoint else 'not inside'}",
            f"  source      {source.file + ', SHA-256 ' + source.sha256[:SHOWN_DIGITS] + '...' if source else 'untrained'}",
            f"  made        {made.created} with icf-deploy {made.icf_deploy}, torch {made.torch}, onnx {made.onnx}, "
            f"Python {made.python}",
            f"  command     {made.command}",
            f"  tuned       {_tuned(bundle)}",
            "",
        ]
    )
    header = ("graph", "part", "recipe", "size", "MB", "SHA-256")
    show_table([header, *(_cells(graph, manifest.default_graph) for graph in manifest.graphs)])
    for graph in manifest.graphs:
        show_lines(["", *_details(graph)])
    for engine in manifest.engines:
        built = f"{engine.version} for {engine.target}, of graph {engine.graph}, {engine.bytes / MEGABYTE:.2f} MB"
        show_lines([f"engine {engine.name}: {built}; machine code, used only with trust_engines=True"])


def _tuned(bundle: Bundle) -> str:
    """What `tune` has found for it on this device, with the threads that an engine takes by default."""
    from icf_deploy.runtimes.tuned import recall

    choice = recall(bundle, None)
    return "not on this device: icf-deploy tune" if choice is None else str(choice)


def _cells(graph: GraphEntry, default: str) -> tuple[str, ...]:
    name = graph.name + (" *" if graph.name == default and graph.name else "")
    size = f"{graph.size[0]}x{graph.size[1]}"
    return name, graph.part, graph.recipe, size, f"{graph.bytes / MEGABYTE:.2f}", graph.sha256[:SHOWN_DIGITS]


def _details(graph: GraphEntry) -> list[str]:
    """Rewrites and measurements of one graph."""
    lines = [f"{graph.name}:"]
    lines += [f"  rewrite applied: {name}" for name in graph.lowering.applied]
    lines += [f"  rewrite skipped: {rewrite.name}: {rewrite.reason}" for rewrite in graph.lowering.skipped]
    if not graph.lowering.applied and not graph.lowering.skipped:
        lines.append("  no rewrites: the graph as it was exported")
    return lines + _measurements(graph.measurements)


def _measurements(values: Any, indent: str = "  ") -> list[str]:
    """Free values, one a line, nested ones indented."""
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_measurements(value, indent + "  ")]
        else:
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"
            lines.append(f"{indent}{name}: {shown}")
    return lines
