"""What a user would do without us, next to us: same network, same photos, each engine alone in a process of its own.

    python benchmarks/suites/peers.py prepare CHECKPOINT FOLDER [--size 256] [--threads 2] [--also BUNDLE]
    python benchmarks/suites/peers.py measure FOLDER [--rounds 20] [--processes 4] [--together 3] [--seconds S]
    python benchmarks/suites/peers.py pair FOLDER [--within 1.0] [--rounds 20] [--processes 5]
    python benchmarks/suites/peers.py table FOLDER

`prepare` writes every graph and measures its drift; CHECKPOINT is a file, or `icf-edge` for the shipped one. `--also` adds the
graphs of another bundle of the same checkpoint, such as one in fewer bits, in OpenVINO as they are written. Running it again
with other weights of the same shape measures all drift anew and keeps the latencies. `measure` compares engines with PyTorch
eager, in the better of both memory formats, a few at a time, and adds to latency.json; what is there is not measured again.
`pair` takes the fastest of ours and the fastest peer whose drift is within the limit, then the fastest of each whatever it
drifts, and compares those directly.
`table` prints both as Markdown. Run `measure` on a quiet machine.

The alternatives get what their documentation offers first: defaults everywhere, only the number of threads is the same for all.
The int8 ones are calibrated on real photos, which are not those that the drift is measured on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from icf_deploy.benchmarks import Candidate, Comparison, compare
from icf_deploy.benchmarks.measured import ratio_of
from icf_deploy.benchmarks.memory import MEGABYTE
from icf_deploy.benchmarks.report import peak_memory, running_memory
from icf_deploy.benchmarks.result_file import drift_text
from icf_deploy.errors import IcfError

EAGER, CHANNELS_LAST = "PyTorch eager", "PyTorch eager, channels last"
BASELINES = (EAGER, CHANNELS_LAST)
OURS = ("ort:cpu", "openvino:cpu", "openvino:cpu-bf16")
PEERS = "icf_deploy.benchmarks.peers"
PLAN, DRIFT, LATENCY = "plan.json", "drift.json", "latency.json"
CALIBRATION_PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "china", "flower")  # and each of them mirrored
MILLISECOND = 1e6  # nanoseconds
Gray = np.ndarray[Any, np.dtype[np.float32]]


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("checkpoint")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--size", default=256, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--also", type=click.Path(path_type=Path, exists=True), help="Bundle with further graphs of ours.")
def prepare(checkpoint: str, folder: Path, size: int, threads: int, also: Path | None) -> None:
    """Write the graphs, open every engine once, and measure its drift."""
    from icf_deploy.benchmarks.inputs import inputs_of
    from icf_deploy.benchmarks.remote import WorkerProcess
    from icf_deploy.bundle.opening import open_bundle
    from icf_deploy.quality.drift import measure_drift

    folder.mkdir(parents=True, exist_ok=True)
    digest = write_graphs(checkpoint, folder, (size, size))
    candidates = candidates_of(folder.resolve(), size, threads)
    if also is not None:
        candidates += further_graphs(also.resolve(), threads)
    plan = {"checkpoint": digest, "size": size, "threads": threads, "rows": [one.to_json() for one in candidates]}
    (folder / PLAN).write_text(json.dumps(plan, indent=1))
    bundle = open_bundle(folder / "lowered.icf")
    reference = bundle.reference()
    cache_compiled(folder)
    found: dict[str, Any] = {}
    for candidate in candidates:
        try:
            with WorkerProcess(candidate, "engine", inputs_of("engine", reference.gray[:1])) as worker:
                table = measure_drift(worker, reference)
        except IcfError as error:
            found[candidate.label] = {"checkpoint": digest, "bytes": None, "error": str(error)}
            click.echo(f"{candidate.label}: {error}")
            continue
        found[candidate.label] = {"checkpoint": digest, "bytes": bytes_of(candidate), **table.to_json()["metrics"]}  # type: ignore[dict-item]
        (folder / DRIFT).write_text(json.dumps(found, indent=1))
        click.echo(f"{candidate.label}: drift {table.value('de2000_p95'):.4f}")
    (folder / DRIFT).write_text(json.dumps(found, indent=1))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=20, show_default=True)
@click.option("--processes", default=4, show_default=True, help="Fresh ones of each engine.")
@click.option("--together", default=3, show_default=True, help="Engines in one comparison, PyTorch eager not counted.")
@click.option("--turn", default=0.3, show_default=True, help="Seconds of timed calls in one turn, at least.")
@click.option("--calls", default=3, show_default=True, help="Timed calls in one turn, at least.")
@click.option("--seconds", default=math.inf, help="Start no further comparison after so many seconds.")
@click.option("--only", multiple=True, help="Only rows whose name holds this.")
def measure(
    *,
    folder: Path,
    rounds: int,
    processes: int,
    together: int,
    turn: float,
    calls: int,
    seconds: float,
    only: tuple[str, ...],
) -> None:
    """Compare the engines with PyTorch eager."""
    from icf_deploy.benchmarks.inputs import reference_gray

    start = time.monotonic()
    plan = json.loads((folder / PLAN).read_text())
    candidates = {row["label"]: Candidate.from_json(row) for row in plan["rows"]}
    photos = reference_gray(folder / "lowered.icf")
    broken = {label for label, row in _read(folder / DRIFT).items() if "error" in row}
    cache_compiled(folder)
    while time.monotonic() - start < seconds:
        results = _read(folder / LATENCY)
        wanted = [label for label in candidates if not only or any(part in label for part in only)]
        missing = [label for label in wanted if label not in results and label not in broken and label not in BASELINES]
        baselines = [results["baseline"]] if "baseline" in results else list(BASELINES)
        chosen = missing[: max(0, together - len(baselines) + 1)]
        if not chosen and "baseline" in results:
            return
        found = compare(
            [candidates[label] for label in (*baselines, *chosen)],
            rounds=rounds,
            processes=processes,
            seconds_per_turn=turn,
            calls_per_turn=calls,
            inputs=photos,
        )
        if found.interrupted:
            raise click.Abort
        best = min(baselines, key=lambda label: found.median(label).value or math.inf)
        for label in (*(label for label in baselines if label not in results), *chosen):
            row = found.row(label)
            if row.error is not None:
                click.echo(f"{label}: {row.error}")
                results[label] = {"error": str(row.error)}
                continue
            results[label] = _figures(found, label, best) | {"checkpoint": plan["checkpoint"], "threads": plan["threads"]}
            click.echo(f"{label}: {results[label]['p50']:.2f} ms, ratio {results[label]['ratio']}")
        _write(folder / LATENCY, results | {"baseline": best})


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--within", default=1.0, show_default=True, help="Largest drift allowed, CIEDE2000 p95, mean over photos.")
@click.option("--rounds", default=20, show_default=True)
@click.option("--processes", default=5, show_default=True, help="Fresh ones of each engine.")
@click.option("--turn", default=0.3, show_default=True, help="Seconds of timed calls in one turn, at least.")
@click.option("--calls", default=3, show_default=True, help="Timed calls in one turn, at least.")
def pair(*, folder: Path, within: float, rounds: int, processes: int, turn: float, calls: int) -> None:
    """Compare the fastest of ours with the fastest peer."""
    from icf_deploy.benchmarks.inputs import reference_gray

    plan, drift, latency = (_read(folder / name) for name in (PLAN, DRIFT, LATENCY))
    candidates = {row["label"]: Candidate.from_json(row) for row in plan["rows"]}
    photos = reference_gray(folder / "lowered.icf")
    cache_compiled(folder)
    found = {}
    for limit in (within, math.inf):
        ours, peer = (_fastest(latency, drift, limit, own=own) for own in (True, False))
        if ours is None or peer is None:
            click.echo(f"within {limit:g}: nothing of ours was measured" if ours is None else f"within {limit:g}: no peer")
            continue
        run = compare(
            [candidates[peer], candidates[ours]],
            rounds=rounds,
            processes=processes,
            seconds_per_turn=turn,
            calls_per_turn=calls,
            inputs=photos,
        )
        if run.interrupted:
            raise click.Abort
        found[f"{limit:g}"] = {"ours": ours, "peer": peer, **_figures(run, ours, peer), "checkpoint": plan["checkpoint"]}
        click.echo(_pair_text(f"{limit:g}", found[f"{limit:g}"]))
        _write(folder / LATENCY, latency | {"pairs": found})


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def table(folder: Path) -> None:
    """Print the table as Markdown."""
    click.echo(markdown(folder))


def markdown(folder: Path) -> str:
    """The table of what was prepared and measured in `folder`, and what its columns are."""
    plan, drift, latency = (_read(folder / name) for name in (PLAN, DRIFT, LATENCY))
    baseline = latency.get("baseline")
    lines = [
        "| engine | p50 ms | 95 % | time / eager | 95 % | verdict | memory MB | drift | file MB |",
        "|---|--:|--:|--:|--:|---|--:|--:|--:|",
    ]
    for label in [row["label"] for row in plan["rows"]]:
        lines.append(f"| {' | '.join([label, *_cells(label, baseline, drift.get(label, {}), latency.get(label, {}))])} |")
    measured = [row for row in latency.values() if isinstance(row, dict) and "p50" in row]
    notes = [f"{plan['size']}x{plan['size']}, batch 1, {plan['threads']} threads, scope engine, the packaged reference photos."]
    if measured:
        eager = [row["baseline_p50"] for row in measured]
        rounds = sorted({f"{row['rounds']} rounds in {row['processes']} processes each" for row in measured})
        notes.append(
            f"On {measured[0]['cpu']}; {', '.join(rounds)}; {baseline} is the baseline of every comparison, and took "
            f"{min(eager):.1f} to {max(eager):.1f} ms in them. Memory: while running, beyond what loading took (peak)."
        )
    notes += [_pair_text(limit, found) for limit, found in latency.get("pairs", {}).items()]
    notes.append("Drift: CIEDE2000 to PyTorch float32, 95th percentile over pixels, mean over photos (worst photo).")
    if any(row.get("checkpoint") != plan["checkpoint"] for row in measured):
        notes.append("Latency was measured with other weights of the same shape than drift.")
    disturbed = sorted({line for row in measured for line in row["warnings"]})
    notes += [f"Warnings: {'; '.join(disturbed)}."] if disturbed else []
    return "\n".join([*lines, "", *notes])


def write_graphs(source: str, folder: Path, size: tuple[int, int]) -> str:
    """Write bundle, plain export and both int8 models, unless they are there; returns the checkpoint's SHA-256."""
    import onnx

    from icf_deploy.benchmarks.peers import quantize_nncf, quantize_static
    from icf_deploy.export import export_bundle
    from icf_deploy.export.graph import example_gray, to_onnx
    from icf_deploy.export.pipeline import open_source

    checkpoint = open_source(source)
    digest = hashlib.sha256(checkpoint.data).hexdigest()
    done = folder / "graphs.json"
    if _read(done) == {"checkpoint": digest, "size": list(size)}:
        return digest
    click.echo("exporting")
    export_bundle(source, folder / "lowered.icf", size=size, with_checkpoint=True, overwrite=True)
    plain = folder / "plain.onnx"
    onnx.save(to_onnx(checkpoint.network, (example_gray(size),)), plain)
    click.echo("quantizing")
    photos = calibration_gray(size)
    quantize_static(plain, folder / "quantize_static.onnx", photos)
    quantize_nncf(plain, folder / "nncf.xml", photos)
    done.write_text(json.dumps({"checkpoint": digest, "size": list(size)}))
    return digest


