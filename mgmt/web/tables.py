"""The tables 101, 108, 109 and 1500, pools, pairs, ports and arrays: filtered, sorted, paged; CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from mgmt.columns import Column
from mgmt.http import ProblemError
from mgmt.layouts import LAYOUTS
from mgmt.web.commands import get
from mgmt.web.downloads import download
from mgmt.web.face import Face
from mgmt.web.reading import Row, table
from mgmt.web.rendering import link
from mgmt.web.table import Wish, view
from mgmt.web.words import TITLES

#: Columns of the command line that say what others of the page say better.
_LEFT_OUT: Mapping[str, frozenset[str]] = {
    "channels": frozenset({"MEASURED"}),
    "reservations": frozenset({"INTERFACE", "UNITS IN USE"}),
}


def add(router: APIRouter, face: Face) -> None:
    """The routes."""

    @router.get("/tables/{name}")
    def show(request: Request, name: str) -> Response:
        """One table as a page."""
        columns = columns_of(name)
        found = table(face.station, name)
        wish = Wish.of(request.query_params)
        matching = face.searched.matching(name, columns, found.rows, wish.query)
        base = str(request.base_url).rstrip("/")
        return face.page(
            request,
            "table.html",
            commands=(get(base, name),),
            name=name,
            view=view(columns, found.rows, wish, matching),
            down=found.down,
            now=face.station.utc_now().isoformat(),
            target_of=row_link,
        )

    @router.get("/tables/{name}/{form}")
    def take(request: Request, name: str, form: str) -> Response:
        """All rows that the filter leaves, in base units."""
        columns = columns_of(name)
        query = Wish.of(request.query_params).query
        rows = face.searched.matching(name, columns, table(face.station, name).rows, query)
        return download(name, form, rows, LAYOUTS[name].fields)


def columns_of(name: str) -> tuple[Column, ...]:
    """The columns that the page shows of the table ``name``."""
    if name not in TITLES or name not in LAYOUTS:
        raise _missing(f"there is no table {name!r:.80}")
    out = _LEFT_OUT.get(name, frozenset())
    shown = [column for column in LAYOUTS[name].columns if column.heading not in out]
    # The state stands beside the first column, where it is seen without scrolling.
    return tuple(shown[:1] + sorted(shown[1:], key=lambda column: column.heading != "STATE"))


def _missing(detail: str) -> ProblemError:
    return ProblemError("NOT_FOUND", detail, status=404, title="No such table")


def row_link(name: str, row: Row) -> str | None:
    """Where the rest of what is known of a row's target or pair stands."""
    target = row.get("target")
    if name in ("reservations", "allocations") and isinstance(target, Mapping):
        return link("/reservation", **{key: value for key, value in target.items() if _plain(value)})
    if name == "policies" and isinstance(target, Mapping):
        via = row.get("via")
        pair = dict(zip(("local_port", "remote_port"), via, strict=True)) if isinstance(via, list) else {}
        return link("/policy", **pair | {key: value for key, value in target.items() if _plain(value)})
    if name == "groups":
        return f"/groups/{quote(str(row.get('group')), safe='')}"
    if name == "copies":
        return f"/copies/{quote(str(row.get('copy_id')), safe='')}"
    if name == "buffer-ids":
        return link("/reservation", kind="connection", **_ports(row), buffer_id=row.get("buffer_id"))
    if name in ("channels", "pairs"):
        return link("/channels", **_ports(row))
    return None


def _ports(row: Row) -> dict[str, Any]:
    return {name: row.get(name) for name in ("local_port", "remote_port")}


def _plain(value: Any) -> bool:
    return isinstance(value, str | int)
