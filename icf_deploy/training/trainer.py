"""A run's moving parts: network, averaged network, optimiser, and how far it got.

A step is a function of the weights, the seed and the step's number: crops, jitter and dropout are drawn from
(seed, step), never from a stream that an interruption could shift.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from icf_deploy.errors import ArtefactError, WorkError
from icf_deploy.network.network import ColorizationNetwork
from icf_deploy.training.color import pair_of_batch
from icf_deploy.training.config import FLOAT_LOSS, TrainConfig
from icf_deploy.training.crops import TEACHER_AUGMENTATION, Augmentation, Batch, CropSource
from icf_deploy.training.fast_backward import FastBackward
from icf_deploy.training.learnt_loss import Painted
from icf_deploy.training.losses import Truth, loss_of_name
from icf_deploy.training.machine import caught_signals, usable_device
from icf_deploy.training.optimisation import (
    AveragedNetwork,
    learning_rate_factor,
    optimizer_for,
    set_learning_rate,
    warmup_steps,
)
from icf_deploy.training.pace import Pace
from icf_deploy.training.photos import PhotoSet, Split
from icf_deploy.training.qat import QatRun
from icf_deploy.training.start import initial_learnt_loss, initial_network, save_network
from icf_deploy.training.state import Record, RunState, save_state, state_path
from icf_deploy.training.validation import GAINS, Point, ValidationSet, score, validate

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

TIMED_STEPS = (3, 10)  # warm-up, then timed, to turn minutes into steps
LOSS_MEMORY = 0.98  # of the shown running mean of the loss


@dataclass(frozen=True)
class Progress:
    """What a progress display shows after a step; `validation` is the newest score at the configured gain."""

    step: int
    total: int
    loss: float
    crops_per_second: float
    seconds_left: float
    validation: Point | None


class TrainingInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM stopped a run after its state was saved; the text says how to go on."""


