"""Which `icf-edge`? Times untrained candidates by width and output stride, each engine alone in a process of its own.

    python benchmarks/suites/edge_architecture.py WORK_DIR [--rounds N]

Writes graphs, WORK_DIR/table.json, and prints the table that docs/icf-edge.md records. Rounds are interleaved and shuffled: in
every round each live worker gets one turn alone, the others block on a pipe. A figure is the median over rounds of the
turn's median; a ratio is the median over rounds of the ratio within the round.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np

SIZE = 256
THREADS = 2
SECONDS_PER_TURN = 0.3
WARM_UP_CALLS = 3
CALIBRATION_PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")
WIDTHS = {"96-64-48": (96, 96, 64, 48), "128-96-64": (128, 128, 96, 64), "160-128-96": (160, 160, 128, 96)}
STRIDES = (1, 2, 4)
BASELINE = "ddcolor-tiny ort-fp32"


def grays() -> np.ndarray:
    """Real photos as gray float32 [N,1,SIZE,SIZE] (plain luma: only timing and calibration ranges depend on it)."""
    import cv2
    import skimage.data

    photos = [cv2.cvtColor(getattr(skimage.data, name)(), cv2.COLOR_RGB2GRAY) for name in CALIBRATION_PHOTOS]
    small = [cv2.resize(photo, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for photo in photos]
    return np.stack(small)[:, None].astype(np.float32) / 255


def write_graphs(folder: Path) -> list[tuple[str, str, str]]:
    """Export every candidate; returns (label, engine, file)."""
    import torch

    from icf_deploy.network.presets import DDCOLOR_PRESETS, EdgeConfig, build_ddcolor, build_edge, pretrained_backbone

    def export(network: torch.nn.Module, path: Path) -> None:
        if path.exists():
            return
        network.eval()
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 1, SIZE, SIZE),),
            input_names=["gray"],
            output_names=["ab"],
            dynamo=True,
            verbose=False,
            dynamic_shapes={"gray": {0: torch.export.Dim("batch", min=1, max=64)}},
        )
        program.save(str(path))

    torch.manual_seed(0)
    export(build_ddcolor(DDCOLOR_PRESETS["ddcolor-tiny"]), folder / "ddcolor-tiny.onnx")
    candidates = [("ddcolor-tiny", "ort-fp32", "ddcolor-tiny.onnx")]
    for name, widths in WIDTHS.items():
        for stride in STRIDES:
            label = f"{name} stride {stride}"
            network = build_edge(EdgeConfig(widths=widths, stride=stride))
            pretrained_backbone(network)
            path = folder / f"{name}-s{stride}.onnx"
            export(network, path)
            torch.save(network, folder / f"{name}-s{stride}.pt")
            quantize(path)
            candidates += [(label, engine, path.name) for engine in ("ort-fp32", "ov-bf16", "ov-int8", "eager")]
    return candidates


def quantize(path: Path) -> None:
    """NNCF's post-training int8 with its defaults, as an OpenVINO model beside the graph."""
    target = path.with_suffix(".int8.xml")
    if target.exists():
        return
    import nncf
    import openvino

    quantized = nncf.quantize(
        openvino.Core().read_model(path),
        nncf.Dataset([{"gray": gray[None]} for gray in grays()]),
        subset_size=len(CALIBRATION_PHOTOS),
    )
    openvino.save_model(quantized, target, compress_to_fp16=False)


def opened(engine: str, path: Path):  # type: ignore[no-untyped-def]  # engines have no common type here
    """A function gray -> ab."""
    if engine == "ort-fp32":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda gray: session.run(None, {"gray": gray})[0]
    if engine == "eager":
        import torch

        torch.set_num_threads(THREADS)
        network = torch.load(path.with_suffix(".pt"), weights_only=False)  # written by this script, a moment ago

        def run(gray: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return network.eval()(torch.from_numpy(gray)).numpy()

        return run
    import openvino

    core = openvino.Core()
    precision = "bf16" if engine == "ov-bf16" else "f32"
    file = path if engine == "ov-bf16" else path.with_suffix(".int8.xml")
    compiled = core.compile_model(
        file, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
    )
    request = compiled.create_infer_request()
    return lambda gray: request.infer({"gray": gray})[0]


def work(engine: str, path: Path) -> None:
    """A worker: for each line on standard input, one turn; answers with its median in milliseconds."""
    run = opened(engine, path)
    inputs = [gray[None] for gray in grays()]
    for gray in inputs:
        run(gray)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        for gray in inputs[:WARM_UP_CALLS]:
            run(gray)
        samples: list[int] = []
        end = time.perf_counter_ns() + int(SECONDS_PER_TURN * 1e9)
        while time.perf_counter_ns() < end or len(samples) < 3:
            start = time.perf_counter_ns()
            run(inputs[len(samples) % len(inputs)])
            samples.append(time.perf_counter_ns() - start)
        sys.stdout.write(f"{statistics.median(samples) / 1e6}\n")
        sys.stdout.flush()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--rounds", default=20)
@click.option("--only", default="", help="Only candidates whose file starts so, e.g. 128-96-64-s2.")
@click.option("--worker", nargs=2, hidden=True)
def main(folder: Path, rounds: int, only: str, worker: tuple[str, str] | None) -> None:
    """Time the candidates in FOLDER."""
    if worker:
        work(worker[0], folder / worker[1])
        return
    folder.mkdir(parents=True, exist_ok=True)
    candidates = [c for c in write_graphs(folder) if not only or c[2].startswith(("ddcolor", only))]
    workers = {}
    for label, engine, file in candidates:
        process = subprocess.Popen(
            [sys.executable, __file__, str(folder), "--worker", engine, file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None, f"{label} {engine} died"
        workers[f"{label} {engine}"] = process
    times: dict[str, list[float]] = {name: [] for name in workers}
    order = random.Random(0)
    for done in range(rounds):
        names = list(workers)
        order.shuffle(names)
        for name in names:
            process = workers[name]
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            times[name].append(float(process.stdout.readline()))
        click.echo(f"round {done + 1}/{rounds}", err=True)
    for process in workers.values():
        process.kill()
    (folder / "table.json").write_text(json.dumps(times, indent=1))

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))

    click.echo(f"{BASELINE}: {statistics.median(times[BASELINE]):.1f} ms")
    click.echo(
        "| widths, stride | eager ms | ORT fp32 ms | DDColor-tiny / ORT fp32 | OpenVINO bf16 ms | OpenVINO int8 ms "
        "| eager / best OpenVINO |"
    )
    click.echo("|---|---|---|---|---|---|---|")
    for label in dict.fromkeys(label for label, _, _ in candidates[1:]):
        ms = {e: statistics.median(times[f"{label} {e}"]) for e in ("eager", "ort-fp32", "ov-bf16", "ov-int8")}
        best = max(ratio(f"{label} eager", f"{label} {e}") for e in ("ov-bf16", "ov-int8"))
        click.echo(
            f"| {label} | {ms['eager']:.1f} | {ms['ort-fp32']:.2f} | {ratio(BASELINE, f'{label} ort-fp32'):.1f} "
            f"| {ms['ov-bf16']:.2f} | {ms['ov-int8']:.2f} | {best:.1f} |"
        )


if __name__ == "__main__":
    main()
