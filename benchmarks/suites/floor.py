"""How near an engine comes to what the chip can do: GMAC of each part over the rate of the format that it ran in, summed.

    python benchmarks/suites/floor.py BUNDLE [--graph NAME] [--engine openvino:cpu-bf16] [--rounds 12]

The rates are those of plain large convolutions and matrix products (see SHAPES) in each format on the same engine, measured in
the same run, the faster of the two. In which format each node of the graph ran is read from OpenVINO's compiled model. Memory,
elementwise work and the small shapes of a real network are not in the floor: it cannot be reached. Run it on a quiet machine.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from icf_deploy.benchmarks import Candidate, compare
from icf_deploy.errors import ArtefactError, UsageError

# (side of the map, channels, kernel) of the plain products: a 3x3 convolution and a 1x1, which is a matrix product.
SHAPES = {"convolution": (64, 512, 3), "product": (64, 1024, 1)}
LAYERS = 3  # of them in a row; what leads in and out is under a hundredth of the work
INT8_STEP = 0.05  # of the plain int8 graph's activations
NARROWEST_FIRST = ("int8", "bf16", "fp16", "fp32")
READERS = 3  # names that are tried for a product: its own, its readers', and theirs
UNTOLD = 0.05  # share of the GMAC whose format the engine may leave untold
MILLISECOND = 1e6  # nanoseconds
NETWORK = "the network"


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--graph", default=None, help="Graph of the bundle; by default its default one.")
@click.option("--engine", default="openvino:cpu-bf16", show_default=True)
@click.option("--rounds", default=12, show_default=True)
@click.option("--processes", default=4, show_default=True)
@click.option("--threads", default=None, type=int)
@click.option("--json", "as_json", is_flag=True)
def main(
    *, bundle: Path, graph: str | None, engine: str, rounds: int, processes: int, threads: int | None, as_json: bool
) -> None:
    from icf_deploy.bundle.opening import open_bundle

    opened = open_bundle(bundle)
    model = onnx.load_from_string(opened.graph(graph).data)
    work = work_by_format(model, engine, opened.graph(graph))
    with tempfile.TemporaryDirectory(prefix="icf-floor-") as folder:
        rows = [Candidate(NETWORK, engine, threads, bundle=bundle, graph=graph)]
        gmac = {}
        for form in work:
            for shape, sizes in SHAPES.items():
                plain = plain_graph(*sizes, form)
                path = Path(folder) / f"{form}-{shape}.onnx"
                path.write_bytes(plain.SerializeToString())
                rows.append(Candidate(f"{form} {shape}", _plain_engine(form), threads, file=path))
                gmac[rows[-1].label] = gmac_of(plain)
        found = compare(rows, rounds=rounds, processes=processes, seconds_per_turn=0.2, calls_per_turn=3)
    for row in found.rows:
        if row.error is not None:
            raise click.ClickException(str(row.error))
    times = {row.candidate.label: float(np.median(row.samples)) / MILLISECOND for row in found.rows}
    rates = {form: max(gmac[label] / times[label] for label in gmac if label.startswith(f"{form} ")) * 1000 for form in work}
    result = Floor(work, rates, times[NETWORK])
    if as_json:
        click.echo(json.dumps(result.to_json() | {"engine": engine, "cpu": found.machine.cpu, "warnings": found.warnings()}))
        return
    click.echo(result.text())
    for warning in found.warnings():
        click.echo(f"warning: {warning}")


@dataclass(frozen=True)
class Floor:
    """work: GMAC by format. rates: GMAC per second by format. milliseconds: measured latency of the network."""

    work: Mapping[str, float]
    rates: Mapping[str, float]
    milliseconds: float

    @property
    def floor(self) -> float:
        """Milliseconds."""
        return sum(gmac / self.rates[form] for form, gmac in self.work.items()) * 1000

    def text(self) -> str:
        """Line by line."""
        lines = [
            f"{form}: {gmac:.3f} GMAC at {self.rates[form]:.0f} GMAC/s = {gmac / self.rates[form] * 1000:.2f} ms"
            for form, gmac in self.work.items()
        ]
        ratio = self.milliseconds / self.floor
        return "\n".join([*lines, f"floor {self.floor:.2f} ms; measured {self.milliseconds:.2f} ms; ratio {ratio:.2f}"])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "gmac": dict(self.work),
            "gmac_per_second": dict(self.rates),
            "floor_ms": self.floor,
            "measured_ms": self.milliseconds,
            "ratio": self.milliseconds / self.floor,
        }


def work_by_format(model: onnx.ModelProto, engine: str, graph: Any) -> dict[str, float]:
    """GMAC of a graph by the format in which the engine ran it, for a batch of one.

    What the engine does not tell counts as the fastest format that it used, so that the floor is not too high. Raises
    ArtefactError where that is more than UNTOLD of all, UsageError for an engine other than OpenVINO on the CPU.
    """
    from icf_deploy.export.statistics import node_gmac
    from icf_deploy.runtimes import registry

    name, device = registry.split(engine)
    if name != "openvino" or not device.startswith("cpu"):
        raise UsageError(f"--engine {engine}: only OpenVINO on the CPU tells the format of every node")
    gmac = node_gmac(model)
    formats = formats_of_nodes(graph, device)
    work: Counter[str] = Counter()
    for node, share in gmac.items():
        form = found_for(node, model.graph, formats)
        if form is not None:
            work[form] += share  # type: ignore[assignment]  # a Counter of floats
    untold = sum(gmac.values()) - sum(work.values())
    if untold > UNTOLD * sum(gmac.values()):
        raise ArtefactError(f"{engine} does not tell the format of {untold / sum(gmac.values()):.0%} of the work")
    fastest = next(form for form in NARROWEST_FIRST if form in work)
    work[fastest] += untold  # type: ignore[assignment]
    return dict(work)


def found_for(node: str, graph: onnx.GraphProto, told: Mapping[str, str]) -> str | None:
    """What is told of a node, by its own name or by that of a node that reads it: a fused bias names the product."""
    names = [node]
    for _ in range(READERS):
        found = next((told[name] for name in names if name in told), None)
        if found is not None:
            return found
        given = {output for one in graph.node if one.name in names for output in one.output}
        names = [one.name for one in graph.node if given.intersection(one.input)]
    return None


def formats_of_nodes(graph: Any, device: str) -> dict[str, str]:
    """{name of a node of the graph: format in which OpenVINO computes it}, for those that its compiled model names."""
    from icf_deploy.runtimes.base import Target
    from icf_deploy.runtimes.openvino import FORMAT_OF_PRECISION, NOT_COMPUTING
    from icf_deploy.runtimes.openvino_compile import compile_cached

    compiled = compile_cached(graph, Target(device))
    found = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        form = FORMAT_OF_PRECISION.get(facts["runtimePrecision"])
        if form is not None and facts["layerType"] not in NOT_COMPUTING:
            found |= {name.partition("/")[0]: form for name in facts["originalLayersNames"].split(",") if name}
    return found


def plain_graph(side: int, channels: int, kernel: int, form: str) -> onnx.ModelProto:
    """gray [N,1,side,side] -> ab [N,2,side,side] through LAYERS large convolutions, for int8 with Q/DQ around each."""
    generator = np.random.default_rng(0)
    initializers, nodes = [], []

    def constant(name: str, array: np.ndarray[Any, Any]) -> str:
        initializers.append(numpy_helper.from_array(array, name))
        return name

    def convolution(number: int, source: str, sizes: tuple[int, int], side_of_kernel: int, quantized: bool) -> str:
        weight = generator.normal(0, 1 / np.sqrt(sizes[1] * side_of_kernel**2), (*sizes, side_of_kernel, side_of_kernel))
        if quantized:
            scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
            codes = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
            step, zero = constant(f"step{number}", np.float32(INT8_STEP)), constant(f"zero{number}", np.int8(0))
            nodes.append(helper.make_node("QuantizeLinear", [source, step, zero], [f"codes{number}"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"codes{number}", step, zero], [f"value{number}"]))
            zeros = constant(f"zeros{number}", np.zeros(sizes[0], np.int8))
            inputs = [constant(f"weight_codes{number}", codes), constant(f"scales{number}", scale.astype(np.float32)), zeros]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"weight{number}"], axis=0))
            source, name = f"value{number}", f"weight{number}"
        else:
            name = constant(f"weight{number}", weight.astype(np.float32))
        margin = side_of_kernel // 2
        out = f"y{number}"
        nodes.append(helper.make_node("Conv", [source, name], [out], pads=[margin] * 4, name=f"conv{number}"))
        nodes.append(helper.make_node("Relu", [out], [f"x{number}"]))
        return f"x{number}"

    value = convolution(0, "gray", (channels, 1), 1, quantized=False)
    for number in range(1, LAYERS + 1):
        value = convolution(number, value, (channels, channels), kernel, quantized=form == "int8")
    weight = constant("last", generator.normal(0, 0.01, (2, channels, 1, 1)).astype(np.float32))
    nodes.append(helper.make_node("Conv", [value, weight], ["ab"]))
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info("gray", TensorProto.FLOAT, ["N", 1, side, side])],
        [helper.make_tensor_value_info("ab", TensorProto.FLOAT, ["N", 2, side, side])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def gmac_of(model: onnx.ModelProto) -> float:
    """GMAC for a batch of one."""
    from icf_deploy.export.statistics import statistics

    return statistics(model).gmac


def _plain_engine(form: str) -> str:
    """The device of the plain graph in a format: the hint is what makes float32 bf16."""
    return "openvino:cpu-bf16" if form == "bf16" else "openvino:cpu"


if __name__ == "__main__":
    main()
