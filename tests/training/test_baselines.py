from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sklearn import svm
from sklearn.neighbors import KNeighborsRegressor

from icf_deploy.errors import UsageError, WorkError
from icf_deploy.training import baselines
from icf_deploy.training.baseline_file import load_baseline
from icf_deploy.training.baselines import NEIGHBOURS, SVR_COST, SVR_EPSILON, Samples, draw_samples, fit, train_baseline
from icf_deploy.training.config import BASELINES, TrainConfig
from icf_deploy.training.evaluate import MEAN_COLOUR, NO_COLOUR, PREDICTION, evaluate
from icf_deploy.training.local_features import FEATURES, SIZE, STRIDE
from icf_deploy.training.photos import PhotoSet, load_photos
from icf_deploy.training.protocols import EvaluationPhoto

Pixels = npt.NDArray[np.uint8]


def landscape(seed: int) -> Pixels:
    """A bright blue sky above a dark green field, with clouds and hedges of their own in every photo."""
    random = np.random.default_rng(seed)
    rows = np.linspace(0, 1, 96)[:, None] * np.ones((1, 128))
    horizon = random.uniform(0.35, 0.65)
    sky = np.stack([90 + 60 * rows, 140 + 40 * rows, 235 - 5 * rows], axis=2)
    field = np.stack([70 + 10 * rows, 115 + 15 * rows, 35 + 5 * rows], axis=2)
    picture = np.where((rows < horizon)[..., None], sky, field) * random.normal(1, 0.04, (96, 128, 1))
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def landscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("landscapes")
    for index in range(8):
        Image.fromarray(landscape(index)).save(folder / f"land_{index:04}.png")
    return folder


@pytest.fixture(scope="module")
def samples(landscapes: Path) -> Samples:
    return draw_samples(load_photos([landscapes]).photos, 600, seed=0)


@pytest.mark.parametrize("kind", BASELINES)
def test_a_baseline_learns_that_the_sky_is_blue_and_the_field_green(kind: str, samples: Samples) -> None:
    unseen = [EvaluationPhoto("unseen", landscape(99))]
    scores = evaluate(fit(kind, samples), unseen, gains=(1.0,)).summary  # type: ignore[arg-type]  # has all that is asked
    assert scores[PREDICTION]["psnr"].mean > scores[NO_COLOUR]["psnr"].mean + 6
    assert scores[PREDICTION]["psnr"].mean > scores[MEAN_COLOUR]["psnr"].mean + 3


def test_neighbours_predict_what_scikit_learns_regressor_predicts(samples: Samples) -> None:
    baseline = fit("knn", samples)
    theirs = KNeighborsRegressor(NEIGHBOURS, weights="distance").fit(baseline.scaled(samples.features), samples.ab)
    asked = baseline.scaled(samples.features[:50] + 0.01)
    assert baseline.model.ab_of(asked) == pytest.approx(theirs.predict(asked), abs=1e-3)


def test_support_vectors_predict_what_the_machine_that_was_fitted_predicts(samples: Samples) -> None:
    baseline = fit("svr", samples)
    scaled = baseline.scaled(samples.features)
    asked = baseline.scaled(samples.features[:50] + 0.01)
    for channel in range(2):
        theirs = svm.SVR(kernel="rbf", gamma=1 / FEATURES, C=SVR_COST, epsilon=SVR_EPSILON)
        theirs.fit(scaled, samples.ab[:, channel])
        assert baseline.model.ab_of(asked)[:, channel] == pytest.approx(theirs.predict(asked), abs=1e-3)


def test_a_prediction_lies_on_the_grid_of_its_places(samples: Samples) -> None:
    """A photo whose left half is sky: the left half of the ab is, too."""
    gray = np.full((2, 1, *SIZE), 0.4, np.float32)
    gray[1, 0, :, : SIZE[1] // 2] = 0.65
    ab = fit("knn", samples).predict_ab(gray)
    assert ab.shape == (2, 2, SIZE[0] // STRIDE, SIZE[1] // STRIDE)
    assert ab.dtype == np.float32
    assert ab[1, 1, :, :10].mean() < ab[1, 1, :, -10:].mean()


def test_samples_come_evenly_from_all_photos_and_are_those_of_the_seed(landscapes: Path) -> None:
    photos = load_photos([landscapes]).photos
    first, again, other = (draw_samples(photos, 80, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.features, again.features) and np.array_equal(first.ab, again.ab)
    assert not np.array_equal(first.features, other.features)
    whole_photo = first.features[:, -2]  # its mean gray: one value per photo
    assert sorted(np.unique(whole_photo, return_counts=True)[1]) == [10] * 8


def test_few_photos_give_as_many_samples_as_they_have() -> None:
    assert len(draw_samples([_photo()], 100_000, seed=0).ab) == (SIZE[0] // STRIDE) * (SIZE[1] // STRIDE)


def test_a_baseline_is_trained_on_the_photos_that_are_not_held_out(
    landscapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: Callable[[str], Pixels]
) -> None:
    monkeypatch.setattr(baselines, "SAMPLES", {"knn": 300, "svr": 300})
    mixed = tmp_path / "photos"
    mixed.mkdir()
    for path in landscapes.iterdir():
        (mixed / path.name).write_bytes(path.read_bytes())
    Image.fromarray(photo("coffee")).save(mixed / "other_0001.png")
    (mixed / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    told: list[str] = []
    config = TrainConfig(photos=(mixed,), output=tmp_path / "knn.npz", baseline="knn", holdout=("other",))
    train_baseline(config, notice=told.append)
    assert "1 photo could not be read and is left out: broken.jpg" in told
    assert "8 photos to train on (held out: other)" in told
    with np.load(config.output, allow_pickle=False) as stored:
        assert PhotoSet(load_photos([landscapes]).photos).digest() in str(stored["training"])
    expected = fit("knn", draw_samples(load_photos([landscapes]).photos, 300, seed=0))
    gray = np.random.default_rng(0).random((1, 1, *SIZE), dtype=np.float32)
    assert np.array_equal(load_baseline(config.output).predict_ab(gray), expected.predict_ab(gray))
    with pytest.raises(WorkError, match="--overwrite"):
        train_baseline(config)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"baseline": "forest"}, "--baseline is one of knn, svr, not 'forest'"),
        ({"loss": "huber", "steps": 5}, "has no use for --steps, --loss"),
        ({"teacher": (Path("x"),)}, "has no use for --teacher"),
        ({"output": Path("knn.safetensors")}, "try -o knn.npz"),
    ],
)
def test_options_of_networks_are_refused(change: dict[str, object], text: str) -> None:
    config = {"photos": (Path("photos"),), "output": Path("knn.npz"), "baseline": "knn", **change}
    with pytest.raises(UsageError, match=text):
        TrainConfig(**config).check()  # type: ignore[arg-type]


def test_too_few_samples_are_refused(samples: Samples) -> None:
    few = Samples(samples.features[:5], samples.ab[:5])
    with pytest.raises(WorkError, match="5 samples are too few"):
        fit("svr", few)


def _photo():  # type: ignore[no-untyped-def]
    from icf_deploy.training.photos import Photo

    return Photo("a", "a", landscape(0), np.zeros((16, 16), np.float32))
