"""`icf-deploy export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from icf_deploy.cli.options import PATH, Size, json_option, overwrite_option
from icf_deploy.cli.terminal import say, show_json, show_lines
from icf_deploy.errors import EngineUnavailableError

PRECISIONS = ("fp32",)
HOST_PACKAGES = ("torch", "onnx", "onnxscript", "onnx_ir", "safetensors")


@click.command("export", short_help="Turn a checkpoint into a bundle.")
@click.argument("source", required=False, metavar="[CHECKPOINT|PRESET]")
@click.option("-o", "--output", type=PATH, metavar="NAME.icf", help="Bundle to write; by default ./PRESET.icf.")
@click.option("--size", type=Size(), default="256", show_default=True, help="What the network sees: a side, or height x width.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True, help="Number format of the graph."
)
@click.option(
    "--with-checkpoint", is_flag=True, help="Put the weights in as well, so that --engine pytorch runs from the bundle."
)
@click.option("--no-lowering", is_flag=True, help="Leave the exact rewrites out: the graph as torch.onnx.export makes it.")
@click.option("--keep", multiple=True, metavar="NAME", help="Leave one rewrite out (repeatable); `inspect` lists their names.")
@click.option("--portable-ops", is_flag=True, help="Only operators that strict targets take: no einsum, at most 5 dimensions.")
@click.option("--split", is_flag=True, help="Also write features, palette and paint as graphs of their own.")
@overwrite_option
@json_option
def command(
    *,
    source: str | None,
    output: Path | None,
    size: tuple[int, int],
    precision: str,
    overwrite: bool,
    as_json: bool,
    with_checkpoint: bool,
    no_lowering: bool,
    keep: tuple[str, ...],
    portable_ops: bool,
    split: bool,
) -> None:
    """Turn a checkpoint into a bundle: graph, reference set, hashes.

    CHECKPOINT is a trained file (ICF .safetensors; DDColor .pth, .pt, .bin, .safetensors), PRESET a network with shipped
    weights; without either it is icf-edge. Nothing is written unless the graph agrees with PyTorch on real photos.
    """
    _require_host()
    from icf_deploy.export.pipeline import export_bundle

    asked: dict[str, Any] = {"lowering": False} if no_lowering else {}
    asked |= {"keep": keep} if keep else {}
    asked |= {name: True for name, wanted in (("portable_ops", portable_ops), ("split", split)) if wanted}
    bundle = export_bundle(
        source,
        output,
        size=size,
        overwrite=overwrite,
        with_checkpoint=with_checkpoint,
        command=shlex.join(["icf-deploy", *sys.argv[1:]]),
        progress=lambda line: say(f"{line} ..."),
        **asked,
    )
    graph = bundle.manifest.graph(bundle.manifest.default_graph)
    assert graph is not None  # the manifest was checked when it was written
    if as_json:
        show_json({"bundle": str(bundle.path), "digest": bundle.digest, "precision": precision, "graph": graph.name,
                   "bytes": graph.bytes, "max_abs_ab": bundle.manifest.parity.max_abs_ab})  # fmt: skip
    else:
        show_lines([str(bundle.path)])
        say(f"{graph.bytes / 1e6:.1f} MB; differs from PyTorch by at most {bundle.manifest.parity.max_abs_ab:.2g} in ab")


def _require_host() -> None:
    """Raise EngineUnavailableError where the packages of the host side are missing."""
    import importlib.util

    missing = [name for name in HOST_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineUnavailableError(
            f"exporting needs {', '.join(missing)}, which this machine does not have: pip install 'icf-deploy[export]'"
        )
