"""Training batches: which photos, which crops, which jitter; all of it a function of (seed, step, index).

Nothing is drawn from a shared random stream, so step 1,000 of a resumed run sees the very crops that step 1,000 of an
uninterrupted one sees, whatever was prefetched in between.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from icf_deploy.training.damage import Damage
from icf_deploy.training.photos import CHROMA_MAP_SIDE, Photo

# Spawn keys that keep the random streams of one seed apart.
_ORDER, _CROP, _DAMAGE = 0, 1, 2
POLL_SECONDS = 0.2  # how soon the prefetching thread sees that nobody wants more
PREFETCHED_BATCHES = 2  # one being used, one waiting: more only takes memory


@dataclass(frozen=True)
class Augmentation:
    """How crops vary. Colour is jittered on the RGB target, before gray is taken from it, so gray follows."""

    area: tuple[float, float] = (0.2, 1.0)  # share of the photo's largest square
    aspect: float = 4 / 3  # largest ratio of the crop's sides, either way
    flip: float = 0.5  # probability
    rotation: float = 0.3  # probability
    degrees: float = 10.0  # largest angle
    colourful: float = 0.5  # probability of taking the more colourful of two candidate crops
    exposure: float = 0.35  # stops, either way
    contrast: float = 0.12  # largest change of the exponent on linear light
    saturation: tuple[float, float] = (0.85, 1.2)
    white_balance: float = 0.05  # largest relative change of the red and blue gain
    jitter: float = 0.8  # probability of any colour jitter
    damage: float = 0.0  # probability that the gray, and not the target, is damaged


# What a teacher would colour the jittered gray: brighter and harder photos keep its colours, other colours would contradict it.
TEACHER_AUGMENTATION = Augmentation(saturation=(1.0, 1.0), white_balance=0.0)


@dataclass(frozen=True)
class Jitter:
    """Colour jitter of a batch in linear light: gains float32 [N,3], exponent [N], saturation [N]."""

    gains: npt.NDArray[np.float32]
    exponent: npt.NDArray[np.float32]
    saturation: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Crops as uint8 RGB [N,S,S,3], the jitter that is still to be applied to them, and the damage to the gray of that."""

    rgb: npt.NDArray[np.uint8]
    jitter: Jitter
    damage: Damage


class CropSource:
    """Batches of crops from cached photos; batch(step) can be asked in any order and always gives the same."""

    def __init__(self, photos: Sequence[Photo], *, batch: int, crop: int, seed: int, augmentation: Augmentation) -> None:
        self._photos = photos
        self._batch = batch
        self._crop = crop
        self._seed = seed
        self._augmentation = augmentation
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def batch(self, step: int) -> Batch:
        """Return the batch of `step` (0-based)."""
        crops = np.empty((self._batch, self._crop, self._crop, 3), np.uint8)
        jitter = Jitter(
            np.ones((self._batch, 3), np.float32), np.ones(self._batch, np.float32), np.ones(self._batch, np.float32)
        )
        damage = Damage.none(self._batch)
        for index in range(self._batch):
            random = self._random(_CROP, step, index)
            photo = self._photos[self._photo_index(step * self._batch + index)]
            crops[index] = _crop(photo, self._crop, self._augmentation, random)
            _draw_jitter(jitter, index, self._augmentation, random)
            random = self._random(_DAMAGE, step, index)
            if random.random() < self._augmentation.damage:
                damage.draw(index, random)
        return Batch(crops, jitter, damage)

    def batches(self, first: int, last: int) -> Generator[Batch, None, None]:
        """Yield the batches of steps first..last-1, prepared one ahead in a thread."""
        ready: queue.Queue[Batch | BaseException] = queue.Queue(PREFETCHED_BATCHES - 1)
        stop = threading.Event()

        def offer(item: Batch | BaseException) -> None:
            while not stop.is_set():
                with suppress(queue.Full):
                    ready.put(item, timeout=POLL_SECONDS)
                    return

        def work() -> None:
            try:
                for step in range(first, last):
                    offer(self.batch(step))
                    if stop.is_set():
                        return
            except BaseException as error:  # handed to the consumer, which raises it
                offer(error)

        worker = threading.Thread(target=work, name="crop-prefetch", daemon=True)
        worker.start()
        try:
            for _ in range(first, last):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            worker.join()

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(self._seed, spawn_key=key)))

    def _photo_index(self, position: int) -> int:
        epoch, offset = divmod(position, len(self._photos))
        if self._order[0] != epoch:
            self._order = (epoch, self._random(_ORDER, epoch).permutation(len(self._photos)))
        return int(self._order[1][offset])


