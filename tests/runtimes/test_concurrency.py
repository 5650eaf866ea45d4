"""One colorizer, many threads: the colours of each photo are those that it gets alone, and calls leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from icf_deploy.colorizer import Colorizer
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import Session, Target

THREADS, PHOTOS = 16, 200
SAME = 1e-3  # CIELAB units: the bound that issue 6 sets
CPU_ENGINES = ("ort:cpu", "openvino:cpu", "pytorch:cpu", "pytorch:compiled")
CUDA_ENGINES = ("ort:cuda", "trt:cuda", "pytorch:cuda", "pytorch:cuda-compiled")
GROWTH = 8 * 2**20  # bytes over 9,000 calls: an array of 8 KB that stayed each time would be 72 MB


@pytest.fixture(params=[*CPU_ENGINES, *(pytest.param(name, marks=pytest.mark.gpu) for name in CUDA_ENGINES)])
def session(request: pytest.FixtureRequest, small: Any, monkeypatch: pytest.MonkeyPatch) -> Session:
    """On one thread a call, so that calls really run beside each other."""
    name, device = registry.split(request.param)
    runtime = registry.get(name)
    if not runtime.available().ok or device not in runtime.devices():
        pytest.skip(f"{request.param} is not on this machine")
    if name == "pytorch":
        monkeypatch.setattr("icf_deploy.network.checkpoint.load_checkpoint", lambda data: small.network)
    return runtime.open(runtime.build(small.graph(small.fp32()), Target(device, threads=1)))


@pytest.fixture(scope="module")
def crops(photo: Callable[[str], npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.uint8]]:
    """Twenty different small pieces of real photos, of different sizes."""
    sources = [photo(name) for name in ("astronaut", "coffee", "chelsea", "china")]
    return [
        sources[number % 4][number : number + 40 + number % 30, 2 * number % 150 :][:, : 50 + number % 25]
        for number in range(20)
    ]


def test_sixteen_threads_on_one_colorizer_give_each_of_200_photos_its_own_colours(
    session: Session, small: Any, crops: list[npt.NDArray[np.uint8]], gray: npt.NDArray[np.float32]
) -> None:
    grays = [gray[number % 3][None] * np.float32(1 - number / 400) for number in range(PHOTOS)]
    with Colorizer(session, size=small.size, stride=small.stride, threads=1) as colorizer:

        def everything(_: int) -> tuple[list[npt.NDArray[np.float32]], list[npt.NDArray[np.uint8]]]:
            return [colorizer.predict_ab(one) for one in grays], [colorizer.colorize_array(crop) for crop in crops]

        expected_abs, expected_pictures = everything(0)
        with ThreadPoolExecutor(THREADS) as pool:
            for abs_, pictures in pool.map(everything, range(THREADS)):
                assert max(np.abs(ab - expected).max() for ab, expected in zip(abs_, expected_abs, strict=True)) <= SAME
                for picture, expected in zip(pictures, expected_pictures, strict=True):
                    # |Δab| of 1e-3 can move a value over one rounding step of 8 bits, and no further.
                    assert np.abs(picture.astype(int) - expected).max() <= 1


CALLS = """
import sys
import numpy as np
from icf_deploy.benchmarks.memory import read_memory
from icf_deploy.runtimes import registry
from icf_deploy.runtimes.base import Graph, Target

data = open(sys.argv[2], "rb").read()
name, device = registry.split(sys.argv[1])
runtime = registry.get(name)
with runtime.open(runtime.build(Graph(data, sys.argv[3], (64, 96), 2), Target(device, threads=1))) as session:
    photos = np.random.default_rng(0).random((7, 1, 64, 96), dtype=np.float32)
    for number in range(10_000):
        session.run(photos[number % 7][None])
        if number == 999:
            before = read_memory().now
    print(read_memory().now - before)
"""


@pytest.mark.parametrize("engine", ["ort:cpu", "openvino:cpu"])
def test_ten_thousand_calls_hold_no_more_memory_than_one_thousand(engine: str, small: Any, tmp_path: Path) -> None:
    graph = small.graph(small.fp32())
    (tmp_path / "small.onnx").write_bytes(graph.data)
    command = [sys.executable, "-c", CALLS, engine, str(tmp_path / "small.onnx"), graph.sha256]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < GROWTH
