"""Where a run's network and what learns beside it come from, and where the network goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import torch
from torch import Tensor

from icf_deploy.errors import UsageError, WorkError
from icf_deploy.network.checkpoint import load_checkpoint, save_checkpoint
from icf_deploy.network.network import SIZE_MULTIPLE, ColorizationNetwork
from icf_deploy.network.presets import EDGE_PRESET, build, pretrained_backbone
from icf_deploy.training.adversarial_loss import AdversarialLoss
from icf_deploy.training.class_loss import ClassLoss
from icf_deploy.training.config import ADVERSARIAL_LOSS, CLASS_LOSS, DEFAULT_PRESET, TrainConfig
from icf_deploy.training.learnt_loss import LearntLoss
from icf_deploy.training.photos import Photo


def initial_network(config: TrainConfig) -> ColorizationNetwork:
    """The network that training starts with: a checkpoint of either family, or a preset with random or ImageNet weights.

    Raises CheckpointError for a checkpoint that is none, UsageError where options do not fit the network.
    """
    if config.from_checkpoint is not None:
        network = load_checkpoint(config.from_checkpoint)
        if config.preset not in (None, network.preset):
            raise UsageError(f"{config.from_checkpoint} is a {network.preset}, not a {config.preset}: leave --preset out")
        network.requires_grad_(True)
    else:
        network = build(config.preset or DEFAULT_PRESET)
        if config.pretrained and network.preset == EDGE_PRESET:
            pretrained_backbone(network)
    if config.gain != 1 and not hasattr(network.fusion, "scale_chroma"):
        raise UsageError(
            f"--gain {config.gain}: only {EDGE_PRESET} can fold it into its weights; leave it out for {network.preset}"
        )
    return network


def initial_learnt_loss(
    config: TrainConfig, network: ColorizationNetwork, photos: Sequence[Photo], device: torch.device
) -> LearntLoss | None:
    """What learns beside `network`, which is on `device`; None where the loss has no parts of its own."""
    if config.loss == CLASS_LOSS:
        return ClassLoss(_feature_channels(network, device), photos, config, device)
    return AdversarialLoss(config, device) if config.loss == ADVERSARIAL_LOSS else None


@torch.no_grad()
def _feature_channels(network: ColorizationNetwork, device: torch.device) -> int:
    """Channels of the features that the palette is applied to; asked of the network, as each family names them otherwise."""
    training = network.training
    features, _ = network.eval().features(torch.zeros(1, 1, SIZE_MULTIPLE, SIZE_MULTIPLE, device=device))
    network.train(training)
    return int(features.shape[1])


def save_network(
    network: ColorizationNetwork,
    config: TrainConfig,
    metadata: Mapping[str, str],
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Fold the gain into `network` and write the checkpoint with what is known about its training. extra: as `save_checkpoint`.

    Raises WorkError where the disk does not take it; a checkpoint that was there before is then still whole.
    """
    if config.gain != 1:
        network.scale_chroma(config.gain)
    versions = {"icf_deploy": version("icf-deploy"), "torch": torch.__version__}
    try:
        save_checkpoint(
            network, config.output, metadata={**versions, **metadata}, extra=extra, half=config.half, overwrite=True
        )
    except OSError as error:
        raise WorkError(
            f"{config.output}: the checkpoint could not be written ({error.strerror or error}); "
            "free some disk space and use --resume, which has nothing left to compute"
        ) from error
