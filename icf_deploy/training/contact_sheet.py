"""Gray, coloured and original side by side: the look that no number replaces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from icf_deploy.errors import UsageError
from icf_deploy.training.evaluate import PREDICTION, Evaluation, PhotoRow, resolve
from icf_deploy.training.protocols import EvaluationPhoto, Predict, prepare

if TYPE_CHECKING:
    from icf_deploy.colorizer import Colorizer

CHOICES = ("all", "best", "median", "worst", "ranks")
RANKED_EACH = 4  # photos of each of best, median and worst on a sheet of ranks
LABELS = ("gray", "coloured", "original")
MARGIN, GAP, LINE = 24, 6, 22  # pixels: around everything, between pictures, of a line of text
TITLE_POINTS, TEXT_POINTS = 20, 13
BACKGROUND, INK, FAINT = (250, 250, 250), (30, 30, 30), (120, 120, 120)
TILE_PIXELS = 256  # width of a picture

ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Triple:
    """A photo in gray, coloured and as it was (uint8 RGB [H,W,3] of one size), its name and a line about it."""

    name: str
    gray: ByteArray
    coloured: ByteArray
    original: ByteArray
    note: str = ""


def chosen(evaluation: Evaluation, which: str, count: int = 6) -> tuple[PhotoRow, ...]:
    """Return the rows of CHOICES by dB over no colour (ranks: some best, median and worst); UsageError for another choice."""
    ranked = evaluation.ranked()
    count = min(count, len(ranked))
    middle = (len(ranked) - count) // 2
    parts = {
        "all": ranked,
        "best": ranked[:count],
        "median": ranked[middle : middle + count],
        "worst": ranked[len(ranked) - count :],
    }
    each = min(RANKED_EACH, len(ranked) // 3)
    parts["ranks"] = ranked if not each else _ranks(ranked, each)
    if which not in parts:
        raise UsageError(f"--sheet {which}: unknown; there are {', '.join(CHOICES)}")
    return parts[which]


def evaluation_sheet(
    evaluation: Evaluation,
    predict: Predict | Colorizer,
    photos: Iterable[EvaluationPhoto],
    *,
    which: str = "all",
    count: int = 6,
    size: tuple[int, int] | None = None,
    stride: int | None = None,
    title: str = "",
) -> Image.Image:
    """Colour the chosen photos of an evaluation again, at their own size and with its gain, and draw their contact sheet.

    predict, size, stride: as for evaluate(). photos: the same ones, which are read again, one at a time.
    """
    candidate = resolve(predict, size, stride)
    rows = {row.name: row for row in chosen(evaluation, which, count)}
    triples = {}
    for photo in photos:
        if photo.name in rows:
            ready = prepare(photo, candidate.predict, candidate.size, candidate.stride, "full")
            triples[photo.name] = Triple(
                photo.name,
                gray=_reduced(ready.picture(0.0)),
                coloured=_reduced(ready.picture(evaluation.gain)),
                original=_reduced(photo.rgb),
                note=note_of(rows[photo.name]),
            )
    return contact_sheet([triples[name] for name in rows if name in triples], title=title)


def _ranks(ranked: tuple[PhotoRow, ...], each: int) -> tuple[PhotoRow, ...]:
    """The first, the middle and the last `each`, of which there are at least three times as many."""
    middle = (len(ranked) - each) // 2
    return (*ranked[:each], *ranked[middle : middle + each], *ranked[len(ranked) - each :])


def note_of(row: PhotoRow) -> str:
    """Return a row's line for the sheet: dB over no colour and colourfulness beside the true one."""
    colour = row.scores[PREDICTION].colourfulness
    return f"{row.db_over_gray:+.1f} dB over no colour, colourfulness {colour:.0f} of {row.true_colourfulness:.0f}"


def contact_sheet(triples: Sequence[Triple], *, title: str = "", across: int = 2, tile: int = TILE_PIXELS) -> Image.Image:
    """Draw the triples in `across` columns, each picture `tile` pixels wide, under a title and the pictures' names.

    Pictures keep their aspect; the next triple goes to the column that is shortest so far. Raises UsageError without triples.
    """
    if not triples:
        raise UsageError("a contact sheet needs at least one photo")
    block = len(LABELS) * tile + (len(LABELS) - 1) * GAP
    top = MARGIN + (2 * LINE if title else 0) + LINE
    ends = [top] * min(across, len(triples))
    places = []
    for triple in triples:
        column = ends.index(min(ends))
        places.append((MARGIN + column * (block + MARGIN), ends[column]))
        ends[column] += _scaled_height(triple.original, tile) + 2 * LINE
    sheet = Image.new("RGB", (MARGIN + len(ends) * (block + MARGIN), max(ends) + MARGIN - LINE), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(TEXT_POINTS)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=ImageFont.load_default(TITLE_POINTS))
    for column in range(len(ends)):
        for index, label in enumerate(LABELS):
            left = MARGIN + column * (block + MARGIN) + index * (tile + GAP)
            draw.text((left, top - LINE), label, fill=FAINT, font=font)
    for triple, (left, upper) in zip(triples, places, strict=True):
        for index, picture in enumerate((triple.gray, triple.coloured, triple.original)):
            sheet.paste(Image.fromarray(_scaled(picture, tile)), (left + index * (tile + GAP), upper))
        line = upper + _scaled_height(triple.original, tile) + GAP // 2
        draw.text((left, line), triple.name, fill=INK, font=font)
        draw.text((left + block - draw.textlength(triple.note, font=font), line), triple.note, fill=FAINT, font=font)
    return sheet


def _reduced(picture: ByteArray) -> ByteArray:
    """Shrink to what a sheet shows, so that many photos fit into memory."""
    return _scaled(picture, TILE_PIXELS) if picture.shape[1] > TILE_PIXELS else picture


def _scaled_height(picture: ByteArray, width: int) -> int:
    return max(1, int(len(picture) * width / picture.shape[1] + 0.5))


def _scaled(picture: ByteArray, width: int) -> ByteArray:
    kind = cv2.INTER_AREA if picture.shape[1] >= width else cv2.INTER_CUBIC
    size = (width, _scaled_height(picture, width))
    return np.asarray(cv2.resize(picture, size, interpolation=kind), np.uint8)
