"""What was changed, by whom and from what: the audit trail, hash-chained; and how channels have been."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import AwareDatetime

from mgmt.api.bodies import Text
from mgmt.api.context import Api, many
from mgmt.api.lists import TEXT_LIMIT
from mgmt.api.v1.described import PAGE_LIMIT, Limit
from mgmt.station import history, trail

Head = Annotated[
    str | None,
    Query(
        max_length=TEXT_LIMIT, description="A `head` from before: whether the trail still goes on from there."
    ),
]
Samples = Annotated[int, Query(ge=1, le=10_000)]


def add_audit(router: APIRouter, api: Api) -> None:
    """``/audit``, ``/audit/verify`` and ``/channels/history``."""
    station = api.station

    @router.get("/audit", tags=["audit"], response_model=dict[str, Any])
    def get_audit(
        after: Annotated[int | None, Query(ge=0, lt=2**53)] = None,
        subject: Annotated[str | None, Query(min_length=1, max_length=TEXT_LIMIT)] = None,
        limit: Limit = PAGE_LIMIT,
    ) -> Response:
        """The audit trail, oldest first: what comes after a number, or else the newest; ``next`` is ``after``."""
        if after is None and subject is None:
            newest = trail.newest(station, limit)
            return many([trail.row(record) for record in newest])
        found = trail.listed(station, after=after or 0, subject=subject, limit=limit)
        more = found[-1].number if len(found) == limit else None
        return many([trail.row(record) for record in found], more)

    @router.get("/audit/verify", tags=["audit"])
    def verify(head: Head = None) -> dict[str, Any]:
        """Whether every record is as it was written, and none is missing."""
        return trail.verdict(trail.verify(station, head=head))

    @router.get("/channels/history", tags=["channels"], response_model=dict[str, Any])
    def get_history(
        local_port: Text,
        remote_port: Text,
        since: AwareDatetime | None = None,
        until: AwareDatetime | None = None,
        limit: Samples = 2000,
    ) -> Response:
        """How the channel of a pair has been: its newest samples of the time asked for, oldest first."""
        found = history.rows(station, local_port, remote_port, since=since, until=until, limit=limit)
        return many(found)
