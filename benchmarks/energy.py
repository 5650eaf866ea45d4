"""Energy that timed calls took: the CPU package's by RAPL, the GPU board's by NVML. Idle power is part of both.

RAPL (Linux, /sys/class/powercap): Intel's and AMD's running count of what a package took, updated about every millisecond.
NVML: the board's running count, updated every 20 to 100 ms, so one short turn is rough and the sum of many is not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icf_deploy.benchmarks.gpu_state import GpuDevice

POWERCAP = Path("/sys/class/powercap")
MICROJOULES = 1_000_000  # in a joule
SAMPLE_SECONDS = 0.02  # between two looks at the power of a GPU that does not count its energy


@dataclass(frozen=True)
class Joules:
    """Energy of one stretch of time; None where it cannot be read. cpu: all packages. gpu: the engine's board."""

    cpu: float | None = None
    gpu: float | None = None


UNREAD = Joules()


class Rapl:
    """The packages' energy counters. why_not: why they cannot be read, else None."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        # Zones `intel-rapl:N` (AMD's, too) are packages or the whole platform, `intel-rapl:N:M` parts of one, and
        # `intel-rapl-mmio:N` the same package once more.
        zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        self._packages = [zone for zone in zones if _text(zone / "name").startswith("package")]
        self.why_not: str | None = None
        self._ranges: list[int] = []
        if not self._packages:
            self.why_not = f"{powercap} shows no package (usual in a virtual machine)"
            return
        try:
            self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in self._packages]
            self.read()
        except PermissionError as error:
            self.why_not = f"{error.filename} may be read by root only"
        except (OSError, ValueError) as error:
            self.why_not = f"{self._packages[0]}: {error}"

    def read(self) -> tuple[int, ...]:
        """Every package's counter in microjoules."""
        return tuple(int((zone / "energy_uj").read_text()) for zone in self._packages)

    def joules(self, before: Sequence[int], after: Sequence[int]) -> float:
        """Energy between two readings. A counter that is lower than before has begun anew, once at most (minutes apart)."""
        spent = [last - first + (limit if last < first else 0)
                 for first, last, limit in zip(before, after, self._ranges, strict=True)]  # fmt: skip
        return sum(spent) / MICROJOULES


class EnergyMeter:
    """Energy between `start` and `stop`. gpu: the engine's board; None where it runs on the CPU."""

    def __init__(self, rapl: Rapl, gpu: GpuDevice | None = None) -> None:
        self._rapl, self._gpu = rapl, gpu
        self._counters: tuple[int, ...] | None = None
        self._gpu_joules: float | None = None
        self._sampler: PowerSampler | None = None

    def start(self) -> None:
        """Begin a stretch."""
        if self._gpu is not None:
            self._gpu_joules = self._gpu.energy_joules()
            if self._gpu_joules is None and self._gpu.power_watts() is not None:
                self._sampler = PowerSampler(self._gpu)
        self._counters = self._rapl.read() if self._rapl.why_not is None else None

    def stop(self) -> Joules:
        """End the stretch: what it took."""
        cpu = None if self._counters is None else self._rapl.joules(self._counters, self._rapl.read())
        return Joules(cpu, self._gpu_spent())

    def _gpu_spent(self) -> float | None:
        if self._sampler is not None:
            sampler, self._sampler = self._sampler, None
            return sampler.stop()
        if self._gpu is None or self._gpu_joules is None:
            return None
        now = self._gpu.energy_joules()
        return None if now is None else now - self._gpu_joules


class PowerSampler:
    """A GPU's power over time by the trapezoidal rule, for those that do not count energy."""

    def __init__(self, gpu: GpuDevice) -> None:
        self._gpu = gpu
        self._taken: list[tuple[float, float]] = []
        self._look()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        """Joules since the start; None where the power was not readable twice."""
        self._over.set()
        self._thread.join()
        self._look()
        pairs = list(zip(self._taken, self._taken[1:], strict=False))
        return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairs) if pairs else None

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        watts = self._gpu.power_watts()
        if watts is not None:
            self._taken.append((time.perf_counter(), watts))


def per_photo(turns: Sequence[Joules], photos: int, *, on_gpu: bool) -> tuple[float | None, float | None, float | None]:
    """(cpu, gpu, both) joules per photo over all turns; None where one was not read in every turn, or there is no photo.

    both: the package's, for an engine on the GPU the board's too, and None then unless both are known.
    """
    if not turns or photos == 0:
        return None, None, None
    cpu, gpu = _total([turn.cpu for turn in turns]), _total([turn.gpu for turn in turns])
    known = [cpu, gpu] if on_gpu else [cpu]
    both = _total(known)
    return tuple(None if joules is None else joules / photos for joules in (cpu, gpu, both))  # type: ignore[return-value]


def _total(values: Sequence[float | None]) -> float | None:
    """The sum; None where one is missing."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
