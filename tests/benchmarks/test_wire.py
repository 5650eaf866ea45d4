from __future__ import annotations

import io

import numpy as np
import pytest

from icf_deploy.benchmarks.wire import receive, send


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, ">f4"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 1, 5, 7)])
def test_what_is_sent_is_received(dtype: str, shape: tuple[int, ...]) -> None:
    stream = io.BytesIO()
    array = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    send(stream, {"do": "this", "text": "zwei\nZeilen ä"}, [array, array.T])
    stream.seek(0)
    message, arrays = receive(stream)
    assert message == {"do": "this", "text": "zwei\nZeilen ä"}
    assert [found.dtype for found in arrays] == [array.dtype] * 2
    np.testing.assert_array_equal(arrays[0], array)
    np.testing.assert_array_equal(arrays[1], array.T)


def test_messages_follow_each_other() -> None:
    stream = io.BytesIO()
    send(stream, {"n": 1}, [np.arange(3)])
    send(stream, {"n": 2})
    stream.seek(0)
    assert [receive(stream)[0]["n"] for _ in range(2)] == [1, 2]
    with pytest.raises(EOFError):
        receive(stream)


def test_a_message_that_breaks_off_is_the_end_wherever_it_does() -> None:
    stream = io.BytesIO()
    send(stream, {"n": 1}, [np.arange(3)])
    for end in range(len(stream.getvalue())):
        with pytest.raises(EOFError):
            receive(io.BytesIO(stream.getvalue()[:end]))
