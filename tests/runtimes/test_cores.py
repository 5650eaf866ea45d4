from __future__ import annotations

import os
from pathlib import Path

import pytest

from icf_deploy.errors import UsageError
from icf_deploy.runtimes.cores import thread_count, usable_cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight logical CPUs on four physical cores: CPU n and n + 4 are one core. This process may use all."""
    for cpu in range(8):
        topology = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    return tmp_path


def cores(machine: Path) -> int:
    return usable_cores(machine / "sys", machine / "proc")


def limit_v2(machine: Path, group: str, quota: str) -> None:
    folder = machine / "sys/fs/cgroup" / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(quota + "\n")


def test_hyper_threads_of_one_core_count_once(machine: Path) -> None:
    assert cores(machine) == 4


def test_only_cores_in_the_affinity_mask_count(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 4, 1})
    assert cores(machine) == 2


@pytest.mark.parametrize(
    "quota, expected",
    [("max 100000", 4), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)],
)
def test_a_cgroups_cpu_limit_holds_rounded_down_but_never_below_one(machine: Path, quota: str, expected: int) -> None:
    (machine / "proc/self/cgroup").write_text("0::/app/job\n")
    limit_v2(machine, "app/job", quota)
    assert cores(machine) == expected


def test_the_tightest_limit_on_the_way_up_holds(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("0::/app/job\n")
    limit_v2(machine, "app/job", "300000 100000")
    limit_v2(machine, "app", "200000 100000")
    assert cores(machine) == 2


def test_a_container_sees_its_limit_at_the_root_of_the_mount(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("0::/docker/0123abcd\n")
    limit_v2(machine, ".", "100000 100000")
    assert cores(machine) == 1


def test_the_limit_of_cgroup_version_1_holds_too(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("3:memory:/job\n2:cpu,cpuacct:/job\n")
    folder = machine / "sys/fs/cgroup/cpu/job"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("300000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert cores(machine) == 3
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores(machine) == 4


def test_without_any_of_these_files_every_cpu_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert usable_cores(tmp_path, tmp_path) == 3


def test_threads_are_what_is_asked_for_or_one_per_usable_core() -> None:
    assert thread_count(5) == 5
    assert thread_count(None) == usable_cores()
    with pytest.raises(UsageError, match="at least 1, not 0"):
        thread_count(0)
