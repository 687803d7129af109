"""Rows for a table of a page, by the columns of :mod:`mgmt.layouts`: filtered, sorted, paged; cells as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def view(
    columns: Sequence[Column], rows: Sequence[Row], wish: Wish, found: list[Row], page_rows: int = PAGE_ROWS
) -> View:
    """The page that ``wish`` asks for of the ``found`` among ``rows``, without optional columns that no row has."""
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
        total=len(rows),
        found=len(found),
        page=page,
        pages=pages,
        wish=wish,
    )


class Searched:
    """The text of every row that was searched, so that the next search of a long table formats only what is new.

    Rows that an array says again are the same objects (:mod:`mgmt.station.inventory`); of each table only the rows of
    its last search are kept. Thread-safe: a table's texts are replaced whole.
    """

    def __init__(self) -> None:
        self._known: dict[str, dict[int, tuple[Row, str]]] = {}

    def matching(self, name: str, columns: Sequence[Column], rows: Sequence[Row], query: str) -> list[Row]:
        """The rows in which the text of ``query`` stands somewhere, whatever its case."""
        if not query:
            return list(rows)
        before = self._known.get(name, {})
        readers = [(column.value, _reader(column)) for column in columns]
        known = {}
        for row in rows:
            kept = before.get(id(row))
            # The row is kept beside its text, so that no other can have its identity.
            known[id(row)] = kept if kept is not None and kept[0] is row else (row, _haystack(readers, row))
        self._known[name] = known
        needle = query.casefold()
        return [row for row, text in known.values() if needle in text]


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
    return _said(_reader(column), raw)


def _reader(column: Column) -> Callable[[Any], str]:
    """How a column's values read on a page."""
    if column.text is str:
        return _plain
    return _READABLE.get(getattr(column.text, "__name__", ""), column.text)  # type: ignore[no-any-return]


def _plain(raw: Any) -> str:
    return readable.count(raw) if type(raw) is int else str(raw)


def _said(read: Callable[[Any], str], raw: Any) -> str:
    try:
        return str(read(raw))
    except (TypeError, ValueError, AttributeError):
        return str(raw)


def _haystack(readers: Sequence[tuple[Callable[[Row], Any], Callable[[Any], str]]], row: Row) -> str:
    values = ((read, value(row)) for value, read in readers)
    return "\n".join(_said(read, raw) for read, raw in values if raw is not None).casefold()


def _key(column: Column, row: Row) -> tuple[int, Any]:
    """Numbers before texts before nothing, whatever the rows have."""
    raw = column.value(row)
    if isinstance(raw, bool | int | float):
        return 0, raw
    return (2, "") if raw is None else (1, str(raw))
