"""What a training run is told. Free of torch, so that `icf-deploy train --help` stays quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from icf_deploy.errors import UsageError

PRECISIONS = ("auto", "bf16", "fp32")
KEEPS = ("best", "last")
BASELINES = ("knn", "svr")  # K-nearest neighbours, support vector regression
# All that training a baseline asks for; its other settings are constants of icf_deploy.training.baselines.
BASELINE_OPTIONS = frozenset({"photos", "output", "baseline", "holdout", "seed", "overwrite"})
AUTO_LOSS, TEACHER_LOSS = "vivid", "huber"  # a teacher's colours are one answer, not one of many: nothing washes out
DEFAULT_PRESET = "icf-edge"
SIZE_MULTIPLE = 32  # pixels; the backbones halve five times
FLOAT_LOSS = "float"  # compares with the ab of the network before --qat
CLASS_LOSS, ADVERSARIAL_LOSS = "classes", "adversarial"
# Losses with parts of their own that learn beside the network, and the options that are about these alone.
LEARNT_LOSSES: Mapping[str, frozenset[str]] = {
    CLASS_LOSS: frozenset({"class_weight", "annealed_weight"}),
    ADVERSARIAL_LOSS: frozenset({"adversarial_weight", "discriminator_lr"}),
}
# What --qat changes about the defaults: the size that graphs have by default, few crops of it, rates in int8 steps per step.
QAT_DEFAULTS: Mapping[str, Any] = {
    "crop": 256,
    "batch": 4,
    "lr": 0.005,
    "color_lr": 0.005,
    "backbone_lr": 0.005,
    "range_lr": 0.005,
    "weight_decay": 0.0,
    "warmup": 10,
    "clip": 0.3,
    "damage": 0.0,
    "ema": 0.98,
    "precision": "fp32",
    "validate_every": 50,
    "validation_photos": 24,
}
# Fields that may change between the first part of a run and its resumption: they do not touch the trained weights.
RESUME_MAY_CHANGE = frozenset(
    {
        "photos",
        "output",
        "resume",
        "overwrite",
        "log_dir",
        "minutes",
        "steps",
        "stop_at",
        "validate_every",
        "validation_photos",
        "gain",
        "half",
        "keep",
        "teacher_cache",
    }
)


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The help text of a field is the help text of its command-line option."""

    photos: tuple[Path, ...] = field(
        metadata={"help": "Folder of colour photos, walked recursively; may be given more than once."}
    )
    output: Path = field(metadata={"help": "Checkpoint to write (.safetensors)."})
    preset: str | None = field(default=None, metadata={"help": "Network to train: icf-edge, or what --from holds."})
    steps: int | None = _option(None, "Optimiser steps of the whole run.")
    minutes: float | None = _option(None, "Length of the run; turned into steps once, at the start, by timing real steps.")
    stop_at: int | None = _option(
        None, "End after this step, before learning rates have fallen to 0 at the last one: few photos overfit."
    )
    batch: int = _option(24, "Crops per step.")
    crop: int = _option(128, "Side of a training crop in pixels, a multiple of 32.")
    lr: float = _option(1e-3, "Peak learning rate of image decoder and fusion.")
    color_lr: float = _option(3e-4, "Peak learning rate of the colour decoder; a higher one makes its queries alike.")
    backbone_lr: float = _option(3e-4, "Peak learning rate of the pretrained backbone.")
    range_lr: float = _option(
        0.005, "--qat: peak learning rate of activations' ranges; 0.6 where a few channels stretch them, see docs/precision.md."
    )
    weight_decay: float = _option(0.01, "AdamW weight decay; never on norms and biases.")
    warmup: int = _option(150, "Steps over which the learning rate rises (at most a tenth of the run).")
    clip: float = _option(20.0, "Largest gradient norm; longer gradients are scaled down to it.")
    ema: float = _option(0.998, "Decay of the averaged weights, which are what is validated and saved.")
    loss: str = _option(
        "auto",
        "Loss: vivid, perceptual, classes, adversarial, huber, paper, float (the network before), or auto: huber for a "
        "teacher's colours alone, float with --qat, else vivid.",
    )
    mse_weight: float = _option(1.0, "paper: weight of the MSE on RGB in 0..1.")
    ssim_weight: float = _option(0.1, "paper: weight of 1 - SSIM on RGB.")
    huber_beta: float = _option(8.0, "huber, vivid: ab error at which the loss turns from square to linear.")
    chroma_boost: float = _option(1.15, "vivid: factor on the true chroma that the network aims at.")
    colourfulness_weight: float = _option(0.02, "vivid: weight of the colourfulness that the prediction lacks.")
    crop_balance: float = _option(
        1.0, "vivid: 0, colourful crops decide; 1, a crop counts by its error relative to its chroma."
    )
    perceptual_weight: float = _option(5.0, "perceptual: weight of the distance between features of the ImageNet backbone.")
    class_weight: float = _option(5.0, "classes: weight of the guess of every place's class of colour.")
    annealed_weight: float = _option(0.0, "classes: weight of the distance from the colour that the guess amounts to.")
    adversarial_weight: float = _option(2.0, "adversarial: weight of looking like a photo to the discriminator of patches.")
    discriminator_lr: float = _option(4e-4, "adversarial: peak learning rate of the discriminator.")
    gain: float = _option(1.0, "Factor on the predicted chroma, folded into the saved weights.")
    half: bool = _option(False, "Save the weights in fp16: half the size, as the shipped checkpoint.")
    keep: str = _option(
        "best", "Weights to save: of the best validation (dB at 60 % colourfulness; --qat: drift), or the last."
    )
    damage: float = _option(0.25, "Probability that a crop's gray, not its colours, is blurred, faded, grainy or a bad JPEG.")
    seed: int = _option(0, "Seed of initial weights, photo order, augmentation and dropout.")
    holdout: tuple[str, ...] = _option(
        (), "Source (file name before its last _NNNN; * allowed) kept for validation; repeatable."
    )
    validation_photos: int = _option(96, "Most held-out photos that a validation looks at.")
    validate_every: int = _option(500, "Steps between two validations; the run can be resumed from each.")
    from_checkpoint: Path | None = field(
        default=None, metadata={"help": "Checkpoint to fine-tune, instead of ImageNet weights."}
    )
    teacher: tuple[Path, ...] = _option(
        (),
        "Checkpoint whose colours are learnt, instead of the photos' own; gray photos will do. Repeatable: the mean of what "
        "they give.",
    )
    teacher_share: float = _option(
        1.0,
        "--teacher: share of its colours in those that are learnt. The rest is the photo's own, and validation asks for these.",
    )
    teacher_cache: Path | None = field(
        default=None,
        metadata={"help": "Folder that keeps the teachers' colours for other runs; else beside the output until it is done."},
    )
    baseline: str | None = field(
        default=None,
        metadata={"help": "Train one of the ICF paper's baselines, knn or svr, into an .npz instead of a network."},
    )
    qat: bool = _option(
        False,
        "Quantization-aware: train the int8 form, at the size --crop, of what --from holds. Defaults then: "
        + ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in QAT_DEFAULTS.items())
        + ".",
    )
    wide: tuple[str, ...] = _option(
        (),
        "--qat: block or product that stays in float32, as a recipe names it; repeatable. Those that see the photo do.",
    )
    pretrained: bool = _option(True, "Start the backbone of icf-edge from its ImageNet weights.")
    resume: bool = _option(False, "Go on with the interrupted run of this output.")
    overwrite: bool = _option(False, "Replace an existing output, and forget an interrupted run of it.")
    threads: int = _option(1, "Threads that PyTorch computes with.")
    precision: str = _option(
        "auto", "Number format of the network's forward pass: bf16 (autocast), fp32, or auto: bf16 where the device has it."
    )
    device: str = _option("cpu", "PyTorch device, such as cpu or cuda.")
    log_dir: Path | None = field(default=None, metadata={"help": "Folder for TensorBoard logs."})

    def check(self) -> None:
        """Raise UsageError for options that make no sense, before any work is done."""
        if self.resume and self.overwrite:
            raise UsageError("--resume goes on with an interrupted run and --overwrite forgets it: give one of them")
        if self.baseline is not None:
            self._check_baseline(self.baseline)
            return
        if not self.resume and (self.steps is None) == (self.minutes is None):
            raise UsageError("say how long to train: either --steps N or --minutes M")
        for name in ("steps", "minutes", "stop_at", "batch", "lr", "color_lr", "backbone_lr", "range_lr", "clip", "huber_beta",
                     "class_weight", "adversarial_weight", "discriminator_lr", "gain", "validate_every", "validation_photos",
                     "threads"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name.replace('_', '-')} must be above 0, not {value}")
        self._check_crops()
        for name in ("crop_balance", "annealed_weight"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise UsageError(f"--ema must be at least 0 and below 1, not {self.ema}")
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.keep not in KEEPS:
            raise UsageError(f"--keep is one of {', '.join(KEEPS)}, not {self.keep!r}")
        self._check_teacher()
        self._check_qat()
        if self.output.suffix != ".safetensors":
            raise UsageError(
                f"{self.output}: a checkpoint ends in .safetensors; try -o {self.output.with_suffix('.safetensors')}"
            )

    def _check_teacher(self) -> None:
        if self.teacher_cache is not None and not self.teacher:
            raise UsageError("--teacher-cache keeps the colours of a teacher: name one with --teacher")
        if self.teacher_share != 1 and not self.teacher:
            raise UsageError("--teacher-share mixes a teacher's colours with the photos' own: name one with --teacher")
        if not 0 < self.teacher_share <= 1:
            raise UsageError(f"--teacher-share must be above 0 and at most 1, not {self.teacher_share}")

    def _check_crops(self) -> None:
        if self.batch < 2:  # noqa: PLR2004 - BatchNorm needs two samples
            raise UsageError(f"--batch must be at least 2 (BatchNorm needs it), not {self.batch}")
        if self.crop < SIZE_MULTIPLE or self.crop % SIZE_MULTIPLE:
            raise UsageError(f"--crop must be a multiple of {SIZE_MULTIPLE}, not {self.crop}")
        if not 0 <= self.damage <= 1:
            raise UsageError(f"--damage is a probability, 0 to 1, not {self.damage}")

    def _check_baseline(self, baseline: str) -> None:
        if baseline not in BASELINES:
            raise UsageError(f"--baseline is one of {', '.join(BASELINES)}, not {baseline!r}")
        others = [
            f"--{known.name.replace('_', '-')}"
            for known in fields(self)
            if known.name not in BASELINE_OPTIONS and getattr(self, known.name) != known.default
        ]
        if others:
            raise UsageError(f"--baseline {baseline} has no use for {', '.join(others)}: leave that out")
        if self.output.suffix != ".npz":
            raise UsageError(f"{self.output}: a baseline ends in .npz; try -o {self.output.with_suffix('.npz')}")

    def _check_qat(self) -> None:
        if not self.qat:
            if self.loss == FLOAT_LOSS:
                raise UsageError(
                    f"--loss {FLOAT_LOSS} compares with the network before --qat: add --qat, or choose another loss"
                )
            if self.wide:
                raise UsageError(f"--wide {self.wide[0]} is what --qat leaves in float32: add --qat, or leave it out")
            return
        if self.loss in LEARNT_LOSSES:
            raise UsageError(
                f"--loss {self.loss} trains parts of its own beside a network that still looks for its colours: leave --qat out"
            )
        if self.gain != 1:
            raise UsageError("--qat keeps the weights that --from names, and --gain would change them: leave it out")
        if self.teacher:
            raise UsageError("--qat holds on to the network that --from names: leave --teacher out")
        if self.from_checkpoint is None:
            raise UsageError("--qat fine-tunes a trained network: name it with --from CHECKPOINT")
        if self.precision == "bf16":
            raise UsageError("--qat rounds to 8 bits, and bf16 has as few: use --precision fp32")
        if self.half:
            raise UsageError("--half would move the weights that --qat fitted the int8 form to: leave it out")

    def with_preset(self) -> TrainConfig:
        """Return the same with what is left to us filled in: the loss, and the preset where no checkpoint says it."""
        auto = FLOAT_LOSS if self.qat else TEACHER_LOSS if self.teacher_alone else AUTO_LOSS
        loss = auto if self.loss == "auto" else self.loss
        preset = self.preset or (None if self.from_checkpoint else DEFAULT_PRESET)
        return replace(self, preset=preset, loss=loss)

    @property
    def teacher_alone(self) -> bool:
        """Whether the photos' own colours play no part, in training or validation."""
        return bool(self.teacher) and self.teacher_share == 1

    def recorded(self) -> dict[str, Any]:
        """Return the options as JSON values, as the state file and the checkpoint's metadata keep them."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def computation(self) -> dict[str, Any]:
        """Return the options that decide what is computed, apart from its length: the same for every part of a run."""
        idle = frozenset[str]().union(*(names for loss, names in LEARNT_LOSSES.items() if loss != self.loss))
        return {name: value for name, value in self.recorded().items() if name not in RESUME_MAY_CHANGE | idle}

    def differences(self, recorded: dict[str, Any]) -> list[str]:
        """Name the options in which `recorded` asks for another computation than this configuration."""
        return [
            f"--{name.replace('_', '-')} was {recorded.get(name)!r}, is {value!r}"
            for name, value in self.computation().items()
            if recorded.get(name) != value
        ]


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
