"""A checkpoint's network as the function that evaluate() takes."""

from __future__ import annotations

import numpy as np
import torch

from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.training.protocols import FloatArray, Predict


def predictor_of(network: ColorizationNetwork) -> Predict:
    """Return gray float32 [N,1,H,W] -> ab float32 [N,2,H/stride,W/stride], computed by `network` (in eval mode) in float32."""

    def predict(gray: FloatArray) -> FloatArray:
        with torch.inference_mode():
            ab = network(torch.from_numpy(gray).to(next(network.parameters()).device))
        return np.asarray(ab.cpu().numpy(), np.float32)

    return predict
