from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio

from icf_deploy.errors import UsageError, WorkError
from icf_deploy.imaging.color import lab_of_pixels
from icf_deploy.training.evaluate import HALF_COLOUR, MEAN_COLOUR, NO_COLOUR, PREDICTION, Evaluation, evaluate
from icf_deploy.training.protocols import Candidate, EvaluationPhoto, PhotoFolder, prepare

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
SIZE = (128, 128)
NAMES = ("astronaut", "coffee", "chelsea")


@pytest.fixture
def photos(photo: Callable[[str], Pixels]) -> list[EvaluationPhoto]:
    return [EvaluationPhoto(name, cv2.resize(photo(name), (240, 160), interpolation=cv2.INTER_AREA)) for name in NAMES]


def gray_only(gray: Floats) -> Floats:
    return np.zeros((len(gray), 2, SIZE[0] // 4, SIZE[1] // 4), np.float32)


def sepia(gray: Floats) -> Floats:
    ab = gray_only(gray)
    ab[:, 0], ab[:, 1] = 6, 18
    return ab


def oracle(photos: list[EvaluationPhoto]) -> Callable[[Floats], Floats]:
    """Knows the true ab of the photos that it will be asked for, in order, at stride 1."""
    answers = []
    for photo in photos:
        small = cv2.resize(photo.rgb, SIZE[::-1], interpolation=cv2.INTER_AREA)
        answers.append(lab_of_pixels(np.asarray(small, np.uint8))[1])

    def predict(gray: Floats) -> Floats:
        answer: Floats = answers.pop(0)[None]
        return answer

    return predict


def test_a_prediction_of_no_colour_scores_exactly_like_the_no_colour_baseline(photos: list[EvaluationPhoto]) -> None:
    result = evaluate(gray_only, photos, size=SIZE, stride=4)
    assert result.summary[PREDICTION] == result.summary[NO_COLOUR]
    assert result.summary[PREDICTION]["db_over_gray"].mean == 0
    assert result.summary[PREDICTION]["colourfulness_share"].mean < 0.01


def test_the_truth_scores_far_above_both_baselines(photos: list[EvaluationPhoto]) -> None:
    result = evaluate(oracle(photos), photos, size=SIZE, stride=1)
    truth, gray, mean = (result.summary[name] for name in (PREDICTION, NO_COLOUR, MEAN_COLOUR))
    assert truth["psnr"].mean > 50
    assert truth["ciede2000"].mean < 0.5
    assert truth["ssim"].mean > 0.999
    assert truth["colourfulness_share"].mean == pytest.approx(1, abs=0.01)
    assert truth["psnr"].mean > mean["psnr"].mean > gray["psnr"].mean
    assert gray["ssim"].mean > 0.8  # the trap: doing nothing already scores high


def test_psnr_and_ciede2000_are_those_of_scikit_image(photos: list[EvaluationPhoto]) -> None:
    (row,) = evaluate(sepia, photos[:1], size=SIZE, stride=4, protocol="full").photos
    prepared = prepare(photos[0], sepia, SIZE, 4, "full")
    picture, rgb = prepared.picture(1.0), photos[0].rgb
    assert row.scores[PREDICTION].psnr == pytest.approx(peak_signal_noise_ratio(rgb, picture), abs=1e-6)
    expected = deltaE_ciede2000(rgb2lab(rgb), rgb2lab(picture)).mean()
    assert row.scores[PREDICTION].ciede2000 == pytest.approx(expected, abs=0.01)


def test_the_full_protocol_scores_at_the_photos_own_size_and_the_other_at_the_networks(photos: list[EvaluationPhoto]) -> None:
    assert prepare(photos[0], sepia, SIZE, 4, "full").rgb.shape == (160, 240, 3)
    assert prepare(photos[0], sepia, SIZE, 4, "256").rgb.shape == (*SIZE, 3)


def test_the_full_protocol_gives_what_the_colorizer_gives(photos: list[EvaluationPhoto]) -> None:
    from icf_deploy.colorizer import Colorizer

    class Session:
        size, output_size = SIZE, (SIZE[0] // 4, SIZE[1] // 4)

        def run(self, gray: Floats) -> Floats:
            ab = np.stack([gray[:, 0, ::4, ::4] * 60 - 20, gray[:, 0, 1::4, 2::4] * -50 + 10], axis=1)
            return np.asarray(ab, np.float32)

        def close(self) -> None:
            pass

    with Colorizer(Session(), size=SIZE, stride=4) as colorizer:  # type: ignore[arg-type]  # only what is used
        expected = np.asarray(colorizer.colorize(photos[0].rgb))
        found = prepare(photos[0], colorizer.predict_ab, SIZE, 4, "full").picture(1.0)
        assert evaluate(colorizer, photos[:1]).photos[0].name == "astronaut"
    assert int(np.abs(expected.astype(int) - found.astype(int)).max()) <= 1


def test_the_network_is_given_gray_alone(photos: list[EvaluationPhoto]) -> None:
    seen: list[Floats] = []

    def spy(gray: Floats) -> Floats:
        seen.append(gray)
        return gray_only(gray)

    black_and_white = [EvaluationPhoto(p.name, prepare(p, gray_only, SIZE, 4, "full").picture(0)) for p in photos]
    evaluate(spy, photos, size=SIZE, stride=4, protocol="full")
    evaluate(spy, black_and_white, size=SIZE, stride=4, protocol="full")
    for colour, gray in zip(seen[:3], seen[3:], strict=True):
        assert colour.shape == (1, 1, *SIZE)
        assert float(np.abs(colour - gray).max()) < 2 / 255


def test_the_curve_goes_through_no_colour_and_can_be_read_off(photos: list[EvaluationPhoto]) -> None:
    result = evaluate(oracle(photos), photos, size=SIZE, stride=1, gains=(0.0, 0.5, 1.0))
    assert result.curve[0].db_over_gray == pytest.approx(0, abs=1e-9)
    assert [point.colourfulness for point in result.curve] == sorted(point.colourfulness for point in result.curve)
    half = result.curve[1]
    assert result.db_at(half.colourfulness) == pytest.approx(half.db_over_gray)
    assert result.gain_at(half.colourfulness) == pytest.approx(0.5)
    assert result.db_at(5.0) is None


def test_the_table_is_that_of_the_gain(photos: list[EvaluationPhoto]) -> None:
    half = evaluate(sepia, photos, size=SIZE, stride=4, gain=0.5, gains=(0.5, 1.0))
    assert half.summary[PREDICTION]["psnr"].mean == pytest.approx(half.curve[0].psnr)


def test_everything_is_reproducible_and_goes_into_json(photos: list[EvaluationPhoto]) -> None:
    first, second = (evaluate(sepia, photos, size=SIZE, stride=4, seed=3) for _ in range(2))
    assert first == second
    document = json.loads(json.dumps(first.to_json(), allow_nan=False))
    assert document["summary"]["prediction"]["psnr"]["low"] <= document["summary"]["prediction"]["psnr"]["mean"]
    assert len(document["photos"]) == 3
    ranked = [row["db_over_gray"] for row in document["photos"]]
    assert ranked == sorted(ranked, reverse=True)


def test_the_protocol_is_said_in_words(photos: list[EvaluationPhoto]) -> None:
    result: Evaluation = evaluate(sepia, photos[:1], size=SIZE, stride=4)
    for word in ("stretched to 128x128 by area averages", "peak 255", "sigma 1.5", "bicubically", "seed 0"):
        assert word in result.protocol


def test_wrong_arguments_are_refused_in_words(photos: list[EvaluationPhoto]) -> None:
    with pytest.raises(UsageError, match="there are 256, full"):
        evaluate(sepia, photos, size=SIZE, stride=4, protocol="512")
    with pytest.raises(UsageError, match=r"size=\(H, W\)"):
        evaluate(sepia, photos)
    with pytest.raises(UsageError, match="check size and stride"):
        evaluate(sepia, photos, size=SIZE, stride=2)
    with pytest.raises(WorkError, match="no photos to evaluate on"):
        evaluate(sepia, [], size=SIZE, stride=4)


def test_a_folder_skips_gray_and_broken_photos_and_names_them(tmp_path: Path, photo: Callable[[str], Pixels]) -> None:
    Image.fromarray(photo("coffee")).save(tmp_path / "coffee.png")
    Image.fromarray(photo("coffee")).convert("L").save(tmp_path / "gray.png")
    Image.fromarray(photo("coffee")).convert("L").convert("RGB").save(tmp_path / "gray_rgb.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    folder = PhotoFolder([tmp_path])
    assert len(folder) == 4
    assert [p.name for p in folder] == ["coffee.png"]
    assert set(folder.skipped) == {"gray.png", "gray_rgb.png", "broken.jpg"}


def test_evaluation_needs_no_torch() -> None:
    code = "import sys, icf_deploy.training.evaluate, icf_deploy.training.contact_sheet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_other_predictions_are_scored_at_their_own_size_beside_the_first(photos: list[EvaluationPhoto]) -> None:
    def warm(gray: Floats) -> Floats:
        assert gray.shape == (1, 1, 64, 96)
        return np.full((1, 2, 8, 12), 10, np.float32)

    result = evaluate(gray_only, photos, size=SIZE, stride=4, beside={"warm": Candidate(warm, (64, 96), 8)}, gain=0.5)
    assert list(result.summary) == [PREDICTION, "warm", NO_COLOUR, MEAN_COLOUR]
    warm_scores = result.summary["warm"]
    at_1 = next(point for point in result.curves["warm"] if point.gain == 1)
    assert warm_scores["psnr"].mean == pytest.approx(at_1.psnr)  # the gain is the prediction's alone
    assert warm_scores["colourfulness"].mean > 5
    assert result.db_at(at_1.colourfulness, "warm") == pytest.approx(at_1.db_over_gray)
    assert set(result.seconds) == {PREDICTION, "warm"} and min(result.seconds.values()) > 0


def test_a_prediction_may_not_take_the_name_of_another_row(photos: list[EvaluationPhoto]) -> None:
    with pytest.raises(UsageError, match="'no colour' is the name of another row"):
        evaluate(sepia, photos, size=SIZE, stride=4, beside={NO_COLOUR: Candidate(sepia, SIZE, 4)})


def test_definitions_are_means_over_photos_of_every_row_and_of_half_the_true_colour(photos: list[EvaluationPhoto]) -> None:
    result = evaluate(sepia, photos, size=SIZE, stride=4, definitions=True)
    assert set(result.definitions) == {*result.summary, HALF_COLOUR}
    for name, scores in result.summary.items():
        assert result.definitions[name]["PSNR RGB"] == pytest.approx(scores["psnr"].mean)
        assert result.definitions[name]["SSIM RGB"] == pytest.approx(scores["ssim"].mean)
        assert result.definitions[name]["PSNR ab, peak 255"] == pytest.approx(scores["psnr_ab"].mean)
    # Half the error is a quarter of its square: 6.02 dB.
    half, none = (result.definitions[name]["PSNR ab, peak 255"] for name in (HALF_COLOUR, NO_COLOUR))
    assert half - none == pytest.approx(6.02, abs=0.1)
    assert evaluate(sepia, photos, size=SIZE, stride=4).definitions == {}