def candidates_of(folder: Path, size: int, threads: int) -> list[Candidate]:
    """All rows, in the order of the table. `folder` is absolute."""
    from icf_deploy.bundle.opening import open_bundle

    bundle = folder / "lowered.icf"
    entry = open_bundle(bundle).manifest.checkpoint
    assert entry is not None  # it was written with one
    weights = bundle / entry.file

    def torch_row(label: str, **options: Any) -> Candidate:
        return Candidate(
            label, "pytorch", threads, file=weights, opener=f"{PEERS}:torch_eager", options={"size": [size, size], **options}
        )

    def peer(label: str, opener: str, file: str) -> Candidate:
        return Candidate(label, opener.partition("_")[0], threads, file=folder / file, opener=f"{PEERS}:{opener}")

    return [
        torch_row(EAGER),
        torch_row(CHANNELS_LAST, channels_last=True),
        torch_row("torch.compile", compile=True),
        peer("ONNX Runtime, plain export", "ort_defaults", "plain.onnx"),
        peer("ONNX Runtime, quantize_static", "ort_defaults", "quantize_static.onnx"),
        peer("OpenVINO, plain export", "openvino_defaults", "plain.onnx"),
        peer("OpenVINO, NNCF int8", "openvino_defaults", "nncf.xml"),
        *(Candidate(f"icf-deploy fp32, {engine}", engine, threads, bundle=bundle) for engine in OURS),
    ]


