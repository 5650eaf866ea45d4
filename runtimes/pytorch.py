"""PyTorch in float32: the reference that every other engine is compared with. It runs the checkpoint, not a graph.

Devices: `cpu` and `cuda` run it eagerly, `compiled` and `cuda-compiled` after `torch.compile`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import numpy as np

from icf_deploy.errors import ArtefactError, EngineUnavailableError, WorkError
from icf_deploy.runtimes.base import Availability, Engine, FloatArray, Graph, Target
from icf_deploy.runtimes.cores import thread_count
from icf_deploy.runtimes.session import GRAY_CHANNELS, EngineSession, require_available, require_device, require_own

if TYPE_CHECKING:
    import torch

    from icf_deploy.network.network import ColorizationNetwork

INSTALL = "pip install 'icf-deploy[export]'"
CUDA_INSTALL = "pip install torch --index-url https://download.pytorch.org/whl/cu130"
CPU, COMPILED, CUDA, CUDA_COMPILED = "cpu", "compiled", "cuda", "cuda-compiled"


class PytorchRuntime:
    """PyTorch. Its engine is the checkpoint's safetensors bytes."""

    name = "pytorch"
    known = (CPU, COMPILED, CUDA, CUDA_COMPILED)

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
        """`cpu` and `compiled`; `cuda` and `cuda-compiled` where PyTorch finds a GPU."""
        try:
            import torch

            return self.known if torch.cuda.is_available() else (CPU, COMPILED)
        except Exception:  # not installed, or broken: `available` says which
            return (CPU, COMPILED)

    def formats(self, device: str) -> tuple[str, ...]:
        """Only fp32."""
        require_device(self, device)
        return ("fp32",)

    def build(self, graph: Graph, target: Target) -> Engine:
        """Check that float32 is asked for. ArtefactError if not; EngineUnavailableError without torch, or without the GPU."""
        require_device(self, target.device)
        if graph.formats != {"fp32"}:
            raise ArtefactError(
                f"pytorch is the float32 reference and would not execute recipe {graph.recipe}: use recipe fp32"
            )
        self._require_here(target.device)
        return Engine(self.name, target, graph, graph.data)

    def open(self, engine: Engine) -> PytorchSession:
        """Load the checkpoint. ArtefactError where it is not one, or not the network that the graph states."""
        require_own(engine, self)
        self._require_here(engine.target.device)
        return PytorchSession(engine)

    def _require_here(self, device: str) -> None:
        require_available(self, "torch", "nn")
        if device in (CUDA, CUDA_COMPILED) and device not in self.devices():
            import torch

            raise EngineUnavailableError(
                f"engine pytorch:{device}: torch {torch.__version__} finds no CUDA GPU here. It needs NVIDIA's driver and a "
                f"build for CUDA: {CUDA_INSTALL}"
            )


class PytorchSession(EngineSession):
    """The network in evaluation mode. Threads share it: it holds weights, and nothing that a call changes.

    PyTorch knows one number of threads and one float32 precision per process, so opening a session sets both for all of it.
    """

    def __init__(self, engine: Engine) -> None:
        import torch

        from icf_deploy.network.checkpoint import load_checkpoint

        graph, device = engine.graph, engine.target.device
        super().__init__(graph)
        network = load_checkpoint(engine.data)
        if network.stride != graph.stride or (graph.preset and network.preset != graph.preset):
            raise ArtefactError(
                f"this checkpoint is {network.preset} with stride {network.stride}, and the bundle says "
                f"{graph.preset or 'any preset'} with stride {graph.stride}: it belongs to another network"
            )
        self._threads, self._thread = thread_count(engine.target.threads), threading.local()
        _pin_float32(self._threads)
        self._device = torch.device("cuda" if device in (CUDA, CUDA_COMPILED) else "cpu")
        self._network: ColorizationNetwork | None = network.eval().float().to(self._device)
        self._forward: Callable[[torch.Tensor], torch.Tensor] | None = self._network
        if device in (COMPILED, CUDA_COMPILED):
            self._forward = self._compile()

    @property
    def formats(self) -> Mapping[str, int]:
        """Modules that hold weights, by their weights' format: that is what they compute in."""
        modules = self._network.modules() if self._network is not None else ()
        return {"fp32": sum(1 for module in modules if next(module.parameters(recurse=False), None) is not None)}

    def _compile(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """`torch.compile` of the network, run once, so that the first photo does not wait for it.

        fullgraph: what cannot be compiled raises; by default PyTorch would run it eagerly and say nothing.
        """
        import torch

        compiled = cast("Callable[[torch.Tensor], torch.Tensor]", torch.compile(self._network, fullgraph=True))
        try:
            self._call(compiled, np.zeros((1, GRAY_CHANNELS, *self.size), np.float32))
        except Exception as error:  # the compilers behind it raise what they like
            raise _uncompiled(error) from error
        return compiled

    def _compute(self, gray: FloatArray) -> FloatArray:
        forward = self._forward
        assert forward is not None  # `run` has checked
        try:
            return self._call(forward, np.require(gray, requirements="W"))  # from_numpy warns about what it must not write to
        except RuntimeError as error:
            raise WorkError(f"PyTorch failed on a batch of {len(gray)}: {error}") from error

    def _call(self, forward: Callable[[torch.Tensor], torch.Tensor], gray: FloatArray) -> FloatArray:
        import torch

        if not hasattr(self._thread, "ready"):
            # A thread takes the number over at its first parallel operation, and `torch.compile` looks before that.
            torch.set_num_threads(self._threads)
            self._thread.ready = True
        # NumPy gives an axis of length 1 any stride; PyTorch would compile the network again for each.
        tensor = torch.from_numpy(gray.reshape(-1).reshape(gray.shape))
        with torch.inference_mode():
            return cast("FloatArray", forward(tensor.to(self._device)).contiguous().cpu().numpy())

    def _release(self) -> None:
        self._network = self._forward = None
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()  # else PyTorch keeps the memory for itself


def _pin_float32(threads: int) -> None:
    """Float32 means float32: no bf16 in products on a CPU, no TF32 in products and convolutions on a GPU."""
    import torch

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def _uncompiled(error: Exception) -> EngineUnavailableError | ArtefactError:
    said = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("backend=")]
    reason = said[0].rstrip(".") if said else type(error).__name__
    if "compiler" in reason.lower():
        return EngineUnavailableError(
            f"torch.compile finds no working compiler: {reason}. Install one, such as g++ with `apt-get install g++` (for a "
            "GPU `pip install triton`), or choose pytorch:cpu"
        )
    return ArtefactError(f"torch.compile does not compile this network: {reason}. Choose pytorch:cpu")
