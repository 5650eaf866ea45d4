from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from icf_deploy.errors import UsageError
from icf_deploy.training.contact_sheet import Triple, chosen, contact_sheet, evaluation_sheet, note_of
from icf_deploy.training.evaluate import Evaluation, PhotoRow, Scores, evaluate
from icf_deploy.training.intervals import Interval
from icf_deploy.training.protocols import EvaluationPhoto, prepare

Pixels = npt.NDArray[np.uint8]


def row(name: str, db: float) -> PhotoRow:
    def scores(psnr: float, colour: float) -> Scores:
        return Scores(psnr, 0.9, 25.0, 10.0, colour)

    return PhotoRow(name, {"prediction": scores(20 + db, 31.4), "no colour": scores(20, 0)}, 40.0, {})


def evaluation(gains: list[float]) -> Evaluation:
    rows = tuple(row(f"p{i}", db) for i, db in enumerate(gains))
    return Evaluation("protocol", 1.0, {}, Interval(0, 0, 0), {}, rows)


def test_best_median_and_worst_are_chosen_by_db_over_no_colour() -> None:
    result = evaluation([1.0, 5.0, 3.0, 2.0, 4.0])
    assert [r.name for r in chosen(result, "best", 2)] == ["p1", "p4"]
    assert [r.name for r in chosen(result, "median", 1)] == ["p2"]
    assert [r.name for r in chosen(result, "worst", 2)] == ["p3", "p0"]
    assert len(chosen(result, "all", 2)) == 5
    assert len(chosen(result, "best", 99)) == 5
    with pytest.raises(UsageError, match="all, best, median, worst, ranks"):
        chosen(result, "nicest")


def test_ranks_are_some_of_the_best_the_median_and_the_worst_each_once() -> None:
    many = chosen(evaluation([float(i) for i in range(20)]), "ranks")
    assert [r.name for r in many] == [f"p{i}" for i in (19, 18, 17, 16, 11, 10, 9, 8, 3, 2, 1, 0)]
    assert len(chosen(evaluation([1.0, 2.0]), "ranks")) == 2
    assert len(chosen(evaluation([float(i) for i in range(7)]), "ranks")) == 6


def test_the_note_says_db_and_colourfulness() -> None:
    assert note_of(row("a", 1.26)) == "+1.3 dB over no colour, colourfulness 31 of 40"


def test_every_picture_is_on_the_sheet_unchanged_at_its_own_width(photo: Callable[[str], Pixels]) -> None:
    wide, high = photo("coffee")[:200, :256], photo("astronaut")[:400, :256]
    triples = [
        Triple("wide", wide // 2, wide, 255 - wide),
        Triple("high", high // 2, high, 255 - high),
        Triple("3", wide, wide, wide),
    ]
    sheet = np.asarray(contact_sheet(triples, title="Title", tile=256))
    for triple in triples:
        for picture in (triple.gray, triple.coloured, triple.original):
            assert _contains(sheet, picture)


def test_a_triple_goes_to_the_shortest_column() -> None:
    tall, flat = np.zeros((300, 100, 3), np.uint8), np.zeros((50, 100, 3), np.uint8)
    triples = [Triple("tall", tall, tall, tall), *(Triple(str(i), flat, flat, flat) for i in range(3))]
    two_columns = contact_sheet(triples, tile=100)
    assert two_columns.height < 300 + 200


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one photo"):
        contact_sheet([])


def _contains(sheet: Pixels, picture: Pixels) -> bool:
    height, width = picture.shape[:2]
    rows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], width, axis=1)
    hits = np.argwhere((rows[: len(sheet) - height + 1] == picture[0, :, 0]).all(axis=2))
    return any(np.array_equal(sheet[top : top + height, left : left + width], picture) for top, left in hits)


def test_a_sheet_of_an_evaluation_shows_the_worst_photo_in_gray_coloured_and_as_it_was(photo: Callable[[str], Pixels]) -> None:
    photos = [EvaluationPhoto(name, photo(name)[:192, :256]) for name in ("coffee", "astronaut")]

    def sepia(gray: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.full((1, 2, 32, 32), 15, np.float32)

    result = evaluate(sepia, photos, size=(64, 64), stride=2, protocol="full", gain=0.5)
    drawn = evaluation_sheet(result, sepia, photos, which="worst", count=1, size=(64, 64), stride=2, title="Worst")
    worst = next(p for p in photos if p.name == result.ranked()[-1].name)
    ready = prepare(worst, sepia, (64, 64), 2, "full")
    for picture in (ready.picture(0), ready.picture(0.5), worst.rgb):
        assert _contains(np.asarray(drawn), picture)
