"""Events: the newest, those after a number, and the live stream."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from mgmt.api.context import Api, many
from mgmt.api.lists import LARGEST_LIMIT, TEXT_LIMIT
from mgmt.api.stream import encode_event
from mgmt.api.v1.described import PAGE_LIMIT, Limit
from mgmt.http.problems import ProblemError
from mgmt.station import events

Number = Annotated[int, Query(ge=0, lt=2**53)]
Word = Annotated[str | None, Query(min_length=1, max_length=TEXT_LIMIT)]
Kinds = Annotated[
    list[Annotated[str, Query(min_length=1, max_length=64)]],
    Query(alias="kind", max_length=32, description="Only events of these kinds."),
]
LastEventId = Annotated[
    int | None, Header(alias="Last-Event-ID", ge=0, lt=2**53, description="What came after it comes first.")
]


def add_events(router: APIRouter, api: Api) -> None:
    """``/events`` and ``/events/stream``."""
    station = api.station

    @router.get("/events", tags=["events"], response_model=dict[str, Any])
    def get_events(
        after: Annotated[int | None, Query(ge=0, lt=2**53)] = None,
        kind: Word = None,
        array: Word = None,
        subject: Word = None,
        limit: Limit = PAGE_LIMIT,
    ) -> Response:
        """Events, oldest first: those after a number, or else the newest; ``next`` is ``after`` of the next page."""
        if after is None and (kind, array, subject) == (None, None, None):
            found = events.newest(station, limit)
            return many([events.row(event) for event in found])
        found = events.listed(station, after=after or 0, kind=kind, array=array, subject=subject, limit=limit)
        more = found[-1].number if len(found) == limit else None
        return many([events.row(event) for event in found], more)

    @router.get(
        "/events/stream",
        tags=["events"],
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"}},
    )
    async def stream(request: Request, kinds: Kinds = [], last_event_id: LastEventId = None) -> Response:  # noqa: B006
        """Live events. A client that does not keep up is cut off, and goes on with ``Last-Event-ID``."""
        wanted = frozenset(kinds)
        subscriber = api.hub.subscribe(wanted, getattr(request.state, "abort", lambda: None))
        if subscriber is None:
            raise ProblemError(
                "TOO_MANY_REQUESTS", "too many clients read the events", status=503, title="Too many clients"
            )

        def read(after: int) -> list[tuple[int, bytes]]:
            """The next events that this client has missed; several reads where it does not want them all."""
            while found := events.listed(station, after=after, limit=LARGEST_LIMIT):
                lines = [
                    (event.number, encode_event(event))
                    for event in found
                    if not wanted or event.kind in wanted
                ]
                if lines:
                    return lines
                after = found[-1].number
            return []

        async def missed(after: int) -> list[tuple[int, bytes]]:
            return await run_in_threadpool(read, after)

        return StreamingResponse(
            api.hub.lines(subscriber, missed, last_event_id),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