def _crop(photo: Photo, size: int, augmentation: Augmentation, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Cut a random box, turn it if the draw says so, and scale it to size x size (area average when shrinking)."""
    angle = random.uniform(-augmentation.degrees, augmentation.degrees) if random.random() < augmentation.rotation else 0.0
    first, second = (_box(photo, size, augmentation, random) for _ in range(2))
    take_richer = random.random() < augmentation.colourful
    box = max(first, second, key=lambda b: _chroma_of(photo, b)) if take_richer else first
    flip = random.random() < augmentation.flip
    picture = _turned(photo.rgb, box, angle, size) if angle else scaled(photo.rgb[box[0] : box[2], box[1] : box[3]], size, size)
    return picture[:, ::-1] if flip else picture


def _box(photo: Photo, size: int, augmentation: Augmentation, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right): log-uniform aspect, uniform area of the largest square, inside the photo."""
    height, width = photo.rgb.shape[:2]
    side = min(height, width)
    # A crop never shows a photo enlarged by more than 1.5 where the photo has the pixels for it.
    least = max(augmentation.area[0], min(1.0, (size / 1.5 / side) ** 2))
    area = random.uniform(least, max(least, augmentation.area[1])) * side * side
    aspect = np.exp(random.uniform(-np.log(augmentation.aspect), np.log(augmentation.aspect)))
    box_height = int(np.clip(np.sqrt(area / aspect), 1, height))
    box_width = int(np.clip(np.sqrt(area * aspect), 1, width))
    top = int(random.integers(0, height - box_height + 1))
    left = int(random.integers(0, width - box_width + 1))
    return top, left, top + box_height, left + box_width


def _chroma_of(photo: Photo, box: tuple[int, int, int, int]) -> float:
    height, width = photo.rgb.shape[:2]
    rows = slice(
        box[0] * CHROMA_MAP_SIDE // height, max(box[2] * CHROMA_MAP_SIDE // height, box[0] * CHROMA_MAP_SIDE // height + 1)
    )
    columns = slice(
        box[1] * CHROMA_MAP_SIDE // width, max(box[3] * CHROMA_MAP_SIDE // width, box[1] * CHROMA_MAP_SIDE // width + 1)
    )
    return float(photo.chroma_map[rows, columns].mean())


def scaled(rgb: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Scale uint8 RGB [H,W,3] to height x width: area average when both sides shrink, else bilinear."""
    shrinks = rgb.shape[0] >= height and rgb.shape[1] >= width
    scaled = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(scaled, np.uint8)


def _turned(rgb: npt.NDArray[np.uint8], box: tuple[int, int, int, int], angle: float, size: int) -> npt.NDArray[np.uint8]:
    """As scaled, but turned about the box's centre: scale a larger box first, so that turning does not alias."""
    radians = np.deg2rad(abs(angle))
    margin = (np.cos(radians) + np.sin(radians) - 1) / 2
    height, width = rgb.shape[:2]
    rows, columns = box[2] - box[0], box[3] - box[1]
    top, bottom = max(0, int(box[0] - margin * rows)), min(height, int(np.ceil(box[2] + margin * rows)))
    left, right = max(0, int(box[1] - margin * columns)), min(width, int(np.ceil(box[3] + margin * columns)))
    down, across = size / rows, size / columns
    larger = scaled(rgb[top:bottom, left:right], max(1, round((bottom - top) * down)), max(1, round((right - left) * across)))
    centre = ((box[1] + box[3]) / 2 - left) * across, ((box[0] + box[2]) / 2 - top) * down
    turn = cv2.getRotationMatrix2D(centre, angle, 1.0)
    turn[0, 2] += size / 2 - centre[0]
    turn[1, 2] += size / 2 - centre[1]
    turned = cv2.warpAffine(larger, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, np.uint8)


def _draw_jitter(jitter: Jitter, index: int, augmentation: Augmentation, random: np.random.Generator) -> None:
    draws = random.uniform(-1, 1, 5)
    if random.random() >= augmentation.jitter:
        return
    exposure = 2.0 ** (draws[0] * augmentation.exposure)
    warm, tint = 1 + draws[1:3] * augmentation.white_balance
    jitter.gains[index] = exposure * warm, exposure, exposure * tint
    jitter.exponent[index] = 1 + draws[3] * augmentation.contrast
    low, high = augmentation.saturation
    jitter.saturation[index] = (low + high) / 2 + draws[4] * (high - low) / 2
