"""Writes bundles in processes that kill themselves with SIGKILL, and says what they have left. Run by test_killed.py.

    python killed_writer.py FOLDER SCENARIO

Prints one JSON object a line for every process. A step is anything that Python reports to its audit hooks, which covers every
opening, renaming and removing: the first process dies at the first step, the second at the second, until one gets to its end.
Forked from here, so that the imports are paid once.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from icf_deploy.bundle import replacement
from icf_deploy.bundle.archive import Archive
from icf_deploy.bundle.manifest import Parity, Provenance
from icf_deploy.bundle.packing import pack
from icf_deploy.bundle.reference import ReferenceSet
from icf_deploy.bundle.store import NewGraph, open_bundle, write_bundle
from icf_deploy.errors import IcfError

SIZE = (64, 96)
TIMED_KILLS = 20  # of writers that had not finished yet
LARGE = 4_000_000  # bytes of a graph, so that there is time to be killed inside the writing


def model(name: str, length: int) -> bytes:
    text = name.encode() + bytes(length)
    size, encoded = len(text), bytearray()
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return b"\x08\x0a\x12" + bytes([*encoded, size]) + text + b"\x3a\x00"


def write(path: Path, name: str, *, overwrite: bool, length: int = 0) -> None:
    write_bundle(
        path,
        preset=name,
        stride=4,
        size=SIZE,
        graphs=[NewGraph(f"g{i}", model(name, length), "fp32", SIZE) for i in range(3)],
        reference=ReferenceSet(("x",), np.zeros((1, 1, *SIZE), np.float32), np.zeros((1, 2, 16, 24), np.float32)),
        parity=Parity(0.0, 1e-3, 1),
        provenance=Provenance("0", "0", "0", "3", "2026-01-01T00:00:00Z", None, "test"),
        overwrite=overwrite,
    )


def in_child(work: Callable[[], None], prepare: Callable[[], None]) -> int:
    """Run `work` in a process of its own; its id."""
    child = os.fork()
    if child:
        return child
    try:
        prepare()
        work()
        os._exit(0)
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)


def kill_at(step: int, folder: Path | None) -> Callable[[], None]:
    """Die at this step; folder: count only what happens in it."""

    def prepare() -> None:
        count = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event.startswith(("os.", "open", "shutil.", "ctypes.dlsym", "fcntl.")) and event != "os.putenv":
                if folder is not None and str(folder) not in str(arguments) and event != "ctypes.dlsym":
                    return
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return prepare


def left_by(path: Path) -> dict[str, Any]:
    """What stands at `path` now: a whole bundle and which one, nothing, or something broken."""
    found: dict[str, Any] = {"names": sorted(entry.name for entry in path.parent.iterdir()), "whole": None, "error": None}
    try:
        bundle = open_bundle(path)
        bundle.verify()
        found["whole"] = bundle.manifest.preset
        found["form"] = "file" if isinstance(bundle.container, Archive) else "folder"
    except IcfError as error:
        found["error"] = str(error)
    return found


def exporter(folder: Path) -> Callable[[Path, bool], None]:
    """exporter(folder)(path, overwrite) is `icf-deploy export` of a small network.

    What PyTorch computes is computed once, here: it takes seconds, is always the same and touches no file.
    """
    import torch

    from icf_deploy.export import pipeline
    from icf_deploy.network.checkpoint import save_checkpoint
    from icf_deploy.network.presets import DDColorConfig, build_ddcolor

    torch.set_num_threads(1)
    sizes = {"channels": 64, "queries": 12, "blocks": 3, "color_channels": 64, "hidden": 96, "heads": 2}
    small = DDColorConfig((1, 1, 2, 1), (16, 32, 64, 96), **sizes)
    torch.manual_seed(0)
    checkpoint = save_checkpoint(build_ddcolor(small), folder / "small.safetensors")
    network = pipeline.open_source(checkpoint).network
    model = pipeline.to_onnx(network, (pipeline.example_gray((64, 64)),))
    reference = pipeline.reference_set(network, (64, 64))
    pipeline.to_onnx = lambda *_: model
    pipeline.reference_set = lambda *_: reference

    def export(path: Path, overwrite: bool) -> None:
        pipeline.export_bundle(checkpoint, path, size=(64, 64), lowering=False, overwrite=overwrite)

    return export


def main(folder: Path, scenario: str) -> None:
    source, target = folder / "source" / "edge.icf", folder / "out" / "edge.icf"
    source.parent.mkdir()
    target.parent.mkdir()
    timed, overwrite = "timed" in scenario, "replace" in scenario
    if "two steps" in scenario:
        replacement.exchanged = lambda first, second: False
    if "pack" in scenario:
        write(source, "new", overwrite=False)
    export = exporter(folder) if "export" in scenario else None

    def put_old_in_place() -> None:
        """By a writer that lives, and cleans up after those that were killed."""
        if not overwrite:
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        elif "pack" in scenario:
            write(folder / "source" / "old.icf", "old", overwrite=True)
            pack(open_bundle(folder / "source" / "old.icf"), target, overwrite=True)
        else:
            write(target, "old", overwrite=True)

    def work() -> None:
        if "pack" in scenario:
            pack(open_bundle(source), target, overwrite=overwrite)
        elif export is not None:
            export(target, overwrite)
        else:
            write(target, "new", overwrite=overwrite, length=LARGE if timed else 0)

    seconds = 1.0  # within which a writer is killed
    generator = random.Random(6)
    kills = 0
    for step in itertools.count(1):
        put_old_in_place()
        child = in_child(work, (lambda: None) if timed else kill_at(step, None if export is None else target.parent))
        if timed:
            time.sleep(generator.random() * seconds)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        killed = os.WIFSIGNALED(status)
        sys.stdout.write(json.dumps({"killed": killed, "status": status, **left_by(target)}) + "\n")
        kills += killed
        if not killed:  # it was quicker than that
            seconds *= 0.7
        if kills == TIMED_KILLS if timed else not killed:
            break
    if timed:
        work()


os.fsync = lambda _: None  # it is for power cuts, which no test can make, and takes most of the time
main(Path(sys.argv[1]), sys.argv[2])
