"""What threads bring, and what calls leave behind: one session of each engine, alone in a process of its own.

    python benchmarks/suites/concurrency.py [BUNDLE] [--engine E ...] [--rounds N] [--seconds S]

Every call uses one thread of the engine's own. Turns of one and of two calling threads alternate; a rate is the median over
rounds, the ratio the median of the ratio within a round. Then 16 threads run the photos of the reference set at once for a few
seconds, compared with what each photo gets alone (tests/runtimes/test_concurrency.py does that with 200 photos a thread, on a
small network). Then 10,000 calls of a small network (1,000 of the checkpoint, for pytorch), and how much resident memory grew
after the first tenth; and what closing the session gives back. Run it on a quiet machine: about ten seconds an engine.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np

from icf_deploy.benchmarks.columns import aligned
from icf_deploy.benchmarks.memory import MEGABYTE, read_memory
from icf_deploy.bundle.opening import open_bundle
from icf_deploy.errors import IcfError
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import FloatArray, Session

THREADS, CALLS, WARM_CALLS = 16, 10_000, 1_000
TOGETHER_SECONDS = 5.0  # about as long the sixteen threads run
SMALL = (64, 96)  # pixels; the 10,000 calls take a network of two convolutions, so that they take seconds
MEASURED_ENGINES = ("ort:cpu", "openvino:cpu", "pytorch:cpu")


def rate(call: Callable[[], object], threads: int, seconds: float) -> float:
    """Calls per second of so many threads together."""
    counts = [0] * threads
    start = time.perf_counter()

    def work(index: int) -> None:
        while time.perf_counter() - start < seconds:
            call()
            counts[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - start)


def largest_difference(session: Session, photos: FloatArray, workers: int, count: int) -> float:
    """Largest |Δab| of photos that many threads run at once to those same photos alone."""
    alone = [session.run(photo[None]) for photo in photos]

    def work(worker: int) -> float:
        order = [(worker * 7 + index) % len(photos) for index in range(count)]
        return max(float(np.abs(session.run(photos[index][None]) - alone[index]).max()) for index in order)

    with ThreadPoolExecutor(workers) as pool:
        return max(pool.map(work, range(workers)))


def small_graph(folder: Path) -> Path:
    """A graph of two convolutions."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = [("first", (8, 1, 3, 3)), ("last", (2, 8, 1, 1))]
    values = [numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name) for name, shape in weights]
    nodes = [
        helper.make_node("Conv", ["gray", "first"], ["x"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Conv", ["y", "last"], ["ab"]),
    ]
    gray = helper.make_tensor_value_info("gray", TensorProto.FLOAT, ["batch", 1, *SMALL])
    ab = helper.make_tensor_value_info("ab", TensorProto.FLOAT, ["batch", 2, SMALL[0] // 2, SMALL[1] // 2])
    model = helper.make_model(
        helper.make_graph(nodes, "small", [gray], [ab], values),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    path = folder / "small.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def growth(engine: str, bundle: str | None, folder: Path) -> int | None:
    """Bytes that resident memory grew from the first tenth of the calls to the last; on a small graph where there is one."""
    import hashlib

    from icf_deploy.runtimes.base import Graph, Target

    name, device = registry.split(engine)
    runtime = registry.get(name)
    if registry.line(engine).runs_checkpoint:
        opened, calls = registry.open_session(open_bundle(bundle), engine, threads=1), CALLS // 10
    else:
        data = small_graph(folder).read_bytes()
        graph = Graph(data, hashlib.sha256(data).hexdigest(), SMALL, 2)
        opened, calls = runtime.open(runtime.build(graph, Target(device, 1))), CALLS
    before = None
    with opened as session:
        photos = np.random.default_rng(0).random((7, 1, *session.size), dtype=np.float32)
        for number in range(calls):
            session.run(photos[number % 7][None])
            if number == calls * WARM_CALLS // CALLS:
                before = read_memory().now
        after = read_memory().now
    return None if before is None or after is None else after - before


def measure(engine: str, bundle: str | None, rounds: int, seconds: float, folder: Path) -> dict[str, float | None]:
    """All figures of one engine, in this process."""
    opened = open_bundle(bundle)
    photos = opened.reference().gray
    grown = growth(engine, bundle, folder)
    empty = read_memory().now
    session = registry.open_session(opened, engine, threads=1)
    one = photos[:1]
    ratios, singles = [], []
    for _ in range(3):
        session.run(one)
    for _ in range(rounds):
        single, double = rate(lambda: session.run(one), 1, seconds), rate(lambda: session.run(one), 2, seconds)
        singles.append(single)
        ratios.append(double / single)
    difference = largest_difference(session, photos, THREADS, max(1, int(TOGETHER_SECONDS * singles[0] / THREADS)))
    full = read_memory().now
    session.close()
    left = read_memory().now
    return {
        "rate": statistics.median(singles),
        "ratio": statistics.median(ratios),
        "difference": difference,
        "grown": grown,
        "held": None if full is None or empty is None else full - empty,
        "freed": None if full is None or left is None else full - left,
    }


@click.command()
@click.argument("bundle", required=False)
@click.option("--engine", "engines", multiple=True, help="Default: ort:cpu, openvino:cpu, pytorch:cpu.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=0.6, show_default=True, help="Of one turn.")
@click.option("--child", hidden=True)
def main(bundle: str | None, engines: tuple[str, ...], rounds: int, seconds: float, child: str | None) -> None:
    """Measure each engine in a process of its own, and print one table."""
    if child is not None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(child, bundle, rounds, seconds, Path(folder))))
        return
    rows: list[tuple[str, ...]] = [
        (
            "engine",
            "1 thread\ncalls/s",
            "2 threads\nratio",
            "16 threads\nmax |Δab|",
            "10,000 calls\nMB",
            "held\nMB",
            "freed\nMB",
        )
    ]
    reasons: list[str] = []
    for engine in engines or MEASURED_ENGINES:
        command = [sys.executable, __file__, *([bundle] if bundle else []), "--child", engine]
        done = subprocess.run(
            [*command, "--rounds", str(rounds), "--seconds", str(seconds)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            rows.append((engine, *["-"] * 6))
            reasons.append(f"{engine}: {last[0]}")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        memory = ["-" if found[name] is None else f"{found[name] / MEGABYTE:.1f}" for name in ("grown", "held", "freed")]
        rows.append((engine, f"{found['rate']:.1f}", f"{found['ratio']:.2f}", f"{found['difference']:.1e}", *memory))
    print("\n".join([aligned(rows), *reasons]))


if __name__ == "__main__":
    try:
        main()
    except IcfError as error:
        sys.exit(f"error: {error}")
