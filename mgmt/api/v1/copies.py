"""Remote copies: starting (M7, one for each connection), how far they are, stopping, comparing both disks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mgmt.api.bodies import CopyBody, RequestId
from mgmt.api.context import Api, plain, refusal
from mgmt.api.idempotency import IdempotencyKey
from mgmt.api.security.identity import By
from mgmt.station import copies


def add_copies(router: APIRouter, api: Api) -> None:
    """``POST /copies`` and ``/copies/{copy_id}/…``."""
    station = api.station

    @router.post("/copies", tags=["copies"])
    def start(body: CopyBody, by: By, idempotency_key: IdempotencyKey = None) -> dict[str, Any]:
        """Steps 813-814: start a remote copy, one request for each connection of each session."""

        def carry_out() -> dict[str, Any]:
            started = copies.start(
                station,
                body.target.target(),
                body.volume,
                via=body.pair,
                remote_volume=body.remote_volume,
                application_name=body.application,
                volume_groups=None
                if body.volume_groups is None
                else (body.volume_groups[0], body.volume_groups[1]),
                sessions=body.sessions,
                connections_per_session=body.connections_per_session,
                copy_id=body.copy_id,
            )
            return {
                "copy_id": started.copy_id,
                "connections": [plain(answer) for answer in started.connections],
                "refusals": [refusal(error) for error in started.refusals],
            }

        said = body.model_dump(mode="json")
        answer: dict[str, Any] = api.answers.once(idempotency_key, by, "copies", said, carry_out)
        return answer

    @router.get("/copies/{copy_id}", tags=["copies"])
    def status(copy_id: RequestId) -> dict[str, Any]:
        """How far a copy is."""
        return copies.row(station, copies.status(station, copy_id))

    @router.post("/copies/{copy_id}/stop", tags=["copies"])
    def stop(copy_id: RequestId) -> dict[str, Any]:
        """Stop a copy; its units return to the list they came from."""
        return copies.row(station, copies.stop(station, copy_id))

    @router.post("/copies/{copy_id}/verify", tags=["copies"])
    def verify(copy_id: RequestId) -> dict[str, Any]:
        """SHA-256 of both volumes, each computed by its own array."""
        local, remote = copies.verify(station, copy_id)
        equal = (local.sha256, local.length_bytes) == (remote.sha256, remote.length_bytes)
        return {"sha256_match": equal, "local": plain(local), "remote": plain(remote)}
