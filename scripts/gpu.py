"""Everything that needs a CUDA GPU, in one go: the tests marked `gpu`, then the bench of the engines for GPUs, then one table.

    python scripts/gpu.py [BUNDLE] [--seconds S] [--json FILE] [--no-tests]

It runs from a checkout: nothing has to be installed but what an engine needs, and what is missing is a row that says so. A
machine with PyTorch for CUDA alone gives the rows of PyTorch; `onnxruntime-gpu`, `tensorrt` or `tensorrt-rtx-cu13` (each of the
last two with `cuda-bindings`) add theirs. Latency is of one call: gray in the host's memory in, ab in the host's memory out.

Exit status 0 where every test passed and at least one engine was measured; 1 where a test failed or none was; 5 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("benchmarks", "export", "runtimes")  # installed inside the package, kept beside it in the checkout
ENGINES = ("pytorch:cuda", "pytorch:cuda-compiled", "ort:cuda", "ort:tensorrt", "trt:cuda", "trt:cuda-tf32")
NO_GPU = 5
NS_PER_MS = 1e6
Json = dict[str, Any]

FACTS = """
import importlib, json, sys
from icf_deploy.runtimes import cuda, registry

facts = {"python": sys.version.split()[0], "driver present": cuda.driver_present()}
for name in ("torch", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda.bindings"):
    try:
        facts[name] = str(importlib.import_module(name).__version__)
    except Exception as error:
        facts[name] = f"not here ({error})"
try:
    import torch
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
        facts["capability"] = "sm%d%d" % torch.cuda.get_device_capability(0)
        facts["cuda of torch"] = str(torch.version.cuda)
except Exception:
    pass
try:
    found = cuda.find_gpu()
    facts.update({"gpu": found.name, "capability": found.sm, "driver": found.driver})
except Exception:
    pass
engines = {}
for name in registry.names():
    here = registry.get(name).available()
    engines[name] = {"ok": here.ok, "version": here.version, "reason": here.reason, "install": here.install}
print(json.dumps({"facts": facts, "engines": engines}))
"""


def main() -> int:
    """Run tests and bench, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description="Run every test marked gpu and the bench of the engines for GPUs.")
    parser.add_argument("bundle", nargs="?", help="default: the shipped one")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timed calls per engine")
    parser.add_argument("--json", type=Path, help="write everything that was found to this file")
    parser.add_argument("--no-tests", action="store_true")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="icf-gpu-") as name:
        folder = Path(name)
        environment = environment_for(folder)
        found = json.loads(run([sys.executable, "-c", FACTS], folder, environment).stdout.splitlines()[-1])
        for fact, value in found["facts"].items():
            print(f"{fact:15} {value}")
        if "gpu" not in found["facts"]:
            print(f"\n{without_gpu(found['engines'])}")
            return NO_GPU
        tests: dict[str, Counter[str]] = {}
        if not options.no_tests:
            print("\nrunning the tests marked gpu ...", flush=True)
            tests = run_tests(folder, environment)
        print("running the bench ...", flush=True)
        bench = run_bench(options, folder, environment)
    print("\n" + table(found["engines"], tests, bench))
    if options.json is not None:
        document = {**found, "tests": {engine: dict(counts) for engine, counts in tests.items()}, "bench": bench}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    failed = any(counts["failed"] for counts in tests.values())
    return 1 if failed or not any(row["calls"] for row in bench["rows"]) else 0


def without_gpu(engines: dict[str, Json]) -> str:
    """What a machine without a GPU is told: what would run, and why each engine would not."""
    lines = [
        "There is no CUDA GPU that PyTorch or cuda-bindings can reach: nothing was run. Where there is one, this runs the",
        "tests marked gpu, then the bench of these engines, each alone in a process, and prints a line for each: version,",
        "tests passed, formats executed, load time, p50 and p90 of one photo, photos per second, drift to the reference set.",
        "",
    ]
    for engine in ENGINES:
        name, _, device = engine.partition(":")
        runtime = engines[name]
        here = f"{name} {runtime['version']} is here without {device}: that takes a GPU, and a build for it"
        reason = here if runtime["ok"] else runtime["reason"].partition(";")[0]
        lines.append(f"{engine:22} {reason}{'; ' + runtime['install'] if runtime['install'] else ''}")
    return "\n".join(lines)


