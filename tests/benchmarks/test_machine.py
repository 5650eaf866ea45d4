from __future__ import annotations

import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icf_deploy.benchmarks.gpu_state import find_gpus
from icf_deploy.benchmarks.machine import busy_seconds, read_machine
from icf_deploy.benchmarks.memory import read_memory, reset_peak


def test_the_machine_is_what_the_c_library_and_python_say() -> None:
    found = read_machine()
    assert found.logical_cpus == os.sysconf("SC_NPROCESSORS_ONLN")
    assert found.memory == pytest.approx(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.02)
    assert found.affinity == tuple(sorted(os.sched_getaffinity(0)))
    assert found.versions["numpy"] == np.__version__
    assert platform.python_version() in found.python
    json.dumps(found.to_json(), allow_nan=False)


def test_the_flags_that_decide_about_formats_are_found() -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("x86 names")
    all_flags = set(next(line for line in open("/proc/cpuinfo") if line.startswith("flags")).split())  # noqa: PTH123, SIM115
    found = read_machine().flags
    assert set(found) == all_flags & {
        "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"
    }  # fmt: skip


def test_settings_of_thread_libraries_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert read_machine().variables["OMP_WAIT_POLICY"] == "active"


def test_a_busy_machine_and_a_saving_governor_are_warned_about() -> None:
    quiet = dataclasses.replace(read_machine(), load_average=0.0, governor=None, variables={})
    assert quiet.warnings() == []
    assert "was busy" in dataclasses.replace(quiet, load_average=quiet.cores / 2).warnings()[0]
    passive = dataclasses.replace(quiet, variables={"OMP_WAIT_POLICY": "PASSIVE"})
    assert "OMP_WAIT_POLICY=PASSIVE is set" in passive.warnings()[0]
    assert "powersave" in dataclasses.replace(quiet, governor="powersave").warnings()[0]


def test_what_cannot_be_read_says_why_instead() -> None:
    found = read_machine()
    assert (found.cpu_energy is None) == any(Path("/sys/class/powercap").glob("intel-rapl:*/energy_uj"))
    assert (found.gpu_missing is None) == bool(found.gpus)


def test_a_gpu_that_somebody_else_uses_is_warned_about(fake_nvml: Any) -> None:
    nvml = fake_nvml()
    nvml.pids = [4711]
    quiet = dataclasses.replace(read_machine(), load_average=0.0, governor=None, variables={}, gpus=find_gpus(nvml).states())
    assert quiet.warnings() == ["GPU 0 (NVIDIA L4) was in use by other processes before the run began (4711)"]
    json.dumps(quiet.to_json(), allow_nan=False)


def test_busy_seconds_count_the_work_of_this_process() -> None:
    before, own = busy_seconds(), sum(os.times()[:2])
    if before is None:
        pytest.skip("needs /proc/stat")
    while sum(os.times()[:2]) - own < 0.3:
        pass
    after = busy_seconds()
    assert after is not None and after - before >= 0.25


def test_resident_memory_is_what_the_kernel_counts_in_pages() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    found = read_memory()
    assert found.now == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE"), rel=0.02)
    assert found.peak is not None and found.now is not None and found.peak >= found.now


def test_the_peak_sees_memory_that_is_gone_again_until_it_is_reset() -> None:
    if not reset_peak():
        pytest.skip("this system does not let a process reset its peak")
    before = read_memory().peak
    block = np.ones(60_000_000, np.uint8)
    del block
    after = read_memory().peak
    assert before is not None and after is not None
    assert 55e6 < after - before < 70e6
    reset_peak()
    again = read_memory().peak
    assert again is not None and again < after - 40e6
