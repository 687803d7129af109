"""Lists with filter, sort and paging, over rows that somebody else keeps. Pure: rows in, bytes out.

A filter is ``FIELD OP VALUE`` with OP one of ``= != < <= > >= ~`` (``~``: contains); ``outer.inner`` reaches into an
object. A cursor says where the last page ended, by the row itself: rows that come and go meanwhile shift nothing. What
one revision of a table looks like sorted and filtered is kept for the next page and the next caller.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from credits.errors import Code
from mgmt.http.problems import ProblemError

Row = Mapping[str, Any]

LIMIT = 100
LARGEST_LIMIT = 1000
FILTER_LIMIT = 8
TEXT_LIMIT = 300
#: Orders that are kept, over all tables, and encoded pages.
VIEW_LIMIT = 64
PAGE_LIMIT = 256

_FILTER = re.compile(r"([\w.]{1,64}?)\s*(!=|<=|>=|=|<|>|~)\s*(.*)", re.ASCII | re.DOTALL)
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": eq,
    "!=": ne,
    "<": lt,
    "<=": le,
    ">": gt,
    ">=": ge,
}


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on a row."""

    field: str
    operator: str
    value: str

    def admits(self, row: Row) -> bool:
        """Whether the row meets it. A value that the row's cannot be compared with is unequal to it, and no more."""
        found = value_at(row, self.field)
        if self.operator == "~":
            return self.value.lower() in _text(found).lower()
        if type(found) in (int, float):
            try:
                return _COMPARISONS[self.operator](
                    found, float(self.value) if "." in self.value else int(self.value)
                )
            except ValueError:
                return self.operator == "!="
        if type(found) is str:
            return _COMPARISONS[self.operator](found, self.value)
        return self.operator in ("=", "!=") and _COMPARISONS[self.operator](_text(found), self.value)


@dataclass(frozen=True, slots=True)
class Query:
    """What of a list is wanted."""

    filters: tuple[Filter, ...] = ()
    sort: tuple[tuple[str, bool], ...] = ()
    """(field, whether descending), the weightiest first."""
    limit: int = LIMIT
    after: tuple[int, str] | None = None
    """Rows before the page, and the mark of the last of them."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page: the rows as JSON, where it ends, and how many rows there are on all pages."""

    items: bytes
    cursor: str | None
    total: int


def parse_query(
    fields: Sequence[str],
    *,
    filters: Sequence[str] = (),
    sort: str | None = None,
    limit: int = LIMIT,
    cursor: str | None = None,
) -> Query:
    """The query in these texts, for rows with these ``fields``. Raises :class:`ProblemError` (422)."""
    if len(filters) > FILTER_LIMIT:
        raise _bad(f"a list takes at most {FILTER_LIMIT} filters")
    return Query(
        filters=tuple(_filter(text, fields) for text in filters),
        sort=tuple(_order(text, fields) for text in sort.split(",")) if sort else (),
        limit=limit,
        after=_position(cursor) if cursor else None,
    )


def _filter(text: str, fields: Sequence[str]) -> Filter:
    found = _FILTER.fullmatch(text) if len(text) <= TEXT_LIMIT else None
    if found is None:
        raise _bad(f"a filter is FIELD OP VALUE with OP one of = != < <= > >= ~, not {text!r:.80}")
    return Filter(_known(found[1], fields), found[2], found[3])


def _order(text: str, fields: Sequence[str]) -> tuple[str, bool]:
    return _known(text.strip().removeprefix("-"), fields), text.strip().startswith("-")


def _known(field: str, fields: Sequence[str]) -> str:
    if field not in fields:
        raise _bad(f"there is no field {field!r:.80} here; there are: {', '.join(fields)}")
    return field


def _position(cursor: str) -> tuple[int, str]:
    try:
        offset, mark = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=="))
        if type(offset) is not int or not 0 < offset < 2**31 or type(mark) is not str:
            raise ValueError(cursor)
    except (ValueError, TypeError, RecursionError):
        raise _bad("the cursor is none that this API gave") from None
    return offset, mark


def _bad(detail: str) -> ProblemError:
    return ProblemError(Code.BAD_MESSAGE, detail, status=422, title="Not a valid query")


class Lists:
    """Pages of tables. Keeps what it has sorted for a table's revision; thread-safe enough: it only ever replaces."""

    def __init__(self) -> None:
        self._views: OrderedDict[Any, list[Row]] = OrderedDict()
        self._pages: OrderedDict[Any, Page] = OrderedDict()

    def page(self, name: str, revision: int | None, rows: Sequence[Row], query: Query) -> Page:
        """One page of ``rows``. Where they have a ``revision``, rows of the same one are the same rows."""
        key = (name, revision, query)
        if revision is not None and (kept := self._pages.get(key)) is not None:
            return kept
        view = self._view(name, revision, rows, query)
        start = 0 if query.after is None else _start(view, *query.after)
        chosen = view[start : start + query.limit]
        end = start + len(chosen)
        page = Page(
            json.dumps(chosen, separators=(",", ":"), ensure_ascii=False).encode(),
            _cursor(end, view[end - 1]) if end < len(view) else None,
            len(view),
        )
        if revision is not None:
            _keep(self._pages, key, page, PAGE_LIMIT)
        return page

    def _view(self, name: str, revision: int | None, rows: Sequence[Row], query: Query) -> list[Row]:
        key = (name, revision, query.filters, query.sort)
        if revision is not None and (kept := self._views.get(key)) is not None:
            return kept
        view = [row for row in rows if all(wanted.admits(row) for wanted in query.filters)]
        for field, descending in reversed(query.sort):
            view.sort(key=lambda row, field=field: _rank(value_at(row, field)), reverse=descending)  # type: ignore[misc]
        if revision is not None:
            _keep(self._views, key, view, VIEW_LIMIT)
        return view


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any, limit: int) -> None:
    kept[key] = value
    while len(kept) > limit:
        try:
            kept.popitem(last=False)
        except KeyError:  # another thread was quicker
            return


def value_at(row: Row, field: str) -> Any:
    """The value of a row at ``field``; ``outer.inner`` reaches into an object."""
    found: Any = row
    for part in field.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _rank(value: Any) -> tuple[int, Any]:
    """Numbers before texts before anything else, and nothing last."""
    if value is None:
        return 3, 0
    if isinstance(value, int | float):
        return 0, value
    return (1, value) if isinstance(value, str) else (2, _text(value))


def _text(value: Any) -> str:
    """As JSON writes it, texts without their quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _cursor(offset: int, row: Row) -> str:
    return base64.urlsafe_b64encode(json.dumps([offset, _mark(row)]).encode()).decode().rstrip("=")


_IDENTITY = (
    *("number", "array", "interface", "address", "target", "buffer_id", "copy_id", "pair", "name"),
    *("local_port", "remote_port", "remote_port_number", "buffer_address"),
)


def _mark(row: Row) -> str:
    """What a row is known by, whatever else in it changes."""
    named = [row.get(field) for field in _IDENTITY]
    return hashlib.blake2b(json.dumps(named).encode(), digest_size=8).hexdigest()


def _start(view: Sequence[Row], offset: int, mark: str) -> int:
    """Where the page after the marked row begins: behind it wherever it is now, else where it was."""
    if offset <= len(view) and _mark(view[offset - 1]) == mark:
        return offset
    for number, row in enumerate(view):
        if _mark(row) == mark:
            return number + 1
    return min(offset, len(view))
