from __future__ import annotations

import json
import os
from typing import Any

import pytest

from icf_deploy.benchmarks.gpu_state import GpuState, GpuWatch, find_gpus, uses_gpu


def test_a_gpus_state_is_read_in_plain_units(fake_nvml: Any) -> None:
    nvml = fake_nvml()
    nvml.pids = [os.getpid(), 4711]
    (state,) = find_gpus(nvml).states()
    assert (state.name, state.driver, state.persistence, state.performance_state) == ("NVIDIA L4", "580.65.06", True, 2)
    assert (state.sm_clock_mhz, state.sm_clock_max_mhz, state.memory_clock_mhz) == (1740, 2040, 6251)
    assert (state.power_w, state.power_limit_w, state.temperature_c, state.memory_used) == (71.5, 72.0, 61, 812_000_000)
    assert state.other_processes == (4711,)  # this process is not another one
    assert GpuState.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x000, ()),
        (0x001, ()),  # idle
        (0x002, ()),  # clocks set by the user
        (0x004, ("power cap",)),
        (0x028, ("hardware slowdown", "software thermal slowdown")),
        (0x0C0, ("hardware thermal slowdown", "power brake")),
    ],
)
def test_only_what_lowers_the_clocks_against_the_users_will_is_a_slowdown(
    fake_nvml: Any, bits: int, reasons: tuple[str, ...]
) -> None:
    nvml = fake_nvml()
    nvml.reasons = bits
    assert find_gpus(nvml).states()[0].slowdowns == reasons


def test_an_older_driver_is_asked_for_the_reasons_by_their_old_name(fake_nvml: Any) -> None:
    nvml = fake_nvml(unsupported=("nvmlDeviceGetCurrentClocksEventReasons",))
    nvml.reasons = 0x40
    assert find_gpus(nvml).states()[0].slowdowns == ("hardware thermal slowdown",)


def test_what_a_gpu_does_not_say_is_none_and_the_rest_is_there(fake_nvml: Any) -> None:
    questions = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetPersistenceMode", "nvmlDeviceGetMemoryInfo")
    (state,) = find_gpus(fake_nvml(unsupported=questions)).states()
    assert (state.power_w, state.persistence, state.memory_used) == (None, None, None)
    assert state.sm_clock_mhz == 1740


def test_an_nvml_that_does_not_work_and_a_machine_without_gpu_say_why(fake_nvml: Any) -> None:
    broken = fake_nvml()
    broken.works = False
    assert find_gpus(broken).missing == "NVML does not work here: Driver/library version mismatch"
    assert find_gpus(fake_nvml(count=0)).missing == "NVML finds no GPU"
    assert find_gpus(fake_nvml()).missing is None


def test_without_a_driver_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icf_deploy.benchmarks.gpu_state.driver_present", lambda: False)
    assert find_gpus().missing == "there is no NVIDIA driver"
    monkeypatch.setattr("icf_deploy.benchmarks.gpu_state.driver_present", lambda: True)
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert find_gpus().missing == "the package nvidia-ml-py is not installed: pip install 'icf-deploy[bench]'"


@pytest.mark.parametrize(
    ("visible", "index"), [("0", 0), ("1,0", 1), ("GPU-00000001", 1), ("", None), ("-1", None), ("7", None)]
)
def test_the_engines_gpu_is_the_first_visible_one(fake_nvml: Any, visible: str, index: int | None) -> None:
    found = find_gpus(fake_nvml(count=2)).of_engine(visible)
    assert (None if found is None else found.index) == index


def test_without_a_choice_it_is_the_first_gpu(fake_nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = find_gpus(fake_nvml(count=2)).of_engine()
    assert found is not None and found.index == 0


def test_a_watch_tells_first_last_range_and_every_slowdown(fake_nvml: Any) -> None:
    nvml = fake_nvml()
    gpu = find_gpus(nvml).devices[0]
    states = []
    for milliwatts, reasons in ((30_000, 0), (72_000, 0x4), (60_000, 0)):
        nvml.milliwatts, nvml.reasons = milliwatts, reasons
        states.append(gpu.state())
    plain = GpuWatch(tuple(states)).to_json()
    assert (plain["before"]["power_w"], plain["after"]["power_w"]) == (30, 60)
    assert plain["power_w"] == {"low": 30, "high": 72}
    assert plain["slowdowns"] == ["power cap"]


def test_engines_that_use_the_gpu_are_known_by_name() -> None:
    assert [uses_gpu(name) for name in ("trt", "trt:cuda-tf32", "ort:cuda", "ort:tensorrt", "pytorch:cuda-compiled")] == [
        True
    ] * 5
    assert [uses_gpu(name) for name in ("ort", "ort:cpu", "openvino", "openvino:gpu", "pytorch:compiled")] == [False] * 5
