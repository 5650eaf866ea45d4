"""A quantization-aware run: what it trains, what it compares with, and what it leaves in the checkpoint."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from icf_deploy.errors import EngineUnavailableError
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.training.config import TrainConfig


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
        self._parts = fake_quantized(network, (config.crop, config.crop))
        self.network = self._parts.rounded
        self._wide = self._parts.wide.to(device)

    @torch.no_grad()
    def float_ab(self, gray: Tensor) -> Tensor:
        """The ab that the network gave before: gray [N,1,H,W] -> [N,2,h,w]."""
        ab: Tensor = self._wide(gray)
        return ab

    @staticmethod
    def unrounded(network: ColorizationNetwork) -> AbstractContextManager[None]:
        """Within it, the network computes what the float32 graph of its weights does."""
        from icf_deploy.training.qat_rounding import unrounded

        return unrounded(network)

    def restored(self, trained: ColorizationNetwork) -> tuple[ColorizationNetwork, dict[str, str]]:
        """The network to save, and what its metadata say about ranges. Raises WorkError as `FakeQuantized.restored`."""
        from icf_deploy.export.precision.trained import METADATA

        self._wide.to("cpu")
        network, ranges = self._parts.restored(trained)
        return network, {METADATA: ranges.to_text()}
