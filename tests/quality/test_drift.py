from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skimage.color
import skimage.metrics

from icf_deploy.bundle.reference import ReferenceSet
from icf_deploy.errors import ArtefactError
from icf_deploy.imaging.color import gray_of_l, lab_of_pixels
from icf_deploy.imaging.merge import merge
from icf_deploy.quality.drift import METRICS, DriftTable, drift, measure_drift
from icf_deploy.quality.metrics import colourfulness

NAMES = ("astronaut", "coffee", "china")
FloatArray = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def reference(photo: Callable[[str], npt.NDArray[np.uint8]]) -> ReferenceSet:
    """Three photos with their true colours as reference, ab at stride 2 (every other pixel's)."""
    gray, ab = [], []
    for name in NAMES:
        lightness, colours = lab_of_pixels(photo(name)[:96, :128])
        gray.append(gray_of_l(lightness)[None])
        ab.append(colours[:, ::2, ::2])
    return ReferenceSet(NAMES, np.stack(gray), np.stack(ab))


def compare(ab: npt.NDArray[np.floating], reference: ReferenceSet) -> DriftTable:
    return drift(ab.astype(np.float32), reference.ab, reference.gray, reference.names)


def test_the_same_colours_have_no_drift(reference: ReferenceSet) -> None:
    table = compare(reference.ab, reference)
    values = {name: table.value(name) for name in table.metrics}
    for over in ("", "_worst"):
        assert values.pop(f"ab_psnr{over}") == values.pop(f"rgb_psnr{over}") == 100
        assert values.pop(f"ab_ssim{over}") == values.pop(f"rgb_ssim{over}") == pytest.approx(1)
        assert values.pop(f"colourfulness{over}") > 10
    assert set(values.values()) == {0}
    assert table.problems == ()


def test_a_shift_by_3_and_4_has_distance_5_everywhere_and_the_psnr_of_its_definition(reference: ReferenceSet) -> None:
    shift = np.array([3, 4], np.float32)[:, None, None]
    table = compare(reference.ab + shift, reference)
    assert table.value("dab_mean") == pytest.approx(5, abs=1e-4)
    assert table.value("dab_max_worst") == pytest.approx(5, abs=1e-4)
    assert table.value("ab_psnr") == pytest.approx(10 * math.log10(255**2 / 12.5), abs=1e-3)


def test_ciede2000_is_taken_with_the_photos_own_l_averaged_over_each_ab_value(
    reference: ReferenceSet, photo: Callable[[str], npt.NDArray[np.uint8]]
) -> None:
    engine = reference.ab * 0.8
    table = compare(engine, reference)
    for row, name, ab, ab_reference in zip(table.rows, NAMES, engine, reference.ab, strict=True):
        full = skimage.color.rgb2lab(photo(name)[:96, :128])[..., 0]
        lightness = full.reshape(48, 2, 64, 2).mean(axis=(1, 3))
        first, second = (np.dstack([lightness, *planes]) for planes in (ab, ab_reference))
        expected = skimage.color.deltaE_ciede2000(first, second)
        assert row.de2000_mean == pytest.approx(expected.mean(), abs=1e-3)
        assert row.de2000_p95 == pytest.approx(np.percentile(expected, 95, method="inverted_cdf"), abs=2e-3)
        assert row.visible_share == pytest.approx((expected > 2.3).mean(), abs=1e-3)


