"""A pool of what only one thread may use at a time: infer requests, execution contexts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """Makes items with `create` as callers need them, at most `limit` (None: as many as there are callers at once)."""

    def __init__(self, create: Callable[[], T], limit: int | None = None) -> None:
        self._create = create
        self._places = None if limit is None else threading.BoundedSemaphore(limit)
        self._idle: list[T] = []

    @contextlib.contextmanager
    def borrow(self) -> Iterator[T]:
        """An item for this thread alone, the one that was used last; waits where all of `limit` are out."""
        with self._places or contextlib.nullcontext():
            try:
                item = self._idle.pop()
            except IndexError:
                item = self._create()
            try:
                yield item
            finally:
                self._idle.append(item)

    def drain(self) -> list[T]:
        """Take out every item. Call it when nobody borrows any more."""
        items, self._idle = self._idle, []
        return items
