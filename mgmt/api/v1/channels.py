"""Pairs and their channels: registering (step 801), measuring (802-804), the recommended size (808)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mgmt.api.bodies import MeasureBody, PairBody, RecommendBody, TargetOnlyBody
from mgmt.api.context import Api
from mgmt.api.security.identity import By
from mgmt.station import channels, sizes


def add_channels(router: APIRouter, api: Api) -> None:
    """``/pairs``, ``/channels/measure``, ``/recommend``."""
    station = api.station

    @router.post("/pairs", tags=["channels"])
    def register(body: PairBody, by: By) -> dict[str, Any]:
        """Step 801: put a pair into table 108."""
        channel = channels.register(
            station,
            body.row_target(),
            sessions=body.sessions,
            connections_per_session=body.connections_per_session,
            by=by,
        )
        return channels.row(station, channel)

    @router.post("/pairs/remove", tags=["channels"])
    def unregister(body: TargetOnlyBody, by: By) -> dict[str, Any]:
        """Take a pair out of table 108; refused while anything is reserved for it."""
        return channels.row(station, channels.unregister(station, body.row_target(), by=by))

    @router.post("/channels/measure", tags=["channels"])
    def measure(body: MeasureBody) -> dict[str, Any]:
        """Steps 802-804 (M1, M2): measure a registered pair."""
        rows = channels.measure(station, body.local_port, body.remote_port)
        return {"items": [channels.row(station, row) for row in rows], "down": []}

    @router.post("/recommend", tags=["channels"])
    def recommend(body: RecommendBody) -> dict[str, Any]:
        """Steps 802-808 (M1 to M4): the recommended size of a target, and what is available."""
        advice = sizes.advise(
            station,
            body.target.target(),
            via=body.pair,
            sessions=body.sessions,
            connections_per_session=body.connections_per_session,
            remeasure=body.remeasure,
            policy=body.policy,
        )
        return {"items": sizes.rows(advice), "down": []}