def further_graphs(path: Path, threads: int) -> list[Candidate]:
    """Rows of the whole graphs of another bundle that are not in float32."""
    from icf_deploy.bundle.opening import open_bundle
    from icf_deploy.tuning.yardstick import chosen_graphs

    return [
        Candidate(f"icf-deploy {entry.name}, openvino:cpu", "openvino:cpu", threads, bundle=path, graph=entry.name)
        for entry in chosen_graphs(open_bundle(path), ())
        if entry.recipe != "fp32"
    ]


def calibration_gray(size: tuple[int, int]) -> Gray:
    """Real photos as the networks see them, and mirrored: float32 [N,1,H,W], gray of their CIELAB L."""
    import cv2
    import skimage.data
    import sklearn.datasets

    from icf_deploy.imaging.color import gray_of_l, l_of_pixels

    grays = []
    for name in CALIBRATION_PHOTOS:
        of_sklearn = name in ("china", "flower")
        photo = sklearn.datasets.load_sample_image(f"{name}.jpg") if of_sklearn else getattr(skimage.data, name)()
        gray = gray_of_l(l_of_pixels(np.ascontiguousarray(photo)))
        small = cv2.resize(gray, (size[1], size[0]), interpolation=cv2.INTER_AREA)
        grays += [small, small[:, ::-1]]
    return np.ascontiguousarray(np.stack(grays)[:, None], np.float32)


