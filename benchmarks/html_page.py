"""What every page of ours is made of: one HTML file that works offline, on a phone, in light and dark, and fetches nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from icf_deploy.benchmarks.html_style import STYLE
from icf_deploy.benchmarks.markup import Child, Markup, tag

# The page may show what is in it, and nothing else: even a browser that is told to fetch or run something refuses.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, content: Sequence[Child]) -> str:
    """The whole file."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", content), lang="en") + "\n"


def section(heading: str, about: str | None, *content: Child) -> Markup:
    """A part of the page under its heading, with a line that says what it shows."""
    return tag("section", tag("h2", heading), tag("p", about, class_="dim") if about else None, *content)


def figure(data: bytes, kind: str, caption: str, photo: str) -> Markup:
    """A picture inside the page. data: of a file of `kind`, "jpeg" or "png"; photo: its name, for who cannot see it."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return tag("figure", tag("img", src=source, alt=f"{photo}: {caption}"), tag("figcaption", caption))


def warnings(lines: Sequence[str]) -> Markup:
    """What a reader should know first."""
    items = tag("ul", [tag("li", line) for line in lines])
    return tag("div", tag("strong", "Before you believe a number"), items, class_="warnings")
