"""How fast a run is."""

from __future__ import annotations

import time

MEMORY = 0.98  # of the running mean


class Pace:
    """Seconds per step of `batch` crops, as a running mean that skips validations."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._last = time.perf_counter()
        self.seconds_per_step = 0.0

    def tick(self) -> float:
        """Return the seconds since the last step ended."""
        now = time.perf_counter()
        spent, self._last = now - self._last, now
        memory = MEMORY if self.seconds_per_step else 0.0
        self.seconds_per_step = memory * self.seconds_per_step + (1 - memory) * spent
        return spent

    def pause(self) -> None:
        """Leave what happened since the last step out."""
        self._last = time.perf_counter()

    @property
    def crops_per_second(self) -> float:
        """Crops that a second trains on; 0 before the first step."""
        return self._batch / self.seconds_per_step if self.seconds_per_step else 0.0
