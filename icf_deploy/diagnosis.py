"""What the engines on this machine are, and which number formats they really compute in: asked by running them.

An engine that takes a graph in a format need not execute it: ONNX Runtime's CPU provider computes fp16 graphs in fp32, OpenVINO
may turn fp32 into bf16. So every device of every engine here gets a tiny graph per format (icf_deploy/data/probes, made by
scripts/probes.py), runs it, says in which formats its nodes ran, and must come near the right result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import icf_deploy.data
from icf_deploy.errors import IcfError
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import FloatArray, Graph, Runtime, Target

SIDE = 32  # of the probes' gray, in pixels
HIDDEN = 16  # their hidden channels
# Formats, and how far from the exact result the probe may be; its output is in -9.5..11.2. The format rounds the hidden values
# (up to 1.51, 16 of them, times weights of 66.75 in all) and the output: half a step, 2^-11 of the value in fp16, 2^-9 in bf16,
# 1/128 and 1/16 in int8. float32 sums are exact here; TF32 would be off by 0.02.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.25, "fp16": 0.06, "int8": 0.6}
GRAY_STEPS = 64  # the probes' gray are multiples of 1/64, which all formats hold exactly


@dataclass(frozen=True)
class Probe:
    """One format on one device.

    nodes: how many nodes ran in which format. error: largest distance to the exact result. refusal: why it did not run, or
    what is wrong with what ran.
    """

    nodes: Mapping[str, int] = field(default_factory=dict)
    error: float | None = None
    refusal: str = ""


@dataclass(frozen=True)
class Device:
    """One device of an engine. declared: the formats that its runtime names; probes: what was found out, by format.

    probes is empty where the runtime runs no graphs (pytorch runs the checkpoint): then the declaration is all there is.
    """

    declared: tuple[str, ...]
    probes: Mapping[str, Probe]

    @property
    def executes(self) -> tuple[str, ...]:
        """The formats in which nodes really ran, with the right result; where nothing could be probed, those declared."""
        if not self.probes:
            return self.declared
        return tuple(name for name, probe in self.probes.items() if probe.nodes.get(name) and not probe.refusal)

    @property
    def reason(self) -> str:
        """Why nothing runs on it, and what to do about that; "" where something does."""
        return "" if self.executes or not self.probes else next(iter(self.probes.values())).refusal


@dataclass(frozen=True)
class Finding:
    """One engine. ok: whether it can run here. reason: what is wrong or missing, install: the command that repairs it."""

    name: str
    ok: bool
    version: str | None
    reason: str
    install: str
    devices: Mapping[str, Device]

    def to_json(self) -> dict[str, Any]:
        """Plain values. `devices` holds the formats that are really executed, `probes` how that was found out.

        `idle` says for each device on which nothing runs why.
        """
        return {
            **asdict(self),
            "devices": {name: list(device.executes) for name, device in self.devices.items()},
            "idle": {name: device.reason for name, device in self.devices.items() if device.reason},
            "probes": {
                name: {format_name: asdict(probe) for format_name, probe in device.probes.items()}
                for name, device in self.devices.items()
            },
        }


def diagnose() -> tuple[Finding, ...]:
    """Every runtime of the registry, in its order. Takes a second or two: it imports what is installed. Never raises."""
    return tuple(diagnose_engine(name) for name in registry.names())


def diagnose_engine(name: str) -> Finding:
    """One runtime. An engine that breaks while it is asked says so in `reason`."""
    runtime = registry.get(name)
    found = runtime.available()
    devices: dict[str, Device] = {}
    reason = found.reason
    if found.ok:
        try:
            for device in runtime.devices():
                devices[device] = _device(runtime, device, can_probe=not registry.RUNTIMES[name].runs_checkpoint)
        except Exception as error:  # an engine may fail in any way, and the others are still to be asked
            reason = reason or _words(error)
    return Finding(name, found.ok, found.version, reason, found.install, devices)


def _device(runtime: Runtime, device: str, *, can_probe: bool) -> Device:
    probes = {name: probe(runtime, device, name) for name in TOLERANCE} if can_probe else {}
    return Device(tuple(runtime.formats(device)), probes)


def probe(runtime: Runtime, device: str, name: str) -> Probe:
    """Run the graph of one format on one device. Never raises: what goes wrong is the finding."""
    data = (Path(str(icf_deploy.data.__file__)).parent / "probes" / f"{name}.onnx").read_bytes()
    graph = Graph(data, hashlib.sha256(data).hexdigest(), (SIDE, SIDE), 1, name)
    gray = probe_gray()
    try:
        with runtime.open(runtime.build(graph, Target(device, threads=1))) as session:
            ab = session.run(gray)
            nodes = dict(session.formats)
    except Exception as error:  # as in diagnose_engine
        return Probe(refusal=_words(error))
    if not nodes.get(name):
        ran = " and ".join(f"{count} nodes in {other}" for other, count in nodes.items()) or "nothing that it tells of"
        return Probe(nodes, refusal=f"a graph in {name} is taken, and run otherwise: {ran}")
    distance = float(np.abs(ab - expected_ab(gray)).max())
    if not distance <= TOLERANCE[name]:  # also where it is not a number
        return Probe(nodes, distance, f"its result is wrong: off by {distance:.3g}, and {TOLERANCE[name]:g} is rounding")
    return Probe(nodes, distance)


def probe_gray() -> FloatArray:
    """The probes' input: float32 [1,1,32,32], multiples of 1/64 in 0..1 in a fixed disorder."""
    codes = np.arange(SIDE * SIDE) * 29 % (GRAY_STEPS + 1)
    return (codes / GRAY_STEPS).astype(np.float32).reshape(1, 1, SIDE, SIDE)


def expected_ab(gray: FloatArray) -> FloatArray:
    """What the probes give for `gray`, in float64: a 3x3 and a 1x1 convolution with ReLU between, written out.

    The weights are those of scripts/probes.py.
    """
    first = (np.arange(HIDDEN * 9) * 37 % 65 - 24).reshape(HIDDEN, 3, 3) / 64
    last = (np.arange(HIDDEN * 2) * 23 % 65 - 32).reshape(2, HIDDEN) / 4
    padded = np.pad(gray[:, 0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    hidden = np.maximum(np.einsum("nhwij,cij->nchw", windows, first), 0)
    ab: FloatArray = np.einsum("nchw,oc->nohw", hidden, last).astype(np.float32)
    return ab


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, IcfError) else f"{type(error).__name__}: {text}"
