"""The audit trail: who changed what, when, why and from what to what; whether it is as it was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from mgmt.station import trail
from mgmt.station.records import Record
from mgmt.web.commands import Command, get
from mgmt.web.downloads import download
from mgmt.web.face import REFUSALS, Face, as_problem
from mgmt.web.table import Wish

PAGE_ROWS = 50
#: Records that a filter and a download look at: the newest.
SEARCHED = 2000
_FIELDS = (
    "number", "at", "by", "cause", "verb", "stage", "of", "subject", "array", "request_id", "inputs", "before",
    "after", "detail", "previous_hash", "hash",
)  # fmt: skip


def add(router: APIRouter, face: Face) -> None:
    """The routes."""

    @router.get("/audit")
    def show(request: Request) -> Response:
        """The records, the newest first; with ``verify`` or ``head`` also whether the chain is whole."""
        form = face.query(request)
        wish = Wish.of(request.query_params)
        records, found, pages, page = _page(face, wish)
        verdict, problem = None, None
        if form.text("verify") or form.text("head"):
            try:
                verdict = trail.verify(face.station, head=form.text("head") or None)
            except REFUSALS as error:
                problem = as_problem(error)
                form.wrong("head", form.language("A head is NUMBER:HASH, as a check has told it earlier."))
        base = str(request.base_url).rstrip("/")
        return face.page(
            request,
            "audit.html",
            status=422 if form.errors else 200,
            commands=(
                get(base, "audit"),
                Command("sancredit audit verify", f"curl -sS {base}/api/v1/audit/verify"),
            ),
            form=form,
            records=[_shown(record) for record in records],
            found=found,
            pages=pages,
            page=page,
            wish=wish,
            verdict=verdict,
            problem=problem,
            now=face.station.utc_now().isoformat(),
        )

    @router.get("/audit/{form}")
    def take(request: Request, form: str) -> Response:
        """The newest records as CSV or JSON."""
        rows = [trail.row(record) for record in _searched(face, Wish.of(request.query_params))]
        return download("audit", form, rows, _FIELDS)


def _page(face: Face, wish: Wish) -> tuple[list[Record], int, int, int]:
    """(records of the page, of how many, pages, page). Without a filter only those of the page are read."""
    if wish.query:
        found = _searched(face, wish)
        pages = max(1, -(-len(found) // PAGE_ROWS))
        page = min(max(1, wish.page), pages)
        return found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS], len(found), pages, page
    last = trail.last_number(face.station)
    pages = max(1, -(-last // PAGE_ROWS))
    page = min(max(1, wish.page), pages)
    end = last - (page - 1) * PAGE_ROWS
    after = max(0, end - PAGE_ROWS)
    records = trail.listed(face.station, after=after, limit=end - after) if end else []
    return [record for record in reversed(records) if record.number <= end], last, pages, page


def _searched(face: Face, wish: Wish) -> list[Record]:
    needle = wish.query.casefold()
    newest = reversed(trail.newest(face.station, SEARCHED))
    return [record for record in newest if not needle or needle in _said(record)]


def _said(record: Record) -> str:
    """Everything that a record says to a reader, to be searched."""
    words = (record.number, record.at, record.by, record.verb, record.stage.value, record.cause.value)
    return " ".join(map(str, (*words, record.subject, record.array, record.detail))).casefold()


def _shown(record: Record) -> dict[str, Any]:
    return {
        "record": record,
        "before": units(record.before),
        "after": units(record.after),
        "inputs": json.dumps(record.inputs, ensure_ascii=False, indent=1) if record.inputs else "",
    }


def units(part: Mapping[str, Any] | None) -> list[int]:
    """The units in what was before or after a change: one number, or those of both ends."""
    if part is None:
        return []
    ends = [part] if "reserved_units" in part else [end for end in part.values() if isinstance(end, Mapping)]
    return [value for end in ends if type(value := end.get("reserved_units")) is int]
