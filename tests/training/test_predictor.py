from __future__ import annotations

import numpy as np
import torch

from icf_deploy.network.presets import build
from icf_deploy.training.predictor import predictor_of


def test_the_predictor_gives_what_the_network_gives() -> None:
    network = build("icf-edge").eval()
    gray = np.random.default_rng(0).random((2, 1, 64, 96), np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(gray)).numpy()
    found = predictor_of(network)(gray)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
