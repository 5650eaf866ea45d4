"""Distillation: the photos get the colours that teachers give to their gray, and training goes on as with any photos.

A teacher sees each photo whole, at the size at which networks are used, not a crop of it: it was made for that. Its ab, of
whatever stride, is area-averaged to at most GRID a side, which is the finest that a student predicts, kept on disk in half
precision, enlarged bicubically to the photo, and put on the photo's own L. Photos need no colour of their own. Of several
teachers the mean is learnt: what they disagree about is what each of them made up. A share of the photo's own colours may be
mixed in.

What was coloured is remembered by the pixels of the photo and the bytes of the checkpoint, so an interrupted run goes on
where it was, and sees the very same colours when it is resumed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from icf_deploy.errors import CheckpointError, UsageError, WorkError
from icf_deploy.imaging.color import lab_of_pixels
from icf_deploy.imaging.merge import merge
from icf_deploy.imaging.resample import Upsampler
from icf_deploy.network.checkpoint import load_checkpoint
from icf_deploy.training.config import TrainConfig
from icf_deploy.training.machine import caught_signals, usable_device
from icf_deploy.training.photos import Photo, recoloured
from icf_deploy.training.predictor import predictor_of
from icf_deploy.training.protocols import Predict, gray_for
from icf_deploy.training.trainer import TrainingInterrupted

TEACHER_SIZE = (256, 256)  # pixels; published DDColor files are trained and evaluated at 256 and 512
GRID = 128  # pixels a side; icf-edge predicts TEACHER_SIZE at stride 2
TOLD = 10  # parts of the work after which a line says how far it is

FloatArray = npt.NDArray[np.float32]
Notice = Callable[[str], None]


class Teacher:
    """A colorization checkpoint of any preset, in inference mode, and the colours that it has given so far."""

    def __init__(self, checkpoint: Path, folder: Path, device: str) -> None:
        """folder: where its colours are kept; made when the first is. Raises UsageError, WorkError or CheckpointError."""
        if checkpoint.is_dir():
            raise UsageError(f"--teacher {checkpoint}: a bundle holds graphs; name the checkpoint that it was exported from")
        try:
            network = load_checkpoint(checkpoint)
        except CheckpointError as error:
            raise CheckpointError(
                "--teacher needs a colorization checkpoint: DDColor's .pth, .pt, .bin or .safetensors, or one of icf-deploy; "
                f"{error}"
            ) from error
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        self.name = f"{network.preset} {digest}"
        self.folder = folder
        self._predict: Predict = predictor_of(network.requires_grad_(False).to(usable_device(device)))

    def ab(self, photo: Photo, lightness: FloatArray) -> FloatArray:
        """Return its ab for the photo, [2,h,w], remembered or computed. Raises WorkError where the disk is full."""
        key = hashlib.sha256(f"{self.name} {TEACHER_SIZE} {photo.rgb.shape}".encode() + photo.rgb.tobytes()).hexdigest()
        path = self.folder / f"{key[:32]}.npy"
        ab = _remembered(path)
        if ab is None:
            ab = self._computed(lightness)
            _remember(ab, path)
        return ab.astype(np.float32)

    def _computed(self, lightness: FloatArray) -> npt.NDArray[np.float16]:
        # One photo at a time: a batch's other photos would change the last bits, and a resumed run has other batches.
        ab = self._predict(gray_for(lightness, TEACHER_SIZE))[0]
        if not np.isfinite(ab).all():
            raise WorkError("the teacher gives values that are not finite: its weights are damaged; name another --teacher")
        if max(ab.shape[1:]) > GRID:
            ab = np.stack([np.asarray(cv2.resize(plane, (GRID, GRID), interpolation=cv2.INTER_AREA)) for plane in ab])
        return np.asarray(ab, np.float16)


class Teachers:
    """One teacher or several, who share a folder; `name` lists them by preset and SHA-256."""

    def __init__(self, checkpoints: Sequence[Path], folder: Path, device: str) -> None:
        """Raises what Teacher raises, and UsageError for the same checkpoint given twice."""
        self._teachers = [Teacher(checkpoint, folder, device) for checkpoint in checkpoints]
        names = [teacher.name for teacher in self._teachers]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise UsageError(f"--teacher {checkpoints[index]}: the same weights as {checkpoints[names.index(name)]}")
        self.name = ", ".join(names)
        self.folder = folder

    def colours(self, photo: Photo, share: float = 1.0) -> Photo:
        """Return the photo with `share` of the teachers' mean ab and the rest of its own."""
        lightness, own = lab_of_pixels(photo.rgb)
        height, width = lightness.shape
        field = np.zeros((2, height, width), np.float32)
        for teacher in self._teachers:
            ab = teacher.ab(photo, lightness)
            field += Upsampler(ab, (height, width)).rows(0, height, out=np.empty_like(field))
        field *= np.float32(share / len(self._teachers))
        if share < 1:
            field += np.float32(1 - share) * own
        return recoloured(photo, merge(lightness, field))


def taught(teachers: Teachers, photos: Sequence[Photo], share: float, say: Notice) -> tuple[Photo, ...]:
    """Return the photos in the teachers' colours, or with that share of them.

    A signal stops it between two photos (TrainingInterrupted); the same command then goes on with the next one.
    """
    done: list[Photo] = []
    with caught_signals() as stopped:
        for photo in photos:
            done.append(teachers.colours(photo, share))
            if len(done) * TOLD // len(photos) > (len(done) - 1) * TOLD // len(photos):
                say(f"the teacher has coloured {len(done)} of {len(photos)} photos")
            if stopped.is_set() and len(done) < len(photos):
                raise TrainingInterrupted(
                    f"stopped after the teacher coloured {len(done)} of {len(photos)} photos; they are kept in "
                    f"{teachers.folder}: give the same command to go on"
                )
    return tuple(done)


def colours_folder(config: TrainConfig) -> Path:
    """Return where the teachers' colours are kept: `--teacher-cache`, else beside the output until the run is done."""
    return config.teacher_cache or config.output.with_suffix(".teacher")


def forget_colours(config: TrainConfig) -> None:
    """Remove them, unless `--teacher-cache` says that they are to stay."""
    if config.teacher and config.teacher_cache is None:
        shutil.rmtree(colours_folder(config), ignore_errors=True)


def _remembered(path: Path) -> npt.NDArray[np.float16] | None:
    """What was kept; None where there is nothing, or half of something."""
    try:
        ab = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = ab.dtype == np.float16 and ab.ndim == 3 and len(ab) == 2 and np.isfinite(ab).all()  # noqa: PLR2004 - a and b
    return ab if fits else None


def _remember(ab: npt.NDArray[np.float16], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.save(stream, ab, allow_pickle=False)
        temporary.replace(path)
    except OSError as error:
        raise WorkError(
            f"{path.parent}: the teacher's colours could not be kept ({error.strerror or error}); free some disk space, or "
            "name another folder with --teacher-cache, and give the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
