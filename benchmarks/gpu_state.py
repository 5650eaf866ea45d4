"""What NVIDIA's driver says about its GPUs: clocks, power, heat, why clocks are lowered, and who else is on them.

Read only, through NVML (package `nvidia-ml-py`, module `pynvml`). Nothing here locks or sets anything.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from icf_deploy.runtimes.cuda import driver_present

INSTALL = "pip install 'icf-deploy[bench]'"
MILLI = 1000  # NVML counts milliwatts and millijoules
CLOCK_SM, CLOCK_MEMORY, TEMPERATURE_GPU = 1, 2, 0  # nvml.h: nvmlClockType_t, nvmlTemperatureSensors_t
UNKNOWN_PERFORMANCE_STATE = 32  # nvml.h: NVML_PSTATE_UNKNOWN
# nvml.h, nvmlClocksEventReasons: the bits that mean that power or heat keeps the clocks below what was asked for. The
# others (idle, set by the user, synchronised with another GPU) are no slowdown.
SLOWDOWNS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


@dataclass(frozen=True)
class GpuState:
    """One GPU at one moment. Clocks in MHz, power in watts, temperature in °C, memory in bytes; None where it does not say.

    performance_state: 0 is the fastest. slowdowns: why its clocks are lowered. other_processes: ids of those that hold it,
    this one not among them; a container may not see them.
    """

    index: int
    name: str
    uuid: str
    driver: str
    persistence: bool | None
    performance_state: int | None
    sm_clock_mhz: int | None
    sm_clock_max_mhz: int | None
    memory_clock_mhz: int | None
    power_w: float | None
    power_limit_w: float | None
    temperature_c: int | None
    memory_used: int | None
    slowdowns: tuple[str, ...]
    other_processes: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> GpuState:
        """What `to_json` wrote."""
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
        return cls(**values)


class GpuDevice:
    """One GPU of NVML. Every question is answered with None where this GPU or its driver does not know."""

    def __init__(self, nvml: Any, index: int) -> None:
        self.index = index
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self.name = _text(nvml.nvmlDeviceGetName(self._handle))
        self.uuid = _text(nvml.nvmlDeviceGetUUID(self._handle))
        self._driver = _text(nvml.nvmlSystemGetDriverVersion())

    def state(self) -> GpuState:
        """Everything, now."""
        performance_state = self._ask("nvmlDeviceGetPerformanceState")
        persistence = self._ask("nvmlDeviceGetPersistenceMode")
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        limit = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        return GpuState(
            index=self.index,
            name=self.name,
            uuid=self.uuid,
            driver=self._driver,
            persistence=None if persistence is None else bool(persistence),
            performance_state=None if performance_state == UNKNOWN_PERFORMANCE_STATE else performance_state,
            sm_clock_mhz=self._ask("nvmlDeviceGetClockInfo", CLOCK_SM),
            sm_clock_max_mhz=self._ask("nvmlDeviceGetMaxClockInfo", CLOCK_SM),
            memory_clock_mhz=self._ask("nvmlDeviceGetClockInfo", CLOCK_MEMORY),
            power_w=self.power_watts(),
            power_limit_w=None if limit is None else limit / MILLI,
            temperature_c=self._ask("nvmlDeviceGetTemperature", TEMPERATURE_GPU),
            memory_used=None if memory is None else int(memory.used),
            slowdowns=self._slowdowns(),
            other_processes=self._other_processes(),
        )

    def power_watts(self) -> float | None:
        """Power that the board takes, averaged by the driver over up to a second."""
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / MILLI

    def energy_joules(self) -> float | None:
        """Energy since the driver was loaded; GPUs before Volta do not count it."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / MILLI

    def _slowdowns(self) -> tuple[str, ...]:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # drivers before 535 know it by its old name
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return tuple(name for bit, name in SLOWDOWNS.items() if (bits or 0) & bit)

    def _other_processes(self) -> tuple[int, ...]:
        kinds = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
        found = {process.pid for kind in kinds for process in self._ask(kind) or ()}
        return tuple(sorted(found - {os.getpid()}))

    def _ask(self, question: str, *arguments: int) -> Any:
        """The answer, or None where the GPU, its driver or the installed pynvml has none."""
        function: Callable[..., Any] | None = getattr(self._nvml, question, None)
        if function is None:
            return None
        try:
            return function(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None


@dataclass(frozen=True)
class Gpus:
    """The GPUs that NVML shows, in its order (that of the PCI bus). missing: why there are none, else None."""

    devices: tuple[GpuDevice, ...]
    missing: str | None = None

    def states(self) -> tuple[GpuState, ...]:
        """Of all of them, now."""
        return tuple(device.state() for device in self.devices)

    def of_engine(self, visible: str | None = None) -> GpuDevice | None:
        """The GPU that an engine gets: the first one that `visible`, else CUDA_VISIBLE_DEVICES, leaves; None without one.

        CUDA numbers unlike GPUs by speed unless CUDA_DEVICE_ORDER=PCI_BUS_ID; name them by their UUID where that matters.
        """
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
        if visible is None:
            return self.devices[0] if self.devices else None
        first = visible.split(",")[0].strip()
        for device in self.devices:
            if first == str(device.index) or (first.startswith("GPU-") and device.uuid.startswith(first)):
                return device
        return None


def find_gpus(nvml: Any = None) -> Gpus:
    """The GPUs of this machine. nvml: the module `pynvml`; None imports it where there is a driver. Never raises."""
    if nvml is None:
        if not driver_present():
            return Gpus((), "there is no NVIDIA driver")
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return Gpus((), f"the package nvidia-ml-py is not installed: {INSTALL}")
    try:
        nvml.nvmlInit()
        devices = tuple(GpuDevice(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError as error:
        return Gpus((), f"NVML does not work here: {error}")
    return Gpus(devices) if devices else Gpus((), "NVML finds no GPU")


def uses_gpu(engine: str) -> bool:
    """Whether an engine's name (`trt`, `ort:cuda`, `pytorch:cuda-compiled`) says that it runs on an NVIDIA GPU."""
    name, _, device = engine.partition(":")
    return name == "trt" or device.startswith(("cuda", "tensorrt"))


@dataclass(frozen=True)
class GpuWatch:
    """What a GPU did over the turns of one engine: its state before the first and after the last, and all in between."""

    states: tuple[GpuState, ...]

    @property
    def slowdowns(self) -> tuple[str, ...]:
        """Every reason for lowered clocks that was seen."""
        return tuple(dict.fromkeys(reason for state in self.states for reason in state.slowdowns))

    def to_json(self) -> dict[str, Any]:
        """The first and the last state, and lowest and highest values."""
        ranges = {name: _range([getattr(state, name) for state in self.states]) for name in _WATCHED}
        first, last = self.states[0], self.states[-1]
        return {"before": first.to_json(), "after": last.to_json(), **ranges, "slowdowns": list(self.slowdowns)}


_WATCHED = ("sm_clock_mhz", "memory_clock_mhz", "power_w", "temperature_c")


def _range(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {"low": min(known, default=None), "high": max(known, default=None)}


def _text(value: Any) -> str:
    """NVML's text: bytes until pynvml 11.5."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