@pytest.mark.parametrize("percent, exceeds", [(4, False), (6, True)])
def test_p95_ignores_five_percent_of_the_pixels_and_no_more(reference: ReferenceSet, percent: int, exceeds: bool) -> None:
    engine = reference.ab.copy()
    pixels = engine[0].reshape(2, -1)
    pixels[:, : pixels.shape[1] * percent // 100] += 40
    row = compare(engine, reference).rows[0]
    assert (row.de2000_p95 > 5) is exceeds
    assert row.de2000_mean > 0.2
    assert row.visible_share == pytest.approx(percent / 100, abs=2e-3)


def test_a_metric_is_the_mean_over_photos_and_its_worst_form_the_worst_photos(reference: ReferenceSet) -> None:
    engine = reference.ab.copy()
    engine[1] += 3
    engine[2] += 9
    table = compare(engine, reference)
    values = [row.de2000_p95 for row in table.rows]
    assert values[0] == 0 < values[1] < values[2]
    assert table.value("de2000_p95") == pytest.approx(sum(values) / 3)
    assert table.value("de2000_p95_worst") == values[2]
    assert table.worst("de2000_p95") == ("china", values[2])
    assert table.worst("ab_psnr") == ("china", table.rows[2].ab_psnr)
    assert table.value("ab_psnr_worst") == min(row.ab_psnr for row in table.rows)


def test_psnr_and_ssim_of_ab_and_of_the_pictures_are_those_of_scikit_image(reference: ReferenceSet) -> None:
    engine = reference.ab * np.float32(0.7)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "channel_axis": 2}
    for row, gray, ab, ab_reference in zip(compare(engine, reference).rows, reference.gray, engine, reference.ab, strict=True):
        lightness = skimage.color.rgb2lab(np.repeat(gray[0, :, :, None], 3, axis=2))[..., 0]
        on_grid = lightness.reshape(48, 2, 64, 2).mean(axis=(1, 3)).astype(np.float32)
        shown, expected = merge(on_grid, ab), merge(on_grid, ab_reference)
        planes, planes_reference = ab.transpose(1, 2, 0), ab_reference.transpose(1, 2, 0)
        assert row.ab_psnr == pytest.approx(skimage.metrics.peak_signal_noise_ratio(planes_reference, planes, data_range=255))
        assert row.rgb_psnr == pytest.approx(skimage.metrics.peak_signal_noise_ratio(expected, shown), abs=0.05)
        assert row.ab_ssim == pytest.approx(
            skimage.metrics.structural_similarity(planes_reference, planes, **gaussian), abs=1e-6
        )
        assert row.rgb_ssim == pytest.approx(skimage.metrics.structural_similarity(expected, shown, **gaussian), abs=1e-3)


def test_colourfulness_is_that_of_the_picture_as_shown(reference: ReferenceSet) -> None:
    lightness = np.full((16, 16), 50, np.float32)
    ab = np.zeros((1, 2, 16, 16), np.float32)
    ab[0, 0, :8], ab[0, 0, 8:] = 40, -40
    gray = gray_of_l(lightness)[None, None]
    row = drift(ab / 2, ab, gray).rows[0]
    assert row.colourfulness == pytest.approx(colourfulness(merge(lightness, ab[0] / 2)), abs=0.2)
    assert row.colourfulness_reference == pytest.approx(colourfulness(merge(lightness, ab[0])), abs=0.2)
    assert row.colourfulness_change == pytest.approx(row.colourfulness_reference - row.colourfulness)
    assert row.colourfulness_change > 10


def test_l_is_averaged_over_the_area_of_each_ab_value() -> None:
    # Alternating black and white pixels: on ab's grid that is L = 50 everywhere, and a picked pixel would be 0 or 100.
    lightness = np.zeros((32, 32), np.float32)
    lightness[::2, ::2] = lightness[1::2, 1::2] = 100
    ab = np.full((1, 2, 16, 16), 30, np.float32)
    row = drift(ab, ab, gray_of_l(lightness)[None, None]).rows[0]
    assert row.colourfulness == pytest.approx(colourfulness(merge(np.full((16, 16), 50, np.float32), ab[0])), abs=0.1)
    assert row.colourfulness > 20


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_one_pixel_without_a_colour_is_a_problem_and_makes_its_photo_the_worst(reference: ReferenceSet, value: float) -> None:
    engine = reference.ab + np.float32(30)
    engine[1] = reference.ab[1]
    engine[1, 0, 5, 7] = value
    table = compare(engine, reference)
    assert table.problems == ("coffee: 1 of 3072 pixels are NaN, infinite or beyond 1000",)
    for metric in ("de2000_mean", "dab_max", "ab_psnr", "colourfulness_change"):
        photo, worst = table.worst(metric)
        assert photo == "coffee"
        assert math.isinf(worst)
    assert table.rows[1].visible_share == pytest.approx(1 / 3072)


