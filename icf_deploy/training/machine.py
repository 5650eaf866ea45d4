"""What a run asks of the machine: threads, signals, a number format, a place for its logs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import cv2
import torch

from icf_deploy.errors import UsageError
from icf_deploy.training.config import TrainConfig

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


def usable_device(name: str) -> torch.device:
    """Return the PyTorch device of that name; UsageError where this machine has none."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"--device {name}: PyTorch {torch.__version__} cannot use it here ({str(error).splitlines()[0]})"
        ) from error
    return device


def native_precision(config: TrainConfig) -> str:
    """Return what `auto` means on this device: bf16 where it is computed natively, which halves the time of a step."""
    device = usable_device(config.device)
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported() else "fp32"


@contextmanager
def borrowed_process(threads: int) -> Iterator[None]:
    """Limit torch to `threads` and OpenCV, whose work is small, to one; put back what was there, torch's seed included."""
    torch_before, cv2_before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(torch_before)
        cv2.setNumThreads(cv2_before)


@contextmanager
def caught_signals() -> Iterator[threading.Event]:
    """Set the event on SIGINT or SIGTERM; a second one acts as always. Only the main thread may handle signals."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before: dict[signal.Signals, Any] = {}

    def stop(number: int, _: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def tensorboard_writer(folder: Path | None) -> Iterator[SummaryWriter | None]:
    """A TensorBoard writer into `folder`, or None without one; UsageError where TensorBoard is not installed."""
    if folder is None:
        yield None
        return
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise UsageError("--log-dir needs TensorBoard: pip install 'icf-deploy[train]'") from error
    writer = SummaryWriter(str(folder))
    try:
        yield writer
    finally:
        writer.close()
