"""A quantization-aware run: what it trains, what it compares with, and what it leaves in the checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from icf_deploy.errors import EngineUnavailableError
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.quality.drift import drift
from icf_deploy.training.color import light_of_codes, pair_of_light
from icf_deploy.training.config import TrainConfig
from icf_deploy.training.validation import VALIDATION_BATCH, ValidationSet

METRIC = "de2000_p95"  # the drift that a run is judged by, as budgets are


@dataclass(frozen=True)
class Trained:
    """What goes into the checkpoint: the network, which is the one that the run started from, and its int8 form."""

    network: ColorizationNetwork
    metadata: dict[str, str]
    extra: dict[str, Tensor]


class QatRun:
    """network: the rounded one, to be trained. start: hex SHA-256 of the checkpoint that the run starts from."""

    def __init__(self, network: ColorizationNetwork, config: TrainConfig, device: torch.device) -> None:
        try:
            from icf_deploy.training.qat_network import fake_quantized
        except ImportError as error:
            raise EngineUnavailableError(
                f"--qat needs {error.name}, which this machine does not have: pip install 'icf-deploy[train,export]'"
            ) from error
        assert config.from_checkpoint is not None
        self.start = hashlib.sha256(config.from_checkpoint.read_bytes()).hexdigest()
        self._original = network
        self._parts = fake_quantized(network, (config.crop, config.crop), leave=config.wide)
        self.network = self._parts.rounded
        self._wide = self._parts.wide.to(device)
        self._device = device

    @torch.no_grad()
    def float_ab(self, gray: Tensor) -> Tensor:
        """The ab of the float32 network: gray [N,1,H,W] -> [N,2,h,w]."""
        ab: Tensor = self._wide(gray)
        return ab

    @torch.no_grad()
    def drift(self, network: nn.Module, photos: ValidationSet) -> float:
        """METRIC of a rounded network against the float32 one, mean over the photos."""
        rounded, wide, gray = [], [], []
        for rgb in torch.split(photos.rgb, VALIDATION_BATCH):
            part = pair_of_light(light_of_codes(rgb.to(self._device))).gray
            rounded.append(network(part).float().cpu().numpy())
            wide.append(self.float_ab(part).cpu().numpy())
            gray.append(part.cpu().numpy())
        return drift(np.concatenate(rounded), np.concatenate(wide), np.concatenate(gray)).value(METRIC)

    def finished(self, network: ColorizationNetwork) -> Trained:
        """What `network`, a copy of the rounded one, has learned."""
        found = self._parts.trained(network)
        return Trained(self._original.requires_grad_(True), found.to_metadata(), found.to_tensors())