@pytest.mark.parametrize("flat", [0.0, 12.0], ids=["gray", "sepia"])
def test_an_engine_that_lost_all_variation_of_chroma_has_a_problem(reference: ReferenceSet, flat: float) -> None:
    engine = reference.ab.copy()
    engine[2] = flat
    table = compare(engine, reference)
    assert len(table.problems) == 1
    assert table.problems[0].startswith("china: ab is one flat colour")


def test_an_engine_may_be_flat_where_the_reference_is(reference: ReferenceSet) -> None:
    flat = np.full_like(reference.ab, 7)
    assert drift(flat, flat, reference.gray).problems == ()
    assert drift(flat * 0.999, flat, reference.gray).problems == ()


def test_a_faded_engine_is_no_flat_one(reference: ReferenceSet) -> None:
    assert compare(reference.ab * 0.1, reference).problems == ()


def test_the_table_is_strict_json_also_with_infinities(reference: ReferenceSet) -> None:
    engine = reference.ab.copy()
    engine[0, 0, 0, 0] = np.nan
    content = json.loads(json.dumps(compare(engine, reference).to_json(), allow_nan=False))
    assert set(content["metrics"]) == {name for name, metric in METRICS.items() if metric.against == "reference"}
    assert content["metrics"]["de2000_mean"] is None
    assert [row["photo"] for row in content["photos"]] == list(NAMES)
    assert content["photos"][1]["dab_max"] == 0
    assert content["photos"][1]["colourfulness_change"] == 0
    assert len(content["problems"]) == 1


def test_shapes_that_do_not_belong_together_are_an_artefact_error(reference: ReferenceSet) -> None:
    with pytest.raises(ArtefactError, match="the reference is"):
        drift(reference.ab[:, :, ::2], reference.ab, reference.gray)
    with pytest.raises(ArtefactError, match="does not divide"):
        drift(reference.ab[:, :, :-5], reference.ab[:, :, :-5], reference.gray)


@dataclass
class FakeSession:
    """Gives ab at half the gray's own size: a = 100 gray, b = 0. Remembers its batches."""

    size: tuple[int, int] = (96, 128)
    batches: list[tuple[int, ...]] = field(default_factory=list)

    def run(self, gray: FloatArray) -> FloatArray:
        self.batches.append(gray.shape)
        ab = np.concatenate([gray * 100, gray * 0], axis=1)[:, :, ::2, ::2]
        return np.ascontiguousarray(ab)


def test_an_engine_is_measured_photo_by_photo_over_the_whole_reference_set(reference: ReferenceSet) -> None:
    session: Any = FakeSession()
    ab = np.concatenate([reference.gray * 100, reference.gray * 0], axis=1)[:, :, ::2, ::2]
    table = measure_drift(session, ReferenceSet(NAMES, reference.gray, ab + np.float32([[[0]], [[5]]])))
    assert session.batches == [(1, 1, 96, 128)] * 3
    assert [row.photo for row in table.rows] == list(NAMES)
    assert table.value("dab_mean") == pytest.approx(5, abs=1e-4)


def test_an_engine_of_another_size_than_the_reference_set_is_an_artefact_error(reference: ReferenceSet) -> None:
    session: Any = FakeSession(size=(256, 256))
    with pytest.raises(ArtefactError, match=r"takes \[256, 256\].*of \[96, 128\]"):
        measure_drift(session, reference)
