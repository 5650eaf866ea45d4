"""A photo is worked on in strips of whole rows, so that memory is bounded, and in bands of strips, one per thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

STRIP_PIXELS = 24_576  # a strip's float32 planes fit into a 2 MB cache, and the calls per strip cost little beside its work
BAND_PIXELS = 262_144  # what is worth a thread: about 4 ms of work

QUIET_PRODUCTS = 262_144  # multiplications in one matrix product, up to which OpenBLAS starts no threads of its own


def strips(top: int, bottom: int, width: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of strips of whole rows that cover rows top..bottom."""
    rows = max(1, STRIP_PIXELS // width)
    for start in range(top, bottom, rows):
        yield start, min(bottom, start + rows)


def quiet_matmul(left: FloatArray, right: FloatArray, out: FloatArray) -> FloatArray:
    """left [m,k] @ right [k,n] into `out` [m,n], piece by piece, so that BLAS threads don't fight with an engine's."""
    step = max(1, QUIET_PRODUCTS // left.size)
    for start in range(0, right.shape[1], step):
        np.matmul(left, right[:, start : start + step], out=out[:, start : start + step])
    return out


def in_bands(work: Callable[[int, int], None], size: tuple[int, int], threads: int) -> None:
    """Call work(top, bottom) for bands of rows that cover a photo of `size` = (height, width), on up to `threads` threads.

    Raises what `work` raises, once every band has ended.
    """
    height, width = size
    bands = max(1, min(threads, height, height * width // BAND_PIXELS))
    if bands == 1:
        work(0, height)
        return
    edges = [height * band // bands for band in range(bands + 1)]
    with ThreadPoolExecutor(bands, thread_name_prefix="icf-imaging") as pool:
        for done in [pool.submit(work, top, bottom) for top, bottom in pairwise(edges)]:
            done.result()
