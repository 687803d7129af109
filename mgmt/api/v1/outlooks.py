"""What would happen if a channel changed or failed, and taking the last change back."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mgmt.api.bodies import ChannelsBody, FailureBody, UndoBody
from mgmt.api.context import Api
from mgmt.api.security.identity import By
from mgmt.station import undo, whatif


def add_outlooks(router: APIRouter, api: Api) -> None:
    """``/preview/failure``, ``/preview/channels`` and ``/undo``."""
    station = api.station

    @router.post("/preview/failure", tags=["what if"])
    def failure(body: FailureBody) -> dict[str, Any]:
        """Which reservations would run short if a channel failed, in which order, and what would cure it."""
        outlook = whatif.channel_failure(
            station,
            body.local_port,
            body.remote_port,
            onto=None if body.onto is None else (body.onto.local_port, body.onto.remote_port),
            bandwidth_bps=body.bandwidth_bps,
            rtt_ns=body.rtt_ns,
        )
        return whatif.row(outlook)

    @router.post("/preview/channels", tags=["what if"])
    def change(body: ChannelsBody) -> dict[str, Any]:
        """What would be resized if channels were other than they are, by the code of the real update."""
        supposed = [whatif.Supposed(**channel.model_dump()) for channel in body.channels]
        return whatif.row(whatif.channel_change(station, supposed))

    @router.post("/undo", tags=["audit"])
    def take_back(body: UndoBody, by: By) -> dict[str, Any]:
        """Take the last change back, or the record of the audit trail with a number."""
        return undo.row(undo.undo(station, number=body.number, by=by))
