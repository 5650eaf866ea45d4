from __future__ import annotations

import json
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from icf_deploy.errors import WorkError
from icf_deploy.imaging.color import lab_of_pixels
from icf_deploy.quality.metrics import ciede2000
from icf_deploy.training.corruptions import KINDS, OCCLUSION
from icf_deploy.training.evaluate import NO_COLOUR, PREDICTION, evaluate
from icf_deploy.training.protocols import EvaluationPhoto
from icf_deploy.training.robustness import CLEAN, CONDITIONS, evaluate_robustness, shift_of

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
SIZE = (96, 128)


@pytest.fixture
def photos(photo: Callable[[str], Pixels]) -> list[EvaluationPhoto]:
    names = ("astronaut", "coffee")
    return [EvaluationPhoto(name, cv2.resize(photo(name), (160, 120), interpolation=cv2.INTER_AREA)) for name in names]


def sepia(gray: Floats) -> Floats:
    ab = np.zeros((1, 2, SIZE[0] // 4, SIZE[1] // 4), np.float32)
    ab[:, 0], ab[:, 1] = 6, 18
    return ab


def by_gray(gray: Floats) -> Floats:
    """The brighter, the bluer: what the input does to the prediction shows."""
    small = cv2.resize(gray[0, 0], (SIZE[1] // 4, SIZE[0] // 4), interpolation=cv2.INTER_AREA)
    return np.stack([np.zeros_like(small), 20 - 60 * small])[None].astype(np.float32)


def oracle(photo: EvaluationPhoto) -> Callable[[Floats], Floats]:
    small = np.asarray(cv2.resize(photo.rgb, SIZE[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    return lambda gray: lab_of_pixels(small)[1][None]


def test_the_undamaged_photo_scores_what_the_ordinary_table_says(photos: list[EvaluationPhoto]) -> None:
    ordinary = evaluate(by_gray, photos, size=SIZE, stride=4, gain=0.7)
    found = evaluate_robustness(by_gray, photos, size=SIZE, stride=4, gain=0.7, conditions=[(CLEAN, 0)])
    for metric, interval in ordinary.summary[PREDICTION].items():
        assert found.conditions[0].summary[PREDICTION][metric] == interval
    assert found.conditions[0].summary[PREDICTION]["shift"].mean == 0
    assert found.conditions[0].summary[PREDICTION]["psnr_clean"] == ordinary.summary[PREDICTION]["psnr"]


def test_who_knows_the_colours_keeps_them_whatever_happens_to_l(photos: list[EvaluationPhoto]) -> None:
    """The truth stays: the photo's own ab on the corrupted L. Under a card it is gray, which nobody could know."""
    conditions = [(kind, 1) for kind in KINDS]
    found = evaluate_robustness(oracle(photos[0]), photos[:1], size=SIZE, stride=1, conditions=conditions)
    for condition in found.conditions:
        colour = condition.summary[PREDICTION]
        if condition.kind == OCCLUSION:
            assert colour["ciede2000"].mean > 1
        else:
            assert colour["psnr"].mean > 55, condition.label
            assert colour["ciede2000"].mean < 0.2
            assert colour["colourfulness_share"].mean == pytest.approx(1, abs=0.01)
        assert colour["psnr_clean"].mean < 40  # L is hurt


def test_a_prediction_that_does_not_look_at_its_input_does_not_shift(photos: list[EvaluationPhoto]) -> None:
    blind, seeing = (
        evaluate_robustness(predict, photos, size=SIZE, stride=4, conditions=[("underexposed", 2)]).conditions[0]
        for predict in (sepia, by_gray)
    )
    assert blind.summary[PREDICTION]["shift"].mean == 0
    assert seeing.summary[PREDICTION]["shift"].mean > 5


def test_adding_no_colour_is_the_zero_of_every_condition(photos: list[EvaluationPhoto]) -> None:
    found = evaluate_robustness(sepia, photos[:1], size=SIZE, stride=4, gain=0.0, conditions=[("noisy", 0), ("faded print", 0)])
    for condition in found.conditions:
        prediction, gray = condition.summary[PREDICTION], condition.summary[NO_COLOUR]
        assert prediction["db_over_gray"].mean == 0
        assert prediction["psnr_clean"] == gray["psnr_clean"]


def test_shift_is_ciede2000_whatever_the_l() -> None:
    random = np.random.default_rng(0)
    first, second = (random.normal(0, 30, (2, 8, 8)).astype(np.float32) for _ in range(2))
    light = [np.dstack((np.full((8, 8), 70, np.float32), *ab)) for ab in (first, second)]
    assert shift_of(first, second) == pytest.approx(float(ciede2000(*light).mean()), rel=1e-4)


def test_every_condition_of_the_issue_is_there_and_goes_into_json(photos: list[EvaluationPhoto]) -> None:
    found = evaluate_robustness(sepia, photos[:1], size=SIZE, stride=4)
    assert [condition.label for condition in found.conditions][:3] == [CLEAN, "underexposed, mild", "underexposed, medium"]
    assert len(found.conditions) == len(CONDITIONS) == 1 + 3 * len(KINDS) == 28
    assert "corrupted L" in found.protocol and "seed 0" in found.protocol
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["conditions"][-1]["kind"] == OCCLUSION


def test_no_photos_are_refused_in_words() -> None:
    with pytest.raises(WorkError, match="no photos to evaluate on"):
        evaluate_robustness(sepia, [], size=SIZE, stride=4)