class Trainer:
    """One run: `run` does the steps that are left, `finish` writes the checkpoint. `total` and `step` count its steps."""

    def __init__(self, config: TrainConfig, split: Split, validation: ValidationSet) -> None:
        self._config = config
        self._device = usable_device(config.device)
        self._photos = PhotoSet(split.train).digest()
        self._crops = CropSource(
            split.train,
            batch=config.batch,
            crop=config.crop,
            seed=config.seed,
            augmentation=replace(TEACHER_AUGMENTATION if config.teacher else Augmentation(), damage=config.damage),
        )
        self._validation = validation
        self._loss = loss_of_name(config.loss)
        torch.manual_seed(config.seed)
        network = initial_network(config)
        self._qat = QatRun(network, config, self._device) if config.qat else None
        # What is rounded is lowered: it has no BatchNorm or dropout that training would want in another mode.
        network = network.train() if self._qat is None else self._qat.network
        self._network: ColorizationNetwork = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._averaged = AveragedNetwork(self._network, config.ema)
        self._optimizer = optimizer_for(self._network, config)
        self._learnt = initial_learnt_loss(config, self._network, split.train, self._device)
        self.total = 0
        self.step = 0
        self._history: list[Record] = []
        self._seconds = 0.0
        self._best: dict[str, Any] | None = None

    @property
    def last(self) -> int:
        """The step that the run ends with: `total`, over which learning rates fall, or before it."""
        return min(self.total, self._config.stop_at or self.total)

    def restore(self, state: RunState) -> None:
        """Take over a saved state; raise ArtefactError where it belongs to another computation."""
        differences = self._config.differences(state.config)
        if state.photos != self._photos:
            differences.append("the training photos are not the same")
        if self._qat is not None and state.start != self._qat.start:
            differences.append(f"{self._config.from_checkpoint} is not the same file")
        if differences:
            raise ArtefactError(
                f"{state_path(self._config.output)}: this run cannot be resumed with other options: {'; '.join(differences)}. "
                "Give the same ones, or start again with --overwrite"
            )
        self._network.load_state_dict(state.network)
        self._averaged.network.load_state_dict(state.averaged)
        self._optimizer.load_state_dict(state.optimizer)
        if self._learnt is not None:
            self._learnt.restore(state.learnt)
        self.total, self.step, self._history, self._seconds = state.total, state.step, state.history, state.seconds
        # Scores of other photos cannot be compared: --validation-photos may change.
        same = bool(state.history) and state.history[-1]["photos"] == len(self._validation.rgb)
        self._best = state.best if same else None

    def run(self, progress: Callable[[Progress], None] | None, writer: SummaryWriter | None) -> None:
        """Do the remaining steps, validating and saving the state on the way and at the end."""
        config = self._config
        mean, pace = math.nan, Pace(config.batch)
        latest: Point | None = None
        if self._qat is not None and self.step == 0:
            self._validate(mean, writer)  # rounding as export does it, which the run has to beat
        batches = self._crops.batches(self.step, self.last)
        with caught_signals() as stopped:
            try:
                for batch in batches:
                    loss = self.advance(batch)
                    if not math.isfinite(loss):
                        raise WorkError(f"the loss became {loss} at step {self.step}; lower --lr (now {config.lr}) or --clip")
                    mean = loss if math.isnan(mean) else LOSS_MEMORY * mean + (1 - LOSS_MEMORY) * loss
                    self._seconds += pace.tick()
                    if writer:
                        writer.add_scalar("train/loss", loss, self.step)
                        writer.add_scalar("train/crops_per_second", pace.crops_per_second, self.step)
                    if self.step % config.validate_every == 0 or self.step == self.last:
                        latest = self._validate(mean, writer)
                        self.save()
                        pace.pause()
                    if progress:
                        left = pace.seconds_per_step * (self.last - self.step)
                        progress(Progress(self.step, self.last, mean, pace.crops_per_second, left, latest))
                    if stopped.is_set() and self.step < self.last:
                        self.save()
                        raise TrainingInterrupted(
                            f"stopped after step {self.step} of {self.last}; {state_path(config.output)} is saved: "
                            "give the same command with --resume to go on"
                        )
            finally:
                batches.close()
        if not self._history or self._history[-1]["step"] != self.step:
            self._validate(mean, writer)  # resumed where it now ends

    def advance(self, batch: Batch) -> float:
        """Do one step on `batch` and return its loss."""
        config = self._config
        torch.manual_seed(_step_seed(config.seed, self.step))
        rate = learning_rate_factor(self.step, self.total, config.warmup)
        set_learning_rate(self._optimizer, rate)
        pair = pair_of_batch(batch, self._device)
        truth = Truth(F.avg_pool2d(pair.l, self._network.stride), F.avg_pool2d(pair.ab, self._network.stride))
        if self._qat is not None and config.loss == FLOAT_LOSS:
            truth = Truth(truth.l, self._qat.float_ab(pair.gray))
        gray = pair.gray.contiguous(memory_format=torch.channels_last)
        painted = self._painted(gray)
        loss = self._loss(painted.ab, truth, config)
        if self._learnt is not None:
            loss = loss + self._learnt.term(painted, truth, warmed_up=self.step >= warmup_steps(self.total, config.warmup))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), config.clip)
        self._optimizer.step()
        self._network.constrain()
        if self._learnt is not None:
            self._learnt.learn(painted, truth, rate)
        self._averaged.update(self.step)
        self.step += 1
        return float(loss.detach())

    def _painted(self, gray: Tensor) -> Painted:
        network = self._network
        faster = FastBackward() if self._device.type == "cpu" else nullcontext()
        half = torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.precision == "bf16")
        with faster:
            with half:
                features, levels = network.features(gray)
            # In float32: queries that start out alike differ by less than bfloat16 resolves, and would stay alike.
            palette = network.palette(tuple(level.float() for level in levels))
            with half:
                ab = network.paint(palette, features, gray)
        return Painted(ab.float(), features.float())

    def save(self) -> None:
        """Write the state file."""
        state = RunState(
            config=self._config.recorded(),
            photos=self._photos,
            total=self.total,
            step=self.step,
            network=self._network.state_dict(),
            averaged=self._averaged.network.state_dict(),
            optimizer=self._optimizer.state_dict(),
            history=self._history,
            seconds=self._seconds,
            start=self._qat.start if self._qat is not None else "",
            best=self._best,
            learnt=self._learnt.state() if self._learnt is not None else {},
        )
        save_state(state, state_path(self._config.output))

    def finish(self, split: Split, found: PhotoSet) -> Path:
        """Write the checkpoint and the history of the run, and remove the state, which has done its work."""
        config = self._config
        network = self._averaged.network.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        kept = self._history[-1]
        if config.keep == "best" and self._best is not None:
            network.load_state_dict(self._best["averaged"])
            kept = next(record for record in self._history if record["step"] == self._best["step"])
        extra: Mapping[str, Tensor] = {}
        metadata = {
            "training": json.dumps({**config.computation(), "steps": self.total, "stopped": self.step, "kept": kept["step"]}),
            "photos": json.dumps({"train": len(split.train), "holdout": list(split.holdout), "sha256": self._photos}),
            "validation": json.dumps({k: kept[k] for k in ("photos", "protocol", "curve")}),
            "gain": f"{config.gain} (folded into the weights; the gains of the validation curve are before it)",
            "unreadable": str(len(found.unreadable)),
            **({"teacher": found.teacher} if found.teacher else {}),
        }
        if self._qat is not None:
            trained = self._qat.finished(network)
            network, extra = trained.network, trained.extra
            metadata |= trained.metadata
        save_network(network, config, metadata, extra)
        history = config.output.with_suffix(".history.json")
        history.write_text(json.dumps(self._history, indent=1) + "\n", encoding="utf-8")
        state_path(config.output).unlink(missing_ok=True)
        return config.output

    def time(self) -> tuple[float, float]:
        """Return the seconds of a step (median) and of a validation, by doing both. Leaves the weights changed."""
        warm, timed = TIMED_STEPS
        self.total = warm + timed
        seconds = []
        for batch in self._crops.batches(0, self.total):
            start = time.perf_counter()
            self.advance(batch)
            seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        validate(self._averaged.network, self._validation, gains=GAINS, device=self._device)
        return statistics.median(seconds[warm:]), time.perf_counter() - start

    def _validate(self, loss: float, writer: SummaryWriter | None) -> Point:
        gains, protocol = sorted({*GAINS, self._config.gain}), self._validation.protocol
        curve = validate(self._averaged.network, self._validation, gains=gains, device=self._device)
        self._history.append(
            {
                "step": self.step,
                "loss": None if math.isnan(loss) else loss,
                "seconds": round(self._seconds, 1),
                "photos": len(self._validation.rgb),
                "protocol": f"{protocol}, against the teacher's colours" if self._config.teacher_alone else protocol,
                "curve": [asdict(point) for point in curve],
            }
        )
        merit = score(curve)
        if self._qat is not None:
            self._history[-1]["int8_drift"] = drift = self._qat.drift(self._averaged.network, self._validation)
            if writer:
                writer.add_scalar("validation/int8_drift", drift, self.step)
            if self._config.loss == FLOAT_LOSS:
                merit = -drift
        if self._best is None or merit > self._best["score"]:
            weights = {name: tensor.clone() for name, tensor in self._averaged.network.state_dict().items()}
            self._best = {"step": self.step, "score": merit, "averaged": weights}
        point = next(point for point in curve if point.gain == self._config.gain)
        if writer:
            writer.add_scalar("validation/db_over_gray", point.db_over_gray, self.step)
            writer.add_scalar("validation/colourfulness", point.colourfulness, self.step)
        return point


def _step_seed(seed: int, step: int) -> int:
    """Seed of what torch draws in a step (dropout): apart for every step, and from the seed of the initial weights."""
    return (seed + 1) * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 & 0x7FFF_FFFF_FFFF_FFFF
