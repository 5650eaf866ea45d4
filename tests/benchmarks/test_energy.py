from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from icf_deploy.benchmarks.energy import EnergyMeter, Joules, Rapl, per_photo
from icf_deploy.benchmarks.gpu_state import find_gpus

LIMIT = 262_143_328_850  # max_energy_range_uj of a real package


class Powercap:
    """A tree as /sys/class/powercap is: two packages, a part of one, the platform, and the first package once more."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.zone("intel-rapl:0", "package-0")
        self.zone("intel-rapl:0:0", "core")
        self.zone("intel-rapl:1", "package-1")
        self.zone("intel-rapl:2", "psys")
        self.zone("intel-rapl-mmio:0", "package-0")

    def zone(self, folder: str, name: str) -> None:
        (self.root / folder).mkdir()
        (self.root / folder / "name").write_text(name + "\n")
        (self.root / folder / "max_energy_range_uj").write_text(f"{LIMIT}\n")
        self.set(folder, 1_000_000)

    def set(self, folder: str, microjoules: int) -> None:
        (self.root / folder / "energy_uj").write_text(f"{microjoules}\n")


@pytest.fixture
def powercap(tmp_path: Path) -> Powercap:
    return Powercap(tmp_path)


def test_all_packages_count_and_their_parts_and_doubles_do_not(powercap: Powercap) -> None:
    meter = EnergyMeter(Rapl(powercap.root))
    meter.start()
    powercap.set("intel-rapl:0", 4_500_000)
    powercap.set("intel-rapl:1", 1_250_000)
    for other in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        powercap.set(other, 90_000_000)
    assert meter.stop() == Joules(cpu=3.75, gpu=None)


def test_a_counter_that_begins_anew_is_followed(powercap: Powercap) -> None:
    rapl = Rapl(powercap.root)
    powercap.set("intel-rapl:0", LIMIT - 2_000_000)
    before = rapl.read()
    powercap.set("intel-rapl:0", 3_000_000)
    assert rapl.joules(before, rapl.read()) == pytest.approx(5.0)


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    rapl = Rapl(tmp_path / "nothing")
    assert rapl.why_not is not None and "shows no package" in rapl.why_not
    meter = EnergyMeter(rapl)
    meter.start()
    assert meter.stop() == Joules(None, None)


def test_counters_for_root_only_say_so(powercap: Powercap, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:  # root may read every file, so the refusal has to be the system's in another way
        real = Path.read_text

        def refused(path: Path, *arguments: object, **options: object) -> str:
            if path.name == "energy_uj":
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "read_text", refused)
    else:
        (powercap.root / "intel-rapl:0/energy_uj").chmod(0)
    why = Rapl(powercap.root).why_not
    assert why is not None and why.endswith("energy_uj may be read by root only")


def test_a_counter_that_is_no_number_costs_the_energy_and_nothing_else(powercap: Powercap) -> None:
    (powercap.root / "intel-rapl:1/energy_uj").write_text("gone")
    why = Rapl(powercap.root).why_not
    assert why is not None and "gone" in why


def test_a_gpu_that_counts_its_energy_is_asked_twice(fake_nvml: Any, tmp_path: Path) -> None:
    nvml = fake_nvml()
    meter = EnergyMeter(Rapl(tmp_path), find_gpus(nvml).devices[0])
    meter.start()
    nvml.millijoules += 12_345
    joules = meter.stop()
    assert joules.cpu is None and joules.gpu == pytest.approx(12.345)


def test_a_gpu_that_does_not_is_watched_for_its_power(fake_nvml: Any, tmp_path: Path) -> None:
    nvml = fake_nvml(unsupported=("nvmlDeviceGetTotalEnergyConsumption",))
    nvml.milliwatts = 50_000
    meter = EnergyMeter(Rapl(tmp_path), find_gpus(nvml).devices[0])
    started = time.perf_counter()
    meter.start()
    time.sleep(0.1)
    joules = meter.stop().gpu
    longest = time.perf_counter() - started
    assert joules is not None and 50 * 0.1 <= joules <= 50 * longest


def test_a_gpu_that_tells_neither_gives_none(fake_nvml: Any, tmp_path: Path) -> None:
    questions = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")
    meter = EnergyMeter(Rapl(tmp_path), find_gpus(fake_nvml(unsupported=questions)).devices[0])
    meter.start()
    assert meter.stop() == Joules(None, None)


def test_energy_per_photo_is_the_sum_over_all_turns() -> None:
    turns = [Joules(6.0, 30.0), Joules(4.0, 10.0)]
    assert per_photo(turns, 20, on_gpu=False) == (0.5, 2.0, 0.5)
    assert per_photo(turns, 20, on_gpu=True) == (0.5, 2.0, 2.5)


def test_energy_that_is_missing_in_a_turn_is_missing_altogether() -> None:
    assert per_photo([Joules(6.0, None), Joules(None, None)], 20, on_gpu=False) == (None, None, None)
    assert per_photo([Joules(None, 30.0)], 10, on_gpu=True) == (None, 3.0, None)  # half of it would look like all
    assert per_photo([], 0, on_gpu=False) == (None, None, None)
