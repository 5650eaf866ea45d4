"""Resident memory of this process, and its high-water mark."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

MEGABYTE = 1_000_000
_KIBIBYTE = 1024
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5), clear_refs: sets VmHWM to the present VmRSS (Linux 4.0 and later)


@dataclass(frozen=True)
class Memory:
    """Resident bytes. now: at this moment. peak: the most since the process started, or since `reset_peak`.

    None where the system does not say: `now` outside Linux, both on Windows.
    """

    now: int | None
    peak: int | None


def read_memory() -> Memory:
    """Resident memory of this process: VmRSS and VmHWM on Linux, elsewhere the peak of getrusage."""
    try:
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        return Memory(*(int(lines[name].split()[0]) * _KIBIBYTE for name in ("VmRSS", "VmHWM")))
    except (OSError, KeyError):
        pass
    try:
        import resource
    except ImportError:
        return Memory(None, None)
    unit = 1 if sys.platform == "darwin" else _KIBIBYTE
    return Memory(None, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def reset_peak() -> bool:
    """Start the high-water mark anew from what is resident now. Returns whether the system permits it."""
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True
