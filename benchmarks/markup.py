"""HTML and SVG from function calls. What is not Markup is text and gets escaped, so no name in a result can become code."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Union

_VOID = frozenset({"img", "meta"})  # of those that are used here; they have no end tag


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = Union[str, Iterable["Child"], None]  # noqa: UP007 - an alias of itself cannot be written with |
Attribute = str | float | None


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """One element with its children; str is escaped, Markup is not, None is nothing, an iterable is its items.

    attributes: `class_` is class, other underscores are hyphens; None leaves one out, a float gets one decimal.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    start = f"<{name}{written}>"
    return Markup(start if name in _VOID else f"{start}{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """Children without an element around them."""
    return Markup("".join(_child(child) for child in children))


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    return html.escape(child) if isinstance(child, str) else joined(*child)


def _text(value: str | float) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
