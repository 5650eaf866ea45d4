"""A stand-in for the module pynvml: GPUs whose answers are written down, under the names and in the units of nvml.h."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    pass


class FakeNvml:
    """Every answer may be changed. `unsupported`: questions that this GPU or driver does not know."""

    NVMLError = NVMLError

    def __init__(self, count: int = 1, unsupported: tuple[str, ...] = ()) -> None:
        self.count, self.unsupported = count, unsupported
        self.reasons, self.millijoules, self.milliwatts = 0x1, 5_000_000, 71_500
        self.pids: list[int] = []
        self.works = True

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.works:
            raise NVMLError("Driver/library version mismatch")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.65.06"

    def __getattr__(self, question: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlDeviceGetName": lambda handle: b"NVIDIA L4" if handle else "NVIDIA L4",
            "nvmlDeviceGetUUID": lambda handle: f"GPU-0000000{handle}-aaaa",
            "nvmlDeviceGetPersistenceMode": lambda _: 1,
            "nvmlDeviceGetPerformanceState": lambda _: 2,
            "nvmlDeviceGetClockInfo": lambda _, kind: {1: 1740, 2: 6251}[kind],
            "nvmlDeviceGetMaxClockInfo": lambda _, kind: {1: 2040}[kind],
            "nvmlDeviceGetPowerUsage": lambda _: self.milliwatts,
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 72_000,
            "nvmlDeviceGetTemperature": lambda _, sensor: {0: 61}[sensor],
            "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=812_000_000),
            "nvmlDeviceGetCurrentClocksEventReasons": lambda _: self.reasons,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: self.reasons,
            "nvmlDeviceGetComputeRunningProcesses": lambda _: [SimpleNamespace(pid=pid) for pid in self.pids],
            "nvmlDeviceGetGraphicsRunningProcesses": lambda _: [],
            "nvmlDeviceGetTotalEnergyConsumption": lambda _: self.millijoules,
        }
        if question not in answers:
            raise AttributeError(question)
        if question in self.unsupported:
            return self._refuse
        return answers[question]

    def _refuse(self, *_: Any) -> None:
        raise NVMLError("Not Supported")
