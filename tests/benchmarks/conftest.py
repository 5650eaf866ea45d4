"""A bundle of a tiny but real network, so that the tests measure real engines quickly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

SIZE, STRIDE = 64, 2


def tiny_model() -> bytes:
    """gray [N,1,64,64] -> ab [N,2,32,32]: a convolution with stride 2, tanh, times 60."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(2, 1, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["gray", "weights"], ["x"], strides=[STRIDE, STRIDE], pads=[1, 1, 1, 1]),
            helper.make_node("Tanh", ["x"], ["y"]),
            helper.make_node("Mul", ["y", "scale"], ["ab"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("gray", TensorProto.FLOAT, ["batch", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("ab", TensorProto.FLOAT, ["batch", 2, SIZE // STRIDE, SIZE // STRIDE])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.float32(60), "scale")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    path.write_bytes(tiny_model())
    return path


@pytest.fixture(scope="session")
def gray(photo: Callable[[str], np.ndarray]) -> np.ndarray:
    """Two real photos as gray float32 [2,1,64,64], multiples of 1/255."""
    import cv2

    photos = [cv2.cvtColor(photo(name), cv2.COLOR_RGB2GRAY) for name in ("astronaut", "coffee")]
    small = [cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for picture in photos]
    return np.stack(small)[:, None].astype(np.float32) / np.float32(255)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, gray: np.ndarray) -> Path:
    """A bundle of that model, whose reference ab is ONNX's own evaluation of it."""
    import onnx
    import onnx.reference

    from icf_deploy.bundle.manifest import Parity, Provenance
    from icf_deploy.bundle.reference import ReferenceSet
    from icf_deploy.bundle.store import NewGraph, write_bundle

    data = tiny_model()
    ab = onnx.reference.ReferenceEvaluator(onnx.load_model_from_string(data)).run(None, {"gray": gray})[0]
    bundle = write_bundle(
        tmp_path_factory.mktemp("bundle") / "tiny.icf",
        preset="tiny",
        stride=STRIDE,
        size=(SIZE, SIZE),
        graphs=[NewGraph("fp32", data, "fp32", (SIZE, SIZE))],
        reference=ReferenceSet(("astronaut", "coffee"), gray, np.asarray(ab, np.float32)),
        parity=Parity(0.0, 1e-3, 2),
        provenance=Provenance("0", "none", onnx.__version__, "3", "2026-01-01T00:00:00+00:00", None, "test"),
    )
    return bundle.path
