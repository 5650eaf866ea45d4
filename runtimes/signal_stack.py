"""Keep a thread's signal stack as it is while a library is called that replaces it.

OpenVINO's CPU plugin gives the calling thread a signal stack large enough for AMX registers, and puts back what it found when
the plugin goes. Two plugins that go in the order in which they came leave a freed stack behind, and the next signal (Ctrl-C)
ends the process. Seen with 2026.4.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """stack_t of Linux (sigaltstack(2))."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Put back, on leaving, the signal stack that this thread had on entering. Also a decorator. Linux; elsewhere nothing."""
    if sys.platform != "linux":
        yield
        return
    sigaltstack = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(before), None)
