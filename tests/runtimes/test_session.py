from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from icf_deploy.errors import UsageError
from icf_deploy.runtimes.base import FloatArray, Graph
from icf_deploy.runtimes.session import EngineSession


class RecordingSession(EngineSession):
    """Keeps what it is given."""

    formats = {"fp32": 1}  # type: ignore[assignment]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(Graph(b"", "", (64, 96), 4))
        self.seen: list[FloatArray] = []
        self.released = 0

    def _compute(self, gray: FloatArray) -> FloatArray:
        self.seen.append(gray)
        return gray

    def _release(self) -> None:
        self.released += 1


def test_an_engine_always_gets_one_contiguous_block() -> None:
    session = RecordingSession()
    gray = np.arange(2 * 64 * 96, dtype=np.float32).reshape(2, 1, 64, 96)
    session.run(np.asfortranarray(gray))
    session.run(np.repeat(gray, 2, axis=0)[::2])
    for seen in session.seen:
        assert seen.flags.c_contiguous
        np.testing.assert_array_equal(seen, gray)


def test_what_an_engine_holds_is_freed_once_also_when_the_block_raises() -> None:
    session = RecordingSession()
    with pytest.raises(RuntimeError), session:
        raise RuntimeError
    session.close()
    assert session.released == 1


def test_output_size_is_the_size_over_the_stride() -> None:
    assert RecordingSession().output_size == (16, 24)


def test_closing_waits_for_calls_that_are_under_way_and_refuses_new_ones() -> None:
    inside, may_end = threading.Event(), threading.Event()
    order: list[str] = []

    class SlowSession(RecordingSession):
        def _compute(self, gray: FloatArray) -> FloatArray:
            inside.set()
            assert may_end.wait(30)
            order.append("computed")
            return gray

        def _release(self) -> None:
            order.append("released")

    session, gray = SlowSession(), np.zeros((1, 1, 64, 96), np.float32)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(session.run, gray)
        assert inside.wait(30)
        closing = pool.submit(session.close)
        while not session._closed:
            pass
        with pytest.raises(UsageError, match="closed"):
            session.run(gray)
        assert not closing.done()
        may_end.set()
        running.result()
        closing.result()
    assert order == ["computed", "released"]
