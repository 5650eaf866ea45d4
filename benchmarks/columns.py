"""Columns of plain text, for a pipe, a file or a log."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 80  # characters that a terminal has at least
FOLDED = 12  # characters; a name folded to fewer cannot be read


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """The first column flush left, the others flush right; a cell may have several lines of text.

    Cells of one line stand at the bottom, as a header's units do.
    """
    spread = [line for cells in lines for line in _text_lines(cells)]
    widths = _widths(spread)
    space = " " * gap(lines)
    return "\n".join(
        space.join(
            [line[0].ljust(widths[0]), *(c.rjust(width) for c, width in zip(line[1:], widths[1:], strict=True))]
        ).rstrip()
        for line in spread
    )


def stacked(lines: Sequence[Sequence[str]]) -> str:
    """A block for every line of cells, for where columns do not fit: its first cell, and below it the others by their names."""
    header, *rest = ([" ".join(cell.split()) for cell in cells] for cells in lines)
    width = max(len(name) for name in header)
    blocks = [
        "\n".join([cells[0], *(f"  {name.ljust(width)}  {cell}" for name, cell in zip(header[1:], cells[1:], strict=True))])
        for cells in rest
    ]
    return "\n\n".join(blocks)


def narrowest(lines: Sequence[Sequence[str]]) -> int:
    """Characters that a table of these lines takes at least, its first column folded to FOLDED and no other one."""
    first, *others = _widths([line for cells in lines for line in _text_lines(cells)])
    return min(first, FOLDED) + sum(others) + gap(lines) * len(others)


def gap(lines: Sequence[Sequence[str]]) -> int:
    """Spaces between columns: two where the table then fits into WIDTH, else one."""
    widths = _widths([line for cells in lines for line in _text_lines(cells)])
    return 2 if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else 1


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """Characters of each column's longest cell."""
    return [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]


def _text_lines(cells: Sequence[str]) -> list[list[str]]:
    """The lines of text of one line of cells."""
    parts = [cell.split("\n") for cell in cells]
    height = max(len(part) for part in parts)
    padded = [[""] * (height - len(part)) + part for part in parts]
    return [[part[row] for part in padded] for row in range(height)]
