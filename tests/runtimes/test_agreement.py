"""The shipped bundle on every engine, against the reference set that travels in it."""

from __future__ import annotations

import numpy as np
import pytest

from icf_deploy.bundle.opening import open_bundle
from icf_deploy.quality.metrics import ciede2000
from icf_deploy.runtimes import registry

LARGEST_DIFFERENCE = 0.05  # CIEDE2000 of the worst pixel: the bound that issue 6 sets for float32
ENGINES = ("ort:cpu", "ort:openvino", "ort:coreml", "ort:directml", "openvino:cpu", "openvino:gpu", "pytorch:cpu")
CUDA_ENGINES = ("ort:cuda", "ort:tensorrt", "trt:cuda", "pytorch:cuda", "pytorch:cuda-compiled")


@pytest.mark.parametrize("engine", [*ENGINES, *(pytest.param(name, marks=pytest.mark.gpu) for name in CUDA_ENGINES)])
def test_float32_is_float32_no_pixel_of_the_reference_photos_differs_by_more_than_a_twentieth(engine: str) -> None:
    runtime, (_, device) = registry.get(engine), registry.split(engine)
    if not runtime.available().ok or device not in runtime.devices():
        pytest.skip(f"{engine} is not on this machine")
    bundle = open_bundle()
    reference = bundle.reference()
    with registry.open_session(bundle, engine, threads=1) as session:
        ab = np.concatenate([session.run(photo[None]) for photo in reference.gray])
    # CIEDE2000 between colours of equal L is the same at any L.
    colours = [np.stack([np.full_like(x[:, 0], 50), x[:, 0], x[:, 1]], axis=-1) for x in (ab, reference.ab)]
    assert ciede2000(*colours).max() <= LARGEST_DIFFERENCE
