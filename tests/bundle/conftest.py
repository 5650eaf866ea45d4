"""A small bundle with real photos in its reference set. Its graphs are empty ones: no test here runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from icf_deploy.bundle.manifest import Lowering, Parity, Provenance, SkippedRewrite, Source
from icf_deploy.bundle.reference import ReferenceSet
from icf_deploy.bundle.store import Bundle, NewGraph, write_bundle

SIZE, STRIDE = (64, 96), 4


def model(name: str) -> bytes:
    """The smallest ONNX model there is: an IR version, a producer's name, an empty graph."""
    return b"\x08\x0a\x12" + bytes([len(name)]) + name.encode() + b"\x3a\x00"


@pytest.fixture(scope="session")
def reference(photo: Callable[[str], npt.NDArray[np.uint8]]) -> ReferenceSet:
    height, width = SIZE
    pictures = [photo(name)[:height, :width] for name in ("astronaut", "coffee")]
    gray = np.stack([picture[..., 1] for picture in pictures])[:, None].astype(np.float32) / np.float32(255)
    small = np.stack([picture[::STRIDE, ::STRIDE].transpose(2, 0, 1) for picture in pictures]).astype(np.float32)
    return ReferenceSet(("astronaut", "coffee"), gray, np.ascontiguousarray(small[:, :2] - small[:, 2:]) / 3)


@pytest.fixture(scope="session")
def fields(reference: ReferenceSet) -> dict[str, Any]:
    """The arguments of write_bundle after the path."""
    return {
        "preset": "icf-edge",
        "stride": STRIDE,
        "size": SIZE,
        "graphs": [
            NewGraph(
                "fp32",
                model("the graph"),
                "fp32",
                SIZE,
                lowering=Lowering(("fold_batch_norm",), (SkippedRewrite("fuse_shuffle", "there is none"),)),
                measurements={"gmac": 0.5, "nodes": [1, 2]},
            ),
            NewGraph("int8-bf16", model("another graph"), "int8+bf16", (128, 128)),
        ],
        "reference": reference,
        "parity": Parity(max_abs_ab=2e-5, bound=1e-3, photos=2),
        "provenance": Provenance(
            icf_deploy="0.1.0",
            torch="2.13.0",
            onnx="1.23.0",
            python="3.11.9",
            created="2026-11-23T07:00:00Z",
            source=Source("icf-edge.safetensors", "ab" * 32),
            command="icf-deploy export icf-edge.safetensors -o édge.icf",
        ),
    }


@pytest.fixture
def bundle(tmp_path: Path, fields: dict[str, Any]) -> Bundle:
    return write_bundle(tmp_path / "edge.icf", **fields)
