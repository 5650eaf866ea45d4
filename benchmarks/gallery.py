"""The photos on which engines drift most, as a page of pictures: `icf-deploy check --gallery`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icf_deploy.benchmarks.html_page import figure, page, section
from icf_deploy.benchmarks.html_tables import table
from icf_deploy.benchmarks.markup import Markup, tag
from icf_deploy.benchmarks.worst_photo import WorstPhoto
from icf_deploy.text_output import write_text

ABOUT = (
    "Each engine's worst photos, the worst one first. The difference is that of the colours alone, a and b, times the number "
    "that is printed with it, on gray: plain gray means that nothing is left to see."
)


@dataclass(frozen=True)
class Shot:
    """One photo of one engine: its pictures, and what was measured on it, in words."""

    pictures: WorstPhoto
    text: str


@dataclass(frozen=True)
class Wall:
    """The photos of one engine. title: its name and graph. text: its figures over all photos. shots: the worst one first."""

    title: str
    text: str
    shots: tuple[Shot, ...]


def write_gallery(
    path: Path, *, title: str, headline: str, notes: Sequence[str], cells: Sequence[Sequence[str]], walls: Sequence[Wall],
    overwrite: bool,
) -> None:  # fmt: skip
    """Write the page, complete or not at all. notes: what the photos are. cells: a table, its header first.

    Raises WorkError where `path` exists (`overwrite`), is a folder or cannot be written.
    """
    write_text(gallery_html(title, headline, notes, cells, walls), path, overwrite=overwrite)


def gallery_html(title: str, headline: str, notes: Sequence[str], cells: Sequence[Sequence[str]], walls: Sequence[Wall]) -> str:
    """The whole page."""
    header, *rows = cells
    content = [
        tag("h1", title),
        tag("p", headline, class_="headline"),
        [tag("p", note, class_="dim") for note in notes],
        section("Results", None, table([name.replace("-\n", "").replace("\n", " ") for name in header], rows)),
        tag("p", ABOUT, class_="dim"),
        [
            section(wall.title, wall.text, tag("div", [card(shot) for shot in wall.shots], class_="cards wide-cards"))
            for wall in walls
        ],
    ]
    return page(f"icf-deploy check: {title}", content)


def card(shot: Shot, title: str = "") -> Markup:
    """The pictures of one photo side by side. title: "" takes the photo's name."""
    found = shot.pictures
    figures = [
        figure(found.reference, "jpeg", "reference", found.photo),
        figure(found.engine, "jpeg", "engine", found.photo),
        figure(found.difference, "png", f"difference × {found.factor}", found.photo),
    ]
    if found.truth is not None:
        figures.append(figure(found.truth, "jpeg", "true colours", found.photo))
    pictures = tag("div", figures, class_="photos", style=f"grid-template-columns:repeat({len(figures)}, 1fr)")
    return tag(
        "div",
        tag("h3", title or found.photo),
        tag("p", f"{found.photo}: {shot.text}" if title else shot.text, class_="dim"),
        pictures,
        class_="card",
    )
