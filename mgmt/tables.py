"""Tables drawn by tabulate from the JSON objects of the API (base units).

A :class:`~mgmt.columns.Layout` says which of their values become which column, and how they read. ``wide`` adds the
columns that a terminal of 80 has no room for; CSV has all fields of a row, always the same ones.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any, Literal

from mgmt.columns import Column, Row
from mgmt.layouts import LAYOUTS

#: The narrowest terminal that the default tables are made for.
_TERMINAL_COLUMNS = 80
#: A column of sentences is never narrower than this, however much stands before it.
_NARROWEST_SENTENCE = 24
_LAST_LATIN = "\u024f"


def draw(
    name: str,
    rows: Iterable[Row],
    *,
    wide: bool = False,
    headers: bool = True,
    style: Literal["plain", "simple"] = "plain",
) -> str:
    """The table ``name`` of :data:`LAYOUTS` as text, without a final newline; ``simple`` has a rule under the headings.

    Optional columns that are empty in every row are left out; a table without rows has all its headings.
    """
    columns = [column for column in LAYOUTS[name].columns if wide or not column.wide]
    cells = [[_cell(column, row) for column in columns] for row in rows]
    used = [
        n
        for n, column in enumerate(columns)
        if not column.optional or not cells or any(line[n] != "-" for line in cells)
    ]
    table: list[Any] = [[line[n] for n in used] for line in cells]
    if not wide and columns[used[-1]].sentence:
        _wrap_last(table, [columns[n].heading for n in used] if headers else [""] * len(used))
    if headers:  # as a row like the others: tabulate pads real headings by two columns each
        table = [
            [columns[n].heading for n in used],
            *table,
        ]
    if not table:
        return ""
    right = [columns[n].numeric for n in used]
    if style == "plain" and all(_is_simple(cell) for line in table for cell in line):
        return _aligned(table, right)
    from tabulate import SEPARATING_LINE, tabulate

    if headers and style == "simple":
        table.insert(1, SEPARATING_LINE)
    text = tabulate(
        table,
        tablefmt=style,
        disable_numparse=True,
        colalign=["right" if numeric else "left" for numeric in right],
    )
    return text if style == "plain" else "\n".join(text.splitlines()[1:-1])


def _is_simple(cell: str) -> bool:
    """Whether a cell is one line of Latin signs, each of which is one column wide."""
    return cell.isprintable() and max(cell, default="") <= _LAST_LATIN and cell == cell.strip()


def _aligned(table: list[list[str]], right: list[bool]) -> str:
    """What tabulate makes of simple cells. Loading it costs more than most commands take."""
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in table
    )


def _wrap_last(table: list[list[str]], headings: list[str]) -> None:
    """Break the last cell of each line into lines that leave the table as wide as the terminal."""
    before = sum(
        max(len(heading), *(len(line[n]) for line in table), 0) + 2 for n, heading in enumerate(headings[:-1])
    )
    width = max(_NARROWEST_SENTENCE, _TERMINAL_COLUMNS - before)
    for line in table:
        line[-1] = textwrap.fill(line[-1], width)


def _cell(column: Column, row: Row) -> str:
    value = column.value(row)
    if value is None:
        return "-"
    try:
        text = column.text(value)
    except (TypeError, ValueError, AttributeError):
        text = str(value)  # a row from an array that is not of our version: shown as it came
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text) or "-"
