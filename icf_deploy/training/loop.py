"""The training loop: photos in, checkpoint out, exactly resumable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from icf_deploy.errors import UsageError, WorkError
from icf_deploy.training.config import TrainConfig
from icf_deploy.training.losses import loss_of_name
from icf_deploy.training.machine import borrowed_process, native_precision, tensorboard_writer
from icf_deploy.training.photos import MOST_NAMES, PhotoSet, Split, left_out, load_photos, split_by_source, spread
from icf_deploy.training.state import load_state, state_path
from icf_deploy.training.teacher import Teachers, colours_folder, forget_colours, taught
from icf_deploy.training.trainer import TIMED_STEPS, Progress, Trainer, TrainingInterrupted
from icf_deploy.training.validation import VALIDATION_SIZE, ValidationSet

__all__ = ["Progress", "TrainingInterrupted", "train"]

Notice = Callable[[str], None]


def train(config: TrainConfig, *, progress: Callable[[Progress], None] | None = None, notice: Notice | None = None) -> Path:
    """Train as `config` says and return the checkpoint's path.

    progress is called after every step, notice with a line of text for what a person should know (skipped photos,
    held-out sources, steps that minutes became). Raises UsageError for options that make no sense, WorkError for photos
    or disks that fail and for a loss that diverges, TrainingInterrupted (a KeyboardInterrupt) after a signal.
    """
    config.check()
    config = replace(config.with_preset(), precision="fp32" if config.qat else native_precision(config))
    loss_of_name(config.loss)
    _refuse_existing(config)
    say = notice or (lambda _: None)
    previous = load_state(state_path(config.output)) if config.resume else None
    with borrowed_process(config.threads):
        teachers = Teachers(config.teacher, colours_folder(config), config.device) if config.teacher else None
        found = load_photos(config.photos, gray_too=config.teacher_alone)
        split = split_by_source(found.photos, config.holdout)
        _describe(found, split, say)
        if teachers is not None:
            split = _taught_split(split, teachers, config, say)
            found = replace(found, teacher=teachers.name)
        side = config.crop if config.qat else VALIDATION_SIZE
        validation = ValidationSet.of(spread(split.validation, config.validation_photos), side)
        trainer = Trainer(config, split, validation)
        if previous is None:
            trainer.total = config.steps or _steps_of_minutes(config, split, validation)
        else:
            trainer.restore(previous)
            if trainer.step > trainer.last:
                raise UsageError(
                    f"--stop-at {config.stop_at}: the run is at step {trainer.step} already; name a later one, or none"
                )
        say(f"{'resuming at step ' + str(trainer.step) + ' of' if previous else 'training for'} {trainer.last} steps")
        with tensorboard_writer(config.log_dir) as writer:
            trainer.run(progress, writer)
        path = trainer.finish(split, found)
    forget_colours(config)
    return path


def _taught_split(split: Split, teachers: Teachers, config: TrainConfig, say: Notice) -> Split:
    """Return the photos in the teachers' colours, which become the truth: of validation too, unless they are only a share."""
    if not config.teacher_alone:
        return replace(split, train=taught(teachers, split.train, config.teacher_share, say))
    validation = spread(split.validation, config.validation_photos)
    photos = taught(teachers, (*split.train, *validation), config.teacher_share, say)
    return replace(split, train=photos[: len(split.train)], validation=photos[len(split.train) :])


def _steps_of_minutes(config: TrainConfig, split: Split, validation: ValidationSet) -> int:
    """Turn --minutes into steps on a throw-away copy of the run, validations included."""
    assert config.minutes is not None
    step, validating = Trainer(replace(config, steps=sum(TIMED_STEPS)), split, validation).time()
    return max(1, int(config.minutes * 60 / (step + validating / config.validate_every)))


def _refuse_existing(config: TrainConfig) -> None:
    state = state_path(config.output)
    if not config.output.parent.is_dir():
        raise UsageError(f"{config.output.parent}: no such folder to write {config.output.name} to")
    if config.overwrite:
        state.unlink(missing_ok=True)
    if config.resume or config.overwrite:
        return
    if state.exists():
        raise WorkError(f"{state}: an interrupted run of this output; go on with --resume or start again with --overwrite")
    if config.output.exists():
        raise WorkError(f"{config.output} exists; use --overwrite to replace it, or another -o")


def _describe(found: PhotoSet, split: Split, say: Notice) -> None:
    for line in left_out(found):
        say(line)
    if split.notice:
        say(split.notice)
    held = f" (held out: {', '.join(split.holdout[:MOST_NAMES])})" if split.holdout else ""
    say(f"{len(split.train)} photos to train on, {len(split.validation)} to validate on{held}")