def environment_for(folder: Path) -> dict[str, str]:
    """An environment in which `icf_deploy` is this checkout: its stages are linked into the package as they are installed."""
    package = folder / "icf_deploy"
    package.mkdir()
    for source in (*(ROOT / "icf_deploy").iterdir(), *(ROOT / stage for stage in STAGES)):
        if source.name == "__pycache__":
            continue
        try:
            (package / source.name).symlink_to(source, target_is_directory=source.is_dir())
        except OSError:  # Windows asks for a privilege
            (shutil.copytree if source.is_dir() else shutil.copy)(source, package / source.name)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "ICF_DEPLOY_CACHE": str(folder / "cache")}


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command that prints a document; what it says on standard error goes to ours. Exits where it gives nothing."""
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout.strip():
        sys.exit(f"this failed with status {done.returncode}: {' '.join(command[:4])}")
    return done


def run_tests(folder: Path, environment: dict[str, str]) -> dict[str, Counter[str]]:
    """Outcomes of the tests marked gpu, per engine; "other" for those that name none."""
    report = folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), str(ROOT / "tests")],
        cwd=folder,
        env=environment,
        check=False,
    )
    outcomes: dict[str, Counter[str]] = {}
    if not report.is_file():
        return {"other": Counter(failed=1)}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        parameters = case.get("name", "").partition("[")[2].removesuffix("]")
        failed = case.find("failure") is not None or case.find("error") is not None
        outcome = "failed" if failed else "skipped" if case.find("skipped") is not None else "passed"
        outcomes.setdefault(engine_of(parameters), Counter())[outcome] += 1
    return outcomes


def engine_of(parameters: str) -> str:
    """The engine among a test's parameters, such as `trt:cuda` of `trt:cuda-shape0`; "other" without one."""
    found = [name for name in ENGINES if re.search(rf"(^|-){re.escape(name)}(-|$)", parameters)]
    return max(found, key=len, default="other")


def run_bench(options: argparse.Namespace, folder: Path, environment: dict[str, str]) -> Json:
    """The document of `icf-deploy bench`; an engine that is not here is a row with its reason."""
    bundle = [str(Path(options.bundle).resolve())] if options.bundle else []
    chosen = [part for engine in ENGINES for part in ("--engine", engine)]
    command = [sys.executable, "-m", "icf_deploy.cli", "bench", *bundle, *chosen, "--seconds", str(options.seconds), "--json"]
    document: Json = json.loads(run(command, folder, environment).stdout)
    return document


def table(engines: dict[str, Json], tests: dict[str, Counter[str]], bench: Json) -> str:
    """One line per engine, then why the missing ones are missing."""
    header = ["engine", "version", "tests", "formats", "load s", "p50 ms", "p90 ms", "photos/s", "ΔE p95", "|Δab| max"]
    lines, reasons = [header], []
    for row in bench["rows"]:
        name = row["engine"]
        if row["error"] is not None:
            reasons.append(row["error"]["message"])
        lines.append([name, engines[name.partition(":")[0]]["version"] or "-", outcome(tests.get(name)), *figures_of(row)])
    if "other" in tests:
        lines.append(["other tests", "-", outcome(tests["other"]), *["-"] * 7])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, "", *reasons])


def figures_of(row: Json) -> list[str]:
    """Formats, load time, latencies, rate and drift of a row of the bench."""
    if not row["calls"]:
        return ["-"] * 7
    values = {entry["percent"]: entry["value"] for entry in row["percentiles_ns"]}
    metrics = row["drift"]["metrics"] if row["drift"] else {}
    formats = "+".join(f"{name} x{count}" for name, count in (row["formats"] or {}).items())
    return [
        formats or "-",
        f"{row['starts'][0]['load_s']:.1f}",
        *(number(values.get(percent), 1 / NS_PER_MS) for percent in (50.0, 90.0)),
        number(row["photos_per_second"], 1),
        *(number(metrics.get(name), 1) for name in ("de2000_p95_worst", "dab_max_worst")),
    ]


def number(value: float | None, factor: float) -> str:
    """Three significant digits; "-" for what was not measured."""
    return "-" if value is None else f"{value * factor:.3g}"


def outcome(counts: Counter[str] | None) -> str:
    """`27 passed`, `1 failed of 28`, or `-` where no test names the engine."""
    if not counts or not counts["passed"] + counts["failed"]:
        return "-"
    total = counts["passed"] + counts["failed"]
    return f"{counts['failed']} failed of {total}" if counts["failed"] else f"{total} passed"


if __name__ == "__main__":
    sys.exit(main())
