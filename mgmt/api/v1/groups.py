"""Consistency groups of pairs: making them, splitting, resynchronising, taking over, and how they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from mgmt.api.bodies import GroupBody, GroupVerbBody, Text
from mgmt.api.context import Api, plain
from mgmt.api.v1.described import message_response
from mgmt.pair_messages import GroupStatus
from mgmt.station import groups

Group = Annotated[str, Path(min_length=1, max_length=128)]
_VERBS: Mapping[str, str] = {
    "split": "PSUS: the secondary gets what is written until now; later changes are noted.",
    "resync": "COPY of what has changed (everything with `full`), then PAIR.",
    "takeover": "SSWS: the hosts of the remote array write from here on.",
    "swap": "Change the direction; only what has changed is copied.",
    "delete": "SMPL: dissolve the group at both ends; with `force` at those that answer.",
}


def add_groups(router: APIRouter, api: Api) -> None:
    """``POST /groups`` and ``/groups/{group}/…``."""
    station = api.station

    @router.post("/groups", tags=["groups"])
    def create(body: GroupBody) -> dict[str, Any]:
        """Make a group of pairs at both arrays; its initial copy begins."""
        wish = groups.GroupWish(
            group=body.group,
            ports=(body.ports[0], body.ports[1]),
            volumes=[(here, there) for here, there in body.volumes],
            journal=(body.journal[0], body.journal[1]),
            mode=body.mode,
            fence=body.fence,
            sessions=body.sessions,
            connections_per_session=body.connections_per_session,
            priority=body.priority,
            overwrite=body.overwrite,
        )
        return {"items": groups.create(station, wish), "down": []}

    @router.get("/groups/{group}", tags=["groups"])
    def status(group: Group) -> dict[str, Any]:
        """The pairs of a group, at each of their ends."""
        found = groups.rows(station, group)
        return {"items": found.rows, "down": [asdict(down) for down in found.down], "next": None}

    @router.get("/groups/{group}/compare", tags=["groups"])
    def compare(
        group: Group, volume: Text, offset_bytes: Annotated[int, Query(ge=0, lt=2**62)] = 0
    ) -> dict[str, Any]:
        """Compare some MiB of a volume at both ends by checksums; again from where it ended."""
        return asdict(groups.compare(station, group, volume, offset_bytes))

    for verb, about in _VERBS.items():
        _add_verb(router, api, verb, about)


def _add_verb(router: APIRouter, api: Api, verb: str, about: str) -> None:
    def act(group: Group, body: GroupVerbBody) -> JSONResponse:
        answer = groups.wish(api.station, group, verb, full=body.full, force=body.force)
        return JSONResponse(plain(answer))

    router.add_api_route(
        f"/groups/{{group}}/{verb}",
        act,
        methods=["POST"],
        name=f"{verb} group",
        summary=about,
        tags=["groups"],
        response_class=JSONResponse,
        responses=message_response(GroupStatus, about="How the group stands"),
    )
