"""The colorization network: Backbone, ImageDecoder, ColorDecoder, Fusion, and its three steps."""

from __future__ import annotations

from torch import Tensor, nn

from icf_deploy.errors import UsageError
from icf_deploy.network.fusion import EdgeFusion

SIZE_MULTIPLE = 32  # the coarsest map is H/32


class ColorizationNetwork(nn.Module):
    """gray float32 [N,1,H,W] in 0..1 -> ab float32 [N,2,H/stride,W/stride] in CIELAB units; H and W multiples of 32.

    `forward` is the network as published; `features`, `palette` and `paint` are the same function in three steps:

        features, levels = network.features(gray)       # [N,C,H/4,W/4]; three scales for attention
        palette = network.palette(levels)               # [N,2,C]
        ab = network.paint(palette, features, gray)     # the last upsampling, the gray term, the bias
    """

    def __init__(
        self,
        preset: str,
        stride: int,
        *,
        backbone: nn.Module,
        image_decoder: nn.Module,
        color_decoder: nn.Module,
        fusion: nn.Module,
    ) -> None:
        super().__init__()
        self.preset = preset
        self.stride = stride
        self.backbone = backbone
        self.image_decoder = image_decoder
        self.color_decoder = color_decoder
        self.fusion = fusion

    def features(self, gray: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """gray [N,1,H,W] -> features before the last upsampling, and the three attention levels."""
        features, levels = self.image_decoder(self.backbone(gray))
        return features, levels

    def palette(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Attention levels -> palette [N,2,C]."""
        palette: Tensor = self.fusion.palette(self.color_decoder(levels))  # type: ignore[operator]  # a module's method
        return palette

    def paint(self, palette: Tensor, features: Tensor, gray: Tensor) -> Tensor:
        """palette [N,2,C], features [N,C,H/4,W/4], gray [N,1,H,W] -> ab [N,2,H/stride,W/stride]."""
        ab: Tensor = self.fusion.paint(palette, features, gray)  # type: ignore[operator]  # a module's method
        return ab

    def forward(self, gray: Tensor) -> Tensor:
        """gray [N,1,H,W] -> ab [N,2,H/stride,W/stride]."""
        features, levels = self.features(gray)
        ab: Tensor = self.fusion(self.color_decoder(levels), features, gray)
        return ab

    def constrain(self) -> None:
        """After a step of training, put back the weights that training must not move (`icf-edge` only)."""
        if isinstance(self.fusion, EdgeFusion):
            self.fusion.center_mix()

    def scale_chroma(self, gain: float) -> None:
        """Multiply every ab by `gain`, exactly, by scaling the last linear layer (`icf-edge` only)."""
        scale = getattr(self.fusion, "scale_chroma", None)
        if scale is None:
            raise UsageError(f"{self.preset} keeps its published weights: use `colorize --saturation {gain}` instead")
        scale(gain)
