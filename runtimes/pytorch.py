"""PyTorch eager in float32: the reference that every other engine is compared with. It runs the checkpoint, not a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np

from icf_deploy.errors import ArtefactError, WorkError
from icf_deploy.runtimes.base import Availability, Engine, FloatArray, Graph, Target
from icf_deploy.runtimes.cores import thread_count
from icf_deploy.runtimes.session import EngineSession, require_available, require_device, require_own

if TYPE_CHECKING:
    from icf_deploy.network.network import ColorizationNetwork

INSTALL = "pip install 'icf-deploy[export]'"


class PytorchRuntime:
    """PyTorch on the CPU. Its engine is the checkpoint's safetensors bytes."""

    name = "pytorch"

    def available(self) -> Availability:
        """Whether torch imports, and its version."""
        try:
            import torch
            import torch.nn

            return Availability(True, str(torch.__version__))
        except ModuleNotFoundError as error:
            if error.name == "torch":
                return Availability(False, reason="torch is not installed", install=INSTALL)
            return Availability(False, reason=f"torch is installed but does not import: {error}", install=INSTALL)
        except Exception as error:
            return Availability(False, reason=f"torch is installed but does not work: {error}", install=INSTALL)

    def devices(self) -> tuple[str, ...]:
        """Only the CPU."""
        return ("cpu",)

    def formats(self, device: str) -> tuple[str, ...]:
        """Only fp32."""
        require_device(self, device)
        return ("fp32",)

    def build(self, graph: Graph, target: Target) -> Engine:
        """Check that float32 is asked for. ArtefactError if not; EngineUnavailableError without torch."""
        require_device(self, target.device)
        if graph.formats != {"fp32"}:
            raise ArtefactError(
                f"pytorch is the float32 reference and would not execute recipe {graph.recipe}: use recipe fp32"
            )
        require_available(self, "torch", "nn")
        return Engine(self.name, target, graph, graph.data)

    def open(self, engine: Engine) -> PytorchSession:
        """Load the checkpoint. ArtefactError where it is not one, or not the network that the graph states."""
        require_own(engine, self)
        require_available(self, "torch", "nn")
        return PytorchSession(engine)


class PytorchSession(EngineSession):
    """The network in evaluation mode.

    PyTorch knows one number of threads and one float32 precision per process, so opening a session sets both for all of it.
    """

    def __init__(self, engine: Engine) -> None:
        import torch

        from icf_deploy.network.checkpoint import load_checkpoint

        graph = engine.graph
        super().__init__(graph)
        network = load_checkpoint(engine.data)
        if network.stride != graph.stride or (graph.preset and network.preset != graph.preset):
            raise ArtefactError(
                f"this checkpoint is {network.preset} with stride {network.stride}, and the bundle says "
                f"{graph.preset or 'any preset'} with stride {graph.stride}: it belongs to another network"
            )
        torch.set_num_threads(thread_count(engine.target.threads))
        torch.set_float32_matmul_precision("highest")  # else products may run in bf16 on a CPU that has it
        self._network: ColorizationNetwork | None = network.eval().float()

    @property
    def formats(self) -> Mapping[str, int]:
        """Modules that hold weights, by their weights' format: eager mode computes in that."""
        modules = self._network.modules() if self._network is not None else ()
        return {"fp32": sum(1 for module in modules if next(module.parameters(recurse=False), None) is not None)}

    def _compute(self, gray: FloatArray) -> FloatArray:
        import torch

        network = self._network
        assert network is not None  # `run` has checked
        writable = np.require(gray, requirements="W")  # from_numpy warns about memory that it must not write to
        try:
            with torch.inference_mode():
                return cast("FloatArray", network(torch.from_numpy(writable)).contiguous().numpy())
        except RuntimeError as error:
            raise WorkError(f"PyTorch failed on a batch of {len(gray)}: {error}") from error

    def _release(self) -> None:
        self._network = None
