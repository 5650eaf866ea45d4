"""Messages between the run and its workers: one line of JSON, then the raw bytes of its arrays. No pickle, so no code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Message = dict[str, Any]
Array = npt.NDArray[Any]


def send(stream: IO[bytes], message: Message, arrays: Sequence[Array] = ()) -> None:
    """Write one message and flush it. Raises OSError (BrokenPipeError) when the other side is gone."""
    solid = [np.ascontiguousarray(array) for array in arrays]
    header = {**message, "arrays": [[array.dtype.str, list(array.shape)] for array in solid]}
    stream.write(json.dumps(header).encode() + b"\n")
    for array in solid:
        stream.write(array.tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[Message, list[Array]]:
    """Wait for one message. Raises EOFError when the other side is gone, in the middle of a message too."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the other process is gone")
    message: Message = json.loads(line)
    return message, [_read_array(stream, np.dtype(kind), tuple(shape)) for kind, shape in message.pop("arrays")]


def _read_array(stream: IO[bytes], kind: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
    data = bytearray()
    while len(data) < size:
        part = stream.read(size - len(data))
        if not part:
            raise EOFError("the other process is gone")
        data += part
    return np.frombuffer(data, kind).reshape(shape)
