"""Training the paper's baselines: samples of local features and their true ab, drawn from the training photos, and a fit.

The photos, the split by source and the protocol are those of the networks. Numbers of samples are what a core fits in
minutes and colours a photo with in about a second: K-nearest neighbours keep all of theirs, and the time of a support
vector regression grows with their square.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from icf_deploy.errors import EngineUnavailableError, WorkError
from icf_deploy.imaging.color import gray_of_l, lab_of_pixels
from icf_deploy.text_output import require_writable
from icf_deploy.training.baseline_file import save_baseline
from icf_deploy.training.baseline_models import KNN, SVR, Baseline, Machine, Model, Neighbours, SupportVectors
from icf_deploy.training.config import TrainConfig
from icf_deploy.training.crops import scaled
from icf_deploy.training.local_features import FEATURES, SIZE, STRIDE, local_features
from icf_deploy.training.photos import Photo, PhotoSet, left_out, load_photos, split_by_source

SAMPLES = {KNN: 60_000, SVR: 12_000}  # places of photos that are fitted
NEIGHBOURS = 32  # 16 to 64 differ by 0.2 dB at equal colourfulness on held-out photos; fewer are noisy
SVR_EPSILON = 4.0  # ab units that cost nothing: about what JPEG leaves uncertain
SVR_COST = 10.0  # C: how much an error weighs against smoothness
_LEAST_SPREAD = 1e-6  # of a feature that never varies

FloatArray = npt.NDArray[np.float32]
Notice = Callable[[str], None]


@dataclass(frozen=True)
class Samples:
    """Features float32 [N,F], not scaled, and the true ab float32 [N,2] of the same places."""

    features: FloatArray
    ab: FloatArray


def train_baseline(config: TrainConfig, *, notice: Notice | None = None) -> Path:
    """Fit the baseline that `config.baseline` names and write it to `config.output`; return that path.

    Raises UsageError for options that make no sense, WorkError for photos or disks that fail, EngineUnavailableError
    without scikit-learn.
    """
    config.check()
    assert config.baseline is not None
    require_writable(config.output, overwrite=config.overwrite)
    say = notice or (lambda _: None)
    found = load_photos(config.photos)
    split = split_by_source(found.photos, config.holdout)
    for line in left_out(found):
        say(line)
    held = f" (held out: {', '.join(split.holdout)})" if split.holdout else ""
    say(f"{len(split.train)} photos to train on{held}")
    start = time.perf_counter()
    samples = draw_samples(split.train, SAMPLES[config.baseline], config.seed)
    baseline = fit(config.baseline, samples)
    say(f"{len(samples.ab)} samples fitted in {time.perf_counter() - start:.0f} s")
    training = {
        "photos": len(split.train),
        "sha256": PhotoSet(split.train).digest(),
        "holdout": list(split.holdout),
        "samples": len(samples.ab),
        "seed": config.seed,
    }
    save_baseline(baseline, config.output, training)
    return config.output


def draw_samples(photos: Sequence[Photo], count: int, seed: int) -> Samples:
    """Draw `count` places, as evenly over `photos` as can be; fewer where the photos have not so many."""
    grid = (SIZE[0] // STRIDE) * (SIZE[1] // STRIDE)
    each = min(grid, -(-count // len(photos)))
    features = np.empty((len(photos) * each, FEATURES), np.float32)
    ab = np.empty((len(photos) * each, 2), np.float32)
    for index, photo in enumerate(photos):
        random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        places = random.choice(grid, each, replace=False)
        rows = slice(index * each, (index + 1) * each)
        all_features, all_ab = features_and_ab(photo.rgb)
        features[rows], ab[rows] = all_features[places], all_ab[places]
    kept = np.sort(np.random.default_rng(seed).permutation(len(ab))[:count])
    return Samples(features[kept], ab[kept])


def features_and_ab(rgb: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
    """uint8 RGB [H,W,3] -> features [n,F] and true ab [n,2] of all places of its grid, area-averaged."""
    lightness, ab = lab_of_pixels(scaled(rgb, *SIZE))
    features = local_features(gray_of_l(lightness))
    rows, columns = features.shape[:2]
    small = [np.asarray(cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_AREA), np.float32) for plane in ab]
    return features.reshape(-1, FEATURES), np.stack(small, axis=2).reshape(-1, 2)


def fit(kind: str, samples: Samples) -> Baseline:
    """Fit a baseline to samples. Raises EngineUnavailableError without scikit-learn, WorkError for too few samples."""
    if len(samples.ab) < NEIGHBOURS:
        raise WorkError(f"{len(samples.ab)} samples are too few to train on: name more photos")
    spread = np.maximum(samples.features.std(axis=0), _LEAST_SPREAD).astype(np.float32)
    empty = Neighbours(samples.features, samples.ab, NEIGHBOURS)
    unfitted = Baseline(kind, samples.features.mean(axis=0).astype(np.float32), spread, empty)
    features = unfitted.scaled(samples.features)
    model: Model = Neighbours(features, samples.ab, NEIGHBOURS) if kind == KNN else _support_vectors(features, samples.ab)
    return replace(unfitted, model=model)


def _support_vectors(features: FloatArray, ab: FloatArray) -> SupportVectors:
    try:
        from sklearn.svm import SVR as Regression  # noqa: N811 - the name SVR is our word for the kind
    except ImportError as error:
        raise EngineUnavailableError("support vector regression needs scikit-learn: pip install 'icf-deploy[train]'") from error
    gamma = 1 / FEATURES  # features have variance 1: what scikit-learn calls "scale"
    machines = []
    for channel in range(2):
        fitted = Regression(kernel="rbf", gamma=gamma, C=SVR_COST, epsilon=SVR_EPSILON).fit(features, ab[:, channel])
        machines.append(
            Machine(
                np.ascontiguousarray(fitted.support_vectors_, np.float32),
                np.ascontiguousarray(fitted.dual_coef_[0], np.float32),
                float(fitted.intercept_[0]),
                gamma,
            )
        )
    return SupportVectors(*machines)
