"""How many threads one call should use: physical cores that this process may really run on.

Two hyper-threads of one core share its multipliers, so a second thread there costs more than it brings; and a container that
may use two CPUs of sixty-four must not start sixty-four threads. Neither NumPy's nor the engines' own defaults see all of this.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from icf_deploy.errors import UsageError


def thread_count(threads: int | None) -> int:
    """`threads` where it is given, else one per usable physical core. UsageError below 1."""
    if threads is None:
        return usable_cores()
    if threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}; leave it out for one per physical core")
    return threads


def usable_cores(sys_root: Path = Path("/sys"), proc_root: Path = Path("/proc")) -> int:
    """Physical cores in this process's affinity mask, at most its cgroup's CPU limit (rounded down), at least 1.

    Linux states all of these; elsewhere it is the number of logical CPUs.
    """
    try:
        cpus = os.sched_getaffinity(0)
    except AttributeError:
        return os.cpu_count() or 1
    cores = {_core_of(cpu, sys_root) for cpu in cpus}
    return max(1, int(min(len(cores), _cgroup_cpus(sys_root, proc_root))))


def _core_of(cpu: int, sys_root: Path) -> str:
    """A name that the hyper-threads of one core share; the CPU's own number where the kernel does not say."""
    siblings = _text(sys_root / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return siblings or str(cpu)


def _cgroup_cpus(sys_root: Path, proc_root: Path) -> float:
    """CPUs' worth of time that the tightest cgroup above this process allows; infinity where none limits it."""
    limit = math.inf
    for line in _text(proc_root / "self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, quota_of = sys_root / "fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            mount, quota_of = sys_root / "fs/cgroup/cpu", _quota_v1
        else:
            continue
        folder = mount / group.lstrip("/")
        # A container often sees its own group mounted at the root, under a path that only the host knows.
        for level in (folder, *folder.parents):
            limit = min(limit, quota_of(level))
            if level == mount:
                break
    return limit


def _quota_v2(group: Path) -> float:
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else math.inf


def _quota_v1(group: Path) -> float:
    quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
