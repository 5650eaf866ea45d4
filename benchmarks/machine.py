"""The machine on which something was measured, as far as it says: what a reader needs to believe or repeat a number."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from icf_deploy.benchmarks.energy import Rapl
from icf_deploy.benchmarks.gpu_state import GpuState, find_gpus
from icf_deploy.runtimes.cores import usable_cores

# Instruction sets that decide which number formats are fast; as /proc/cpuinfo writes them, x86 and ARM.
TELLING_FLAGS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
PACKAGES = (
    "icf-deploy", "numpy", "pillow", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "openvino", "torch",
    "tensorrt", "tensorrt-rtx-cu13", "mlcommons-loadgen", "nvidia-ml-py",
)  # fmt: skip
TELLING_VARIABLES = ("OMP_", "MKL_", "GOMP_", "KMP_", "OPENBLAS_", "ORT_", "OV_", "CUDA_VISIBLE")
WAIT_POLICY = "OMP_WAIT_POLICY"  # passive doubled the latency of PyTorch eager where it was tried, and that of no other engine
BUSY_LOAD = 0.25  # runnable processes per core, before the run starts, from which a warning is due
KILOBYTE = 1024
STAT_FIELDS = 9  # the name and eight times in the first line of /proc/stat


@dataclass(frozen=True)
class Machine:
    """What the machine says about itself. Memory in bytes; load average over one minute; None where it does not say.

    cpu_energy: why the CPU package's energy cannot be read, None where it can. gpus: NVIDIA's, at this moment; gpu_missing:
    why there are none.
    """

    cpu: str
    flags: tuple[str, ...]
    logical_cpus: int
    cores: int
    affinity: tuple[int, ...] | None
    governor: str | None
    virtual: bool
    load_average: float | None
    memory: int | None
    system: str
    python: str
    versions: dict[str, str]
    variables: dict[str, str]
    cpu_energy: str | None
    gpus: tuple[GpuState, ...]
    gpu_missing: str | None

    def warnings(self) -> list[str]:
        """What makes numbers from this machine less certain."""
        found = []
        if self.load_average is not None and self.load_average > BUSY_LOAD * self.cores:
            found.append(f"the machine was busy before the run began (load average {self.load_average:.1f})")
        if self.governor == "powersave":
            found.append("the CPU governor is `powersave`: clocks may not have been at their highest")
        policy = self.variables.get(WAIT_POLICY, "")
        if policy.lower() == "passive":
            found.append(
                f"{WAIT_POLICY}={policy} is set: threads of OpenMP sleep between operators, and PyTorch is slower for it"
            )
        for gpu in self.gpus:
            if gpu.other_processes:
                pids = ", ".join(map(str, gpu.other_processes))
                found.append(f"GPU {gpu.index} ({gpu.name}) was in use by other processes before the run began ({pids})")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "gpus": [gpu.to_json() for gpu in self.gpus]}


def read_machine() -> Machine:
    """Read the machine's state now. Never raises: what cannot be read is None or empty."""
    info, gpus = _cpu_info(), find_gpus()
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        flags=tuple(flag for flag in TELLING_FLAGS if flag in (info.get("flags") or info.get("Features") or "").split()),
        logical_cpus=os.cpu_count() or 1,
        cores=usable_cores(),
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None,
        governor=_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        virtual="hypervisor" in info.get("flags", "").split(),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        memory=_memory(),
        system=platform.platform(),
        python=f"{platform.python_implementation()} {sys.version.split()[0]}",
        versions={name: version for name in PACKAGES if (version := _version(name)) is not None},
        variables={name: value for name, value in os.environ.items() if name.startswith(TELLING_VARIABLES)},
        cpu_energy=Rapl().why_not,
        gpus=gpus.states(),
        gpu_missing=gpus.missing,
    )


def busy_seconds() -> float | None:
    """Processor time that all processes together have used, in seconds of one core; None outside Linux.

    The first line of /proc/stat (proc(5)): user, nice, system, irq and softirq; time stolen by the host counts as busy too.
    """
    words = (_text(Path("/proc/stat")) or "").split("\n", 1)[0].split()
    if len(words) < STAT_FIELDS:
        return None
    user, nice, system, _, _, irq, softirq, stolen = map(int, words[1:STAT_FIELDS])
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")


def _cpu_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty elsewhere."""
    lines = (_text(Path("/proc/cpuinfo")) or "").split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, found, value in (line.partition(":") for line in lines) if found}


def _memory() -> int | None:
    for line in (_text(Path("/proc/meminfo")) or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * KILOBYTE
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
