"""Alarms: what somebody should do something about, and who has seen it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from mgmt.api.bodies import NoteBody
from mgmt.api.context import Api, many
from mgmt.api.lists import TEXT_LIMIT
from mgmt.api.security.identity import By
from mgmt.api.v1.described import PAGE_LIMIT, Limit
from mgmt.station import alarms
from mgmt.station.records import AlarmKind, AlarmState

Number = Annotated[int, Path(ge=1, lt=2**53)]
States = Annotated[
    list[AlarmState],
    Query(alias="state", min_length=1, max_length=3, description="Alarms in one of these states."),
]


def add_alarms(router: APIRouter, api: Api) -> None:
    """``/alarms`` and ``/alarms/{number}/ack``."""
    station = api.station

    @router.get("/alarms", tags=["alarms"], response_model=dict[str, Any])
    def get_alarms(
        states: States = [AlarmState.ACTIVE, AlarmState.ACKNOWLEDGED],  # noqa: B006 - FastAPI copies it
        kind: AlarmKind | None = None,
        array: Annotated[str | None, Query(min_length=1, max_length=TEXT_LIMIT)] = None,
        limit: Limit = PAGE_LIMIT,
    ) -> Response:
        """Alarms, the newest first."""
        wanted = [state.value for state in states]
        found = alarms.listed(station, states=wanted, kind=kind, array=array, limit=limit)
        return many([alarms.row(alarm) for alarm in found])

    @router.post("/alarms/{number}/ack", tags=["alarms"])
    def acknowledge(number: Number, body: NoteBody, by: By) -> dict[str, Any]:
        """Somebody has seen the alarm, and perhaps says something about it; again to change the note."""
        return alarms.row(alarms.acknowledge(station, number, by=by, note=body.note))