def bytes_of(candidate: Candidate) -> int:
    """Size of the files that the candidate runs."""
    if candidate.file is None:
        from icf_deploy.benchmarks.openers import graph_of

        return len(graph_of(candidate).data)
    files = [candidate.file, candidate.file.with_suffix(".bin")] if candidate.file.suffix == ".xml" else [candidate.file]
    return sum(file.stat().st_size for file in files)


def cache_compiled(folder: Path) -> None:
    """What torch.compile compiles is kept in `folder`: compiling it in every process would take minutes, and is no latency."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str((folder / "inductor").resolve())


def _figures(found: Comparison, label: str, baseline: str) -> dict[str, Any]:
    row, base = found.row(label), found.row(baseline)
    ratio, median, theirs = (
        None if label == baseline else ratio_of(row.turns, base.turns),
        found.median(label),
        found.median(baseline),
    )
    assert median.value is not None and theirs.value is not None
    interval = median.interval
    memory = (running_memory(row), peak_memory(row))
    return {
        "ratio": None if ratio is None else [ratio.ratio, ratio.low, ratio.high],
        "verdict": None if ratio is None else ratio.verdict,
        "smallest_effect": None if ratio is None else ratio.smallest_effect,
        "p50": median.value / MILLISECOND,
        "interval": None if interval is None or interval.low is None or interval.high is None
        else [interval.low / MILLISECOND, interval.high / MILLISECOND],
        "baseline_p50": theirs.value / MILLISECOND,
        "memory_mb": [None if held is None else held / MEGABYTE for held in memory],
        "calls": len(row.samples),
        "rounds": found.settings["rounds"],
        "processes": found.settings["processes"],
        "cpu": found.machine.cpu,
        "versions": found.machine.versions,
        "created": found.created,
        "warnings": row.warnings(),
    }  # fmt: skip


def _fastest(latency: dict[str, Any], drift: dict[str, Any], limit: float, *, own: bool) -> str | None:
    """The fastest row of ours, or of the peers, whose drift is finite and at most `limit`."""
    inside = [
        label
        for label, row in latency.items()
        if isinstance(row, dict) and "p50" in row and label.startswith("icf-deploy") == own
        if drift[label].get("de2000_p95") is not None and drift[label]["de2000_p95"] <= limit
    ]
    return min(inside, key=lambda label: float(latency[label]["p50"]), default=None)


def _pair_text(limit: str, found: dict[str, Any]) -> str:
    ratio, low, high = found["ratio"]
    within = "Whatever they drift" if limit == "inf" else f"Within a drift of {limit}"
    return (
        f"{within}, paired directly: {found['ours']} takes {ratio:.2f} ({low:.2f} to {high:.2f}) of the time of "
        f"{found['peer']}, the fastest peer ({found['p50']:.1f} and {found['baseline_p50']:.1f} ms; "
        f"{found['rounds']} rounds in {found['processes']} processes each)."
    )


def _cells(label: str, baseline: str | None, drift: dict[str, Any], latency: dict[str, Any]) -> list[str]:
    cells = ["-"] * 8
    if "p50" in latency:
        cells[0] = f"{latency['p50']:.1f}"
        cells[1] = "-" if latency["interval"] is None else "{:.1f} .. {:.1f}".format(*latency["interval"])
        running, peak = ("-" if held is None else f"{held:.0f}" for held in latency["memory_mb"])
        cells[5] = f"{running} ({peak})"
        if label == baseline:
            cells[2:5] = "1", "-", "baseline"
        elif latency["ratio"] is not None:
            ratio, low, high = latency["ratio"]
            cells[2:5] = f"{ratio:.3f}", f"{low:.3f} .. {high:.3f}", latency["verdict"]
    elif "error" in latency or "error" in drift:
        cells[4] = "failed"
    if drift.get("bytes") is not None:
        cells[6] = f"{_drift(drift, 'de2000_p95')} ({_drift(drift, 'de2000_p95_worst')})"
        cells[7] = f"{drift['bytes'] / MEGABYTE:.1f}"
    return cells


def _drift(drift: dict[str, Any], metric: str) -> str:
    return drift_text(math.inf if drift[metric] is None else drift[metric])


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _write(path: Path, results: dict[str, Any]) -> None:
    path.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
