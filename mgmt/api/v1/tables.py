"""The lists: what there is now, of every array that answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from mgmt.api.context import Api
from mgmt.api.lists import Page, Row, parse_query
from mgmt.api.v1.described import PAGE_LIMIT, Cursor, Filters, IfNoneMatch, Limit, Sort, list_response
from mgmt.layouts import LAYOUTS
from mgmt.station import groups, sizes
from mgmt.station.arrays import Down, Gathered

#: A read of one table: its rows, the arrays that did not answer, and the table's generation where it has one.
Read = Callable[[], tuple[Sequence[Row], Sequence[Down], int | None]]

#: The lists of what the arrays have.
_OF_ARRAYS: Mapping[str, str] = {
    "arrays": "The station's arrays, up or down.",
    "ports": "Every port of every array.",
    "pools": "Area 100 of every communication interface.",
    "reservations": "Table 101 of every array.",
    "allocations": "Table 109 of every array.",
    "buffer-ids": "Table 1500 of every array.",
    "copies": "The remote copies of every array.",
}


def add_tables(router: APIRouter, api: Api) -> None:
    """``GET`` of every table."""
    station = api.station

    def of_arrays(name: str) -> Read:
        def read() -> tuple[Sequence[Row], Sequence[Down], int | None]:
            table = station.inventory.table(name)
            return table.rows, table.down, table.revision

        return read

    for name, about in _OF_ARRAYS.items():
        add_list(router, api, name, about, of_arrays(name))

    def table_108() -> tuple[Sequence[Row], Sequence[Down], int | None]:
        rows, revision = api.channel_rows.table(station)
        return rows, [], revision

    add_list(router, api, "channels", "Table 108.", table_108)
    add_list(
        router,
        api,
        "pairs",
        "The registered pairs: sizes recommended and reserved side by side.",
        lambda: _of(sizes.pairs(station)),
    )
    add_list(
        router,
        api,
        "groups",
        "Every pair of every group, at each of its ends.",
        lambda: _of(groups.rows(station)),
    )


def _of(gathered: Gathered) -> tuple[Sequence[Row], Sequence[Down], int | None]:
    return gathered.rows, gathered.down, None


def add_list(router: APIRouter, api: Api, name: str, about: str, read: Read) -> None:
    """``GET /NAME``: one page of the rows that ``read`` finds."""
    fields = LAYOUTS[name].fields

    def endpoint(
        filters: Filters = [],  # noqa: B006 - FastAPI copies it
        sort: Sort = None,
        limit: Limit = PAGE_LIMIT,
        cursor: Cursor = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response:
        query = parse_query(fields, filters=filters, sort=sort, limit=limit, cursor=cursor)
        rows, down, revision = read()
        return page_response(api.lists.page(name, revision, rows, query), down, if_none_match)

    router.add_api_route(
        f"/{name}",
        endpoint,
        methods=["GET"],
        name=f"get {name}",
        summary=about,
        response_class=Response,
        responses=list_response(fields, LAYOUTS[name].title),
        tags=["tables"],
    )


def page_response(page: Page, down: Sequence[Down], if_none_match: str | None) -> Response:
    """A page as JSON, or 304 where the client has it already."""
    rest: dict[str, Any] = {
        "down": [asdict(array) for array in down],
        "next": page.cursor,
        "total": page.total,
    }
    body = b'{"items":' + page.items + b"," + json.dumps(rest, separators=(",", ":")).encode()[1:]
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    if if_none_match is not None and tag in (
        part.strip().removeprefix("W/") for part in if_none_match.split(",")
    ):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)
