from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import skimage.metrics

from icf_deploy.errors import UsageError
from icf_deploy.imaging.color import gray_of_l, lab_of_pixels
from icf_deploy.quality import budget
from icf_deploy.quality.drift import DriftTable, drift
from icf_deploy.quality.photos import own_colours
from icf_deploy.quality.table import METRICS

FloatArray = npt.NDArray[np.float32]
NAMES = ("astronaut", "coffee", "china")
GRID = (48, 64)


@pytest.fixture(scope="module")
def photos(photo: Callable[[str], npt.NDArray[np.uint8]]) -> tuple[FloatArray, FloatArray]:
    """gray [3,1,96,128] of three photos and their own ab [3,2,48,64]."""
    pictures = [photo(name)[:96, :128] for name in NAMES]
    gray = np.stack([gray_of_l(lab_of_pixels(picture)[0])[None] for picture in pictures])
    truth = [own_colours(picture, GRID) for picture in pictures]
    assert all(ab is not None for ab in truth)
    return gray, np.stack([ab for ab in truth if ab is not None])


def table_of(engine: FloatArray, reference: FloatArray, photos: tuple[FloatArray, FloatArray]) -> DriftTable:
    gray, truth = photos
    return drift(engine, reference, gray, NAMES, list(truth))


def test_an_engine_that_is_the_reference_loses_nothing_whatever_the_reference_is_worth(photos) -> None:
    poor = photos[1] * np.float32(0.3)
    table = table_of(poor, poor, photos)
    for name in ("ab_psnr_drop", "ab_ssim_drop", "rgb_psnr_drop", "rgb_ssim_drop"):
        assert table.value(name) == table.value(f"{name}_worst") == 0
    assert table.value("true_ab_psnr") < 40
    assert table.value("true_colourfulness_change") > 3


def test_the_photos_own_colours_score_best(photos) -> None:
    table = table_of(photos[1], photos[1] * np.float32(0.5), photos)
    assert table.value("true_ab_psnr") == table.value("true_rgb_psnr") == 100
    assert table.value("true_ab_ssim") == table.value("true_rgb_ssim") == pytest.approx(1)
    assert table.value("true_de2000_mean") == table.value("true_colourfulness_change") == 0
    assert table.value("ab_psnr_drop") < -50  # nearer to the truth than the reference


def test_the_drop_in_db_is_the_mean_over_photos_of_the_differences_of_their_psnr(photos) -> None:
    truth = photos[1]
    rng = np.random.default_rng(1)
    reference = truth * np.float32(0.5)
    engine = reference + rng.normal(0, 3, reference.shape).astype(np.float32)
    table = table_of(engine, reference, photos)
    drops = [
        skimage.metrics.peak_signal_noise_ratio(own, ours, data_range=255)
        - skimage.metrics.peak_signal_noise_ratio(own, theirs, data_range=255)
        for own, ours, theirs in zip(truth, reference, engine, strict=True)
    ]
    assert min(drops) > 0.05
    assert table.value("ab_psnr_drop") == pytest.approx(np.mean(drops), abs=1e-4)
    assert table.value("ab_psnr_drop_worst") == pytest.approx(max(drops), abs=1e-4)
    assert table.worst("ab_psnr_drop")[0] == NAMES[int(np.argmax(drops))]
    assert [name for name, _ in table.ranked("ab_psnr_drop")] == [NAMES[i] for i in np.argsort(drops)[::-1]]


def test_photos_without_colours_are_left_out_of_the_truth_and_stay_in_the_drift(photos) -> None:
    gray, truth = photos
    engine = truth * np.float32(0.5)
    every, two = table_of(engine, truth, photos), drift(engine, truth, gray, NAMES, [truth[0], None, truth[2]])
    assert len(two.truths) == 2
    assert two.value("de2000_p95") == every.value("de2000_p95")
    expected = np.mean([row.truth.engine.ab_psnr for row in (every.rows[0], every.rows[2]) if row.truth is not None])
    assert two.value("true_ab_psnr") == pytest.approx(expected)


def test_where_no_colours_are_known_the_truth_is_a_usage_error_that_names_the_option(photos) -> None:
    gray, truth = photos
    table = drift(truth, truth, gray, NAMES)
    assert all(METRICS[name].against == "reference" for name in table.metrics)
    with pytest.raises(UsageError, match=r"ab_psnr_drop compares with the photos' own colours.*--photos"):
        budget.parse("ab_psnr_drop<=0.02").check(table)
    with pytest.raises(UsageError, match="--photos"):
        budget.parse("de2000_p95<=1,ab_psnr_drop<=0.02").require_photos()
    budget.parse("de2000_p95<=1").require_photos()


def test_an_engine_that_loses_a_pixel_drops_without_end(photos) -> None:
    truth = photos[1]
    engine = truth.copy()
    engine[1, 0, 3, 4] = np.nan
    table = table_of(engine, truth, photos)
    assert table.worst("ab_psnr_drop") == ("coffee", math.inf)
    assert table.value("true_rgb_ssim") == -math.inf
    assert table.value("true_colourfulness_change_worst") == math.inf
    content = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert set(content["metrics"]) == set(METRICS)
    assert content["metrics"]["ab_psnr_drop"] is None
    assert content["photos"][0]["truth"]["engine"]["ab_psnr"] == 100


def test_ab_too_small_for_a_window_has_no_ssim_and_misses_a_budget_on_it(photos) -> None:
    gray = photos[0][:, :, :32, :32]
    ab = np.full((3, 2, 8, 8), 10, np.float32)
    table = drift(ab, ab, gray, NAMES, [ab[0]] * 3)
    assert table.value("ab_ssim") == -math.inf
    assert len(budget.parse("rgb_ssim>=0.1,ab_ssim_drop<=1").misses(table)) == 2


def test_how_far_outside_a_budget_is_can_be_ordered(photos) -> None:
    truth = photos[1]
    tables = [table_of(truth * np.float32(share), truth, photos) for share in (1.0, 0.9, 0.5)]
    limits = budget.parse("dab_mean<=0.5,ab_psnr>=30")
    excess = [limits.excess(table) for table in tables]
    assert excess[0] == 0 < excess[1] < excess[2]
    assert excess[2] == pytest.approx(tables[2].value("dab_mean") / 0.5 - 1)
    assert math.isinf(limits.excess(table_of(truth * np.float32(math.nan), truth, photos)))
    assert budget.parse("dab_mean<=0").excess(tables[1]) == pytest.approx(tables[1].value("dab_mean"))
