"""Rows for a table of a page, by the columns of :mod:`mgmt.layouts`: filtered, sorted, paged; cells as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgmt.columns import Column, Row
from mgmt.web import readable
from mgmt.web.reading import lenient

PAGE_ROWS = 50
_QUERY_LIMIT = 100
#: Of a column's text in the command line's spelling, how the page spells it.
_READABLE: Mapping[str, Any] = {
    "size": readable.size,
    "rate": readable.rate,
    "delay": readable.delay,
    "percent": readable.share,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the reader asked for in the query of the page's URL."""

    sort: str = ""
    descending: bool = False
    query: str = ""
    page: int = 1

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Wish:
        """From the query; what makes no sense is not there."""
        page = parameters.get("page", "")
        return cls(
            sort=parameters.get("sort", ""),
            descending=parameters.get("desc") == "1",
            query=parameters.get("q", "")[:_QUERY_LIMIT].strip(),
            page=int(page) if page.isascii() and page.isdigit() and len(page) < 7 else 1,
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """One value: as text, and as it came (for the title)."""

    text: str
    raw: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the page shows: ``lines`` pairs each row with its cells."""

    columns: tuple[Column, ...]
    lines: tuple[tuple[Row, tuple[Cell, ...]], ...]
    total: int
    found: int
    page: int
    pages: int
    wish: Wish


def view(columns: Sequence[Column], rows: Iterable[Row], wish: Wish, page_rows: int = PAGE_ROWS) -> View:
    """The rows that ``wish`` asks for. Optional columns that no row has are left out."""
    everything = list(rows)
    found = matching(columns, everything, wish.query)
    if by := next((column for column in columns if column.heading == wish.sort), None):
        found = sorted(found, key=lambda row: _key(by, row), reverse=wish.descending)
    pages = max(1, -(-len(found) // page_rows))
    page = min(max(1, wish.page), pages)
    shown = found[(page - 1) * page_rows : page * page_rows]
    used = tuple(
        column
        for column in columns
        if not column.optional or any(column.value(row) is not None for row in shown)
    )
    return View(
        columns=used,
        lines=tuple((lenient(row), tuple(cell(column, row) for column in used)) for row in shown),
        total=len(everything),
        found=len(found),
        page=page,
        pages=pages,
        wish=wish,
    )


def matching(columns: Sequence[Column], rows: Sequence[Row], query: str) -> list[Row]:
    """The rows in which the text of ``query`` stands somewhere, whatever its case."""
    if not query:
        return list(rows)
    needle = query.casefold()
    return [row for row in rows if needle in _haystack(columns, row)]


def cell(column: Column, row: Row) -> Cell:
    """A value as the page shows it; one from an array of another version as it came."""
    raw = column.value(row)
    text = readable.DASH if raw is None else _text(column, raw)
    if not text.isprintable():
        kept = (
            sign if sign.isprintable() or sign.isspace() else "\N{REPLACEMENT CHARACTER}" for sign in text
        )
        text = "".join(kept)
    return Cell(text, raw)


def _text(column: Column, raw: Any) -> str:
    read = _READABLE.get(getattr(column.text, "__name__", ""), column.text)
    try:
        return readable.count(raw) if column.text is str and type(raw) is int else str(read(raw))
    except (TypeError, ValueError, AttributeError):
        return str(raw)


def _haystack(columns: Sequence[Column], row: Row) -> str:
    values = ((column, column.value(row)) for column in columns)
    return "\n".join(_text(column, raw) for column, raw in values if raw is not None).casefold()


def _key(column: Column, row: Row) -> tuple[int, Any]:
    """Numbers before texts before nothing, whatever the rows have."""
    raw = column.value(row)
    if isinstance(raw, bool | int | float):
        return 0, raw
    return (2, "") if raw is None else (1, str(raw))
