"""Reserving (M5, M6), updating (M10, M11), previewing and releasing."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from credits.errors import Code, InvalidRequest
from credits.targets import TargetKind, port_pair
from mgmt.api.bodies import BothEndsBody, PreviewBody, ReleaseBody, ReserveBody, UpdateBody
from mgmt.api.context import Api, change, plain, tagged
from mgmt.api.idempotency import IdempotencyKey
from mgmt.api.security.identity import By
from mgmt.api.v1.described import DryRun, IfMatch, message_response
from mgmt.http.problems import ProblemError
from mgmt.messages import (
    BufferReserveResponse,
    ReservationPreview,
    ReservationReleaseResponse,
    ReservedBufferUpdateResponse,
)
from mgmt.station import both_ends, reservations, sizes
from mgmt.station.context import Station


def add_reservations(router: APIRouter, api: Api) -> None:
    """``/reserve``, ``/reserve-both-ends``, ``/update``, ``/preview``, ``/release``."""
    station = api.station

    @router.post(
        "/reserve",
        tags=["reservations"],
        response_class=JSONResponse,
        responses=message_response(BufferReserveResponse, ReservationPreview, about="Granted (M6)"),
    )
    def reserve(
        body: ReserveBody,
        by: By,
        idempotency_key: IdempotencyKey = None,
        if_match: IfMatch = None,
        dry_run: DryRun = False,
    ) -> JSONResponse:
        """Steps 809-812: reserve."""
        expected = expected_generation(if_match, body.expected_revision)
        if dry_run:
            return tagged(_based_on(expected, _previewed(station, body)))

        def carry_out() -> dict[str, Any]:
            done = reservations.reserve(
                station,
                body.target.target(),
                via=body.pair,
                size_bytes=body.size_bytes,
                sessions=body.sessions,
                connections_per_session=body.connections_per_session,
                lease_ns=body.lease_ns,
                relogin=body.relogin,
                expected_revision=expected,
                request_id=body.request_id or idempotency_key,
                sharing=None if body.sharing is None else body.sharing.sharing(),
                by=by,
            )
            return change(done)

        said = body.model_dump(mode="json") | {"expected_revision": expected}
        return tagged(api.answers.once(idempotency_key, by, "reserve", said, carry_out))

    @router.post("/reserve-both-ends", tags=["reservations"])
    def reserve_both_ends(
        body: BothEndsBody, by: By, idempotency_key: IdempotencyKey = None, dry_run: DryRun = False
    ) -> dict[str, Any]:
        """Reserve on both arrays of a port pair, or on neither."""
        if dry_run:
            return _previewed_both(station, body)

        def carry_out() -> dict[str, Any]:
            done = both_ends.reserve_both_ends(
                station,
                body.row_target(),
                size_bytes=body.size_bytes,
                sessions=body.sessions,
                connections_per_session=body.connections_per_session,
                lease_ns=body.lease_ns,
                by=by,
            )
            answer: dict[str, Any] = {"local": change(done.local), "remote": change(done.remote)}
            if done.advice is not None:
                answer["advice"] = sizes.rows(done.advice)[0]
            return answer

        said = body.model_dump(mode="json")
        answer: dict[str, Any] = api.answers.once(idempotency_key, by, "reserve-both-ends", said, carry_out)
        return answer

    @router.post(
        "/update",
        tags=["reservations"],
        response_class=JSONResponse,
        responses=message_response(ReservedBufferUpdateResponse, ReservationPreview, about="Done (M11)"),
    )
    def update(
        body: UpdateBody,
        by: By,
        idempotency_key: IdempotencyKey = None,
        if_match: IfMatch = None,
        dry_run: DryRun = False,
    ) -> JSONResponse:
        """Steps 1206-1208: bring a reservation to a size."""
        expected = expected_generation(if_match, body.expected_revision)
        if dry_run:
            supposed = PreviewBody(target=body.target, via=body.via, size_bytes=body.size_bytes)
            return tagged(_based_on(expected, _previewed(station, supposed)))

        def carry_out() -> dict[str, Any]:
            done = reservations.update(
                station,
                body.target.target(),
                via=body.pair,
                size_bytes=body.size_bytes,
                relogin=body.relogin,
                expected_revision=expected,
                request_id=body.request_id or idempotency_key,
                by=by,
            )
            return change(done)

        said = body.model_dump(mode="json") | {"expected_revision": expected}
        return tagged(api.answers.once(idempotency_key, by, "update", said, carry_out))

    @router.post(
        "/preview",
        tags=["reservations"],
        response_class=JSONResponse,
        responses=message_response(ReservationPreview, about="What would be granted"),
    )
    def preview(body: PreviewBody) -> JSONResponse:
        """What a reservation would change, on the channel as it is or as it might become; nothing is changed."""
        return tagged(_previewed(station, body))

    @router.post(
        "/release",
        tags=["reservations"],
        response_class=JSONResponse,
        responses=message_response(ReservationReleaseResponse, ReservationPreview, about="Given up"),
    )
    def release(
        body: ReleaseBody,
        by: By,
        idempotency_key: IdempotencyKey = None,
        if_match: IfMatch = None,
        dry_run: DryRun = False,
    ) -> JSONResponse:
        """Give a reservation up."""
        expected = expected_generation(if_match, body.expected_revision)
        if dry_run:
            found = reservations.preview_release(
                station, body.target.target(), via=body.pair, drain=body.drain
            )
            return tagged(_based_on(expected, change(found)))

        def carry_out() -> dict[str, Any]:
            array, answer = reservations.release(
                station,
                body.target.target(),
                via=body.pair,
                drain=body.drain,
                expected_revision=expected,
                request_id=body.request_id or idempotency_key,
                by=by,
            )
            return {"array": array} | plain(answer)

        said = body.model_dump(mode="json") | {"expected_revision": expected}
        return tagged(api.answers.once(idempotency_key, by, "release", said, carry_out))


def _previewed(station: Station, body: PreviewBody | ReserveBody) -> dict[str, Any]:
    found = reservations.preview(
        station,
        body.target.target(),
        via=body.pair,
        size_bytes=body.size_bytes,
        bandwidth_bps=body.bandwidth_bps if isinstance(body, PreviewBody) else None,
        rtt_ns=body.rtt_ns if isinstance(body, PreviewBody) else None,
        sessions=body.sessions,
        connections_per_session=body.connections_per_session,
    )
    return change(found)


def _previewed_both(station: Station, body: BothEndsBody) -> dict[str, Any]:
    """What each end would grant; the far one for the size that the near one is asked for."""
    target = body.row_target()
    if target.kind is not TargetKind.PORT_PAIR:
        raise InvalidRequest(Code.INVALID_TARGET, f"both ends are reserved for a port pair, not for {target}")
    near = reservations.preview(
        station,
        target,
        size_bytes=body.size_bytes,
        sessions=body.sessions,
        connections_per_session=body.connections_per_session,
    )
    mirrored = port_pair(str(target.remote_port), str(target.local_port))
    far = reservations.preview(station, mirrored, size_bytes=near.requested_bytes)
    return {"local": change(near), "remote": change(far)}


def _based_on(expected: int | None, found: dict[str, Any]) -> dict[str, Any]:
    """What a dry run found, where it is of the generation that was expected. Raises :class:`ProblemError`."""
    if expected is not None and found["revision"] != expected:
        raise ProblemError(
            Code.STALE,
            f"the reservations have changed: revision {expected} was expected, it is {found['revision']} now; "
            "read them again",
            status=412,
            title="The state has changed since it was read",
        )
    return found


def expected_generation(if_match: str | None, expected_revision: int | None) -> int | None:
    """The generation that ``If-Match`` or the body names. Raises :class:`ProblemError`."""
    if if_match is None or if_match.strip() == "*":
        return expected_revision
    text = if_match.strip().strip('"')
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ProblemError(
            Code.BAD_MESSAGE,
            f'If-Match is the ETag of an answer, such as "7", not {if_match!r:.80}',
            status=422,
            title="Not a valid request",
        )
    if expected_revision is not None and expected_revision != int(text):
        raise ProblemError(
            Code.BAD_MESSAGE,
            f"If-Match says {text}, expected_revision {expected_revision}: give one of them",
            status=422,
            title="Not a valid request",
        )
    return int(text)
