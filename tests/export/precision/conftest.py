"""A small network in the paths of a real one, its graph, and photos for it."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import Tensor, nn

from icf_deploy.export.graph import to_onnx
from icf_deploy.export.precision.calibration import Calibration, calibrate
from icf_deploy.export.precision.photos import CalibrationPhotos, packaged_photos

SIZE = (32, 32)


class Small(nn.Module):
    """gray [N,1,H,W] -> ab [N,2,H,W]: a stem, a depthwise convolution, a product of tokens without and with bias."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.Conv2d(1, 8, 3, padding=1)})
        self.image_decoder = nn.ModuleDict({"bottleneck": nn.Conv2d(8, 8, 3, padding=1, groups=8)})
        self.color_decoder = nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 8, bias=False)])
        self.fusion = nn.Conv2d(8, 2, 1)

    def forward(self, gray: Tensor) -> Tensor:
        x = nn.functional.relu6(self.backbone["stem"](gray))
        x = nn.functional.relu(self.image_decoder["bottleneck"](x))
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.color_decoder:
            tokens = torch.relu(layer(tokens))
        ab: Tensor = 20 * self.fusion(tokens.transpose(1, 2).unflatten(2, (32, 32)) + x)
        return ab


@pytest.fixture(scope="session")
def network() -> Small:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="session")
def model(network: Small) -> onnx.ModelProto:
    return to_onnx(network, (torch.linspace(0, 1, 2 * 32 * 32).reshape(2, 1, 32, 32),))


@pytest.fixture(scope="session")
def photos() -> CalibrationPhotos:
    return packaged_photos(SIZE)


@pytest.fixture(scope="session")
def calibration(model: onnx.ModelProto, photos: CalibrationPhotos) -> Calibration:
    return calibrate(model, photos, method="minmax")
