from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from icf_deploy.quality import metrics
from icf_deploy.training.color import light_of_codes, pair_of_light
from icf_deploy.training.photos import CHROMA_MAP_SIDE, Photo
from icf_deploy.training.validation import VALIDATION_SIZE, Point, ValidationSet, colourfulness, psnr, score, validate

Pixels = npt.NDArray[np.uint8]
CPU = torch.device("cpu")


class Answers(nn.Module):
    """Gives a stored ab for each batch, in order, whatever the gray."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers = list(answers)

    def forward(self, gray: Tensor) -> Tensor:
        return torch.stack([self.answers.pop(0) for _ in gray])


@pytest.fixture
def validation(photo: Callable[[str], Pixels]) -> ValidationSet:
    chroma = np.zeros((CHROMA_MAP_SIDE, CHROMA_MAP_SIDE), np.float32)
    return ValidationSet.of([Photo(name, name, photo(name), chroma) for name in ("astronaut", "coffee", "rocket")])


def truth_of(validation: ValidationSet) -> Tensor:
    return pair_of_light(light_of_codes(validation.rgb)).ab


def test_photos_are_centre_squares_of_256(validation: ValidationSet) -> None:
    assert validation.rgb.shape == (3, VALIDATION_SIZE, VALIDATION_SIZE, 3)


def test_no_colour_is_0_db_over_gray(validation: ValidationSet) -> None:
    (point,) = validate(Answers(torch.zeros(3, 2, 64, 64)), validation, gains=[1.0], device=CPU)
    assert point.db_over_gray == pytest.approx(0, abs=1e-6)
    assert point.colourfulness < 1e-3


def test_the_truth_at_full_size_is_far_above_gray_and_has_the_true_colourfulness(validation: ValidationSet) -> None:
    (point,) = validate(Answers(truth_of(validation)), validation, gains=[1.0], device=CPU)
    assert point.db_over_gray > 30
    assert point.colourfulness == pytest.approx(1, abs=1e-4)


def test_half_of_the_chroma_is_6_db_in_ab_and_about_half_the_colourfulness(validation: ValidationSet) -> None:
    curve = validate(Answers(truth_of(validation)), validation, gains=[0.5, 0.8], device=CPU)
    assert 0.4 < curve[0].colourfulness < 0.65
    assert 4 < curve[0].db_over_gray < 8
    assert curve[1].db_over_gray > curve[0].db_over_gray


def test_psnr_and_colourfulness_are_those_of_the_metrics_module(photo: Callable[[str], Pixels]) -> None:
    first, second = photo("coffee"), photo("coffee")[::-1].copy()
    tensors = [torch.from_numpy(picture).permute(2, 0, 1)[None].float() for picture in (first, second)]
    assert float(psnr(*tensors)) == pytest.approx(metrics.psnr(first, second, peak=255), abs=1e-4)
    assert float(colourfulness(tensors[0])) == pytest.approx(metrics.colourfulness(first), rel=1e-4)


def test_the_score_is_read_off_the_curve_at_60_percent_of_the_colourfulness() -> None:
    curve = [Point(0.5, 2.0, 0.4), Point(1.0, 1.0, 0.8), Point(1.5, -3.0, 1.2)]
    assert score(curve) == pytest.approx(1.5)
    assert score(curve[:1]) == 2.0  # never as colourful as that: what the most colourful one has
