"""Where an engine's time goes: OpenVINO's own counters, layer by layer, beside each layer's work.

    python benchmarks/suites/openvino_profile.py BUNDLE [--graph NAME] [--engine openvino:cpu-bf16] [--calls 100] [--layers 12]

The first table sums layers of one kind, the second names the slowest. GMAC/s beside the rate of a plain large product (see
floor.py) tells how far a layer is from what the chip can do. Counting costs time of its own, so shares count, not sums. Run it
on a quiet machine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from floor import found_for  # this folder is on the path of a script

from icf_deploy.runtimes import registry

WARM_UP = 5  # calls
MILLISECONDS = 1000.0  # in a second


@dataclass(frozen=True)
class Layer:
    """One layer of a compiled model. milliseconds: mean over calls. gmac: of the graph's products that it computes."""

    name: str
    kind: str
    milliseconds: float
    gmac: float
    shape: str

    @property
    def rate(self) -> str:
        """GMAC per second, empty where the layer has no products."""
        return f"{self.gmac / self.milliseconds * MILLISECONDS:.0f}" if self.gmac and self.milliseconds else ""


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--graph", default=None, help="Graph of the bundle; by default its default one.")
@click.option("--engine", default="openvino:cpu-bf16", show_default=True)
@click.option("--calls", default=100, show_default=True)
@click.option("--layers", "most", default=12, show_default=True, help="Slowest layers to name.")
@click.option("--threads", default=None, type=int)
def main(*, bundle: Path, graph: str | None, engine: str, calls: int, most: int, threads: int | None) -> None:
    from icf_deploy.bundle.opening import open_bundle

    opened = open_bundle(bundle)
    layers = profile(opened.graph(graph), opened.reference().gray[:1], registry.split(engine)[1], calls, threads)
    total = sum(layer.milliseconds for layer in layers)
    kinds: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        kinds[layer.kind].append(layer)
    click.echo("| kind of layer | layers | ms | share | GMAC | GMAC/s |\n|---|--:|--:|--:|--:|--:|")
    sums = [
        Layer(kind, kind, sum(one.milliseconds for one in those), sum(one.gmac for one in those), str(len(those)))
        for kind, those in kinds.items()
    ]
    for one in sorted(sums, key=lambda one: -one.milliseconds):
        work = f"{one.gmac:.3f}" if one.gmac else ""
        click.echo(
            f"| {one.kind} | {one.shape} | {one.milliseconds:.2f} | {one.milliseconds / total:.0%} | {work} | {one.rate} |"
        )
    click.echo(f"\nall {len(layers)} layers: {total:.2f} ms, while they are counted\n")
    click.echo("| slowest layers | kind | output | ms | GMAC/s |\n|---|---|---|--:|--:|")
    for layer in sorted(layers, key=lambda one: -one.milliseconds)[:most]:
        click.echo(f"| {layer.name} | {layer.kind} | {layer.shape} | {layer.milliseconds:.2f} | {layer.rate} |")


def profile(graph: Any, gray: np.ndarray[Any, Any], device: str, calls: int, threads: int | None) -> list[Layer]:
    """Mean time of every layer over `calls` calls on `gray`, compiled as our runtime compiles it."""
    import openvino

    from icf_deploy.export.statistics import node_gmac
    from icf_deploy.runtimes.base import Target
    from icf_deploy.runtimes.openvino_compile import plan_for

    core = openvino.Core()
    model = core.read_model(graph.data)
    model.reshape(list(gray.shape))
    plan = plan_for(graph, Target(device, threads))
    compiled = core.compile_model(model, plan.device, {**dict(plan.options), "PERF_COUNT": True})
    request = compiled.create_infer_request()
    for _ in range(WARM_UP):
        request.infer({0: gray})
    seconds: Counter[str] = Counter()
    kinds = {}
    for _ in range(calls):
        request.infer({0: gray})
        for counted in request.profiling_info:
            spent = counted.real_time.total_seconds()
            if spent > 0:
                seconds[counted.node_name] += spent  # type: ignore[assignment]  # a Counter of floats
                kinds[counted.node_name] = f"{counted.node_type}, {counted.exec_type}"
    nodes = {node.get_friendly_name(): node for node in compiled.get_runtime_model().get_ordered_ops()}
    layer_of = {
        name.partition("/")[0]: layer
        for layer, node in nodes.items()
        if layer in seconds
        for name in node.get_rt_info()["originalLayersNames"].astype(str).split(",")
        if name
    }
    onnx_model = onnx.load_from_string(graph.data)
    work: Counter[str] = Counter()
    for node, gmac in node_gmac(onnx_model).items():
        layer = found_for(node, onnx_model.graph, layer_of)
        if layer is not None:
            work[layer] += gmac  # type: ignore[assignment]  # a Counter of floats
    return [
        Layer(
            name,
            kinds[name],
            spent / calls * MILLISECONDS,
            work.get(name, 0.0),
            str(nodes[name].get_output_partial_shape(0)) if name in nodes else "",
        )
        for name, spent in seconds.items()
    ]


if __name__ == "__main__":
    main()
