"""Reserving (steps 809-812, figure 7), updating (1206-1208, figure 10) and releasing."""

from __future__ import annotations

from dataclasses import dataclass

from credits.errors import Code, InvalidRequest
from credits.targets import Target
from mgmt.http import PeerUnreachable
from mgmt.messages import (
    BufferReserveRequest,
    BufferReserveResponse,
    ReservationPreview,
    ReservationPreviewRequest,
    ReservationReleaseRequest,
    ReservationReleaseResponse,
    ReservedBufferUpdateRequest,
    ReservedBufferUpdateResponse,
)
from mgmt.station.channels import Pair
from mgmt.station.context import Station
from mgmt.station.holders import holder, with_pair
from mgmt.station.sizes import Advice, advise, suppose


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """What an array granted, and the advice that the size came from where it was automatic (704)."""

    array: str
    requested_bytes: int
    answer: BufferReserveResponse
    advice: Advice | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """What an array changed, and the advice behind it where the size was automatic."""

    array: str
    requested_bytes: int
    answer: ReservedBufferUpdateResponse
    advice: Advice | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Previewed:
    """What an array would change, and the advice behind it where the size was automatic."""

    array: str
    requested_bytes: int
    answer: ReservationPreview
    advice: Advice | None


def reserve(
    station: Station,
    target: Target,
    *,
    via: Pair | None = None,
    size_bytes: int | None = None,
    sessions: int | None = None,
    connections_per_session: int | None = None,
    lease_ns: int | None = None,
    request_id: str | None = None,
) -> Reserved:
    """Steps 809-812: reserve ``size_bytes``, or the recommended size where it is ``None`` (AUTO, 704).

    The array itself compares with what is free and still expandable (1002, 1003), in one critical section; its
    refusal carries the numbers (GAP-6). A pair that was not in table 108 is registered (801). A target of the open
    kinds is reserved on the array whose port ``via`` begins with. With ``lease_ns`` the reservation lapses unless it is
    made again in time (GAP-10).
    """
    advice = None
    if size_bytes is None:
        advice = advise(
            station,
            target,
            via=via,
            sessions=sessions,
            connections_per_session=connections_per_session,
        )
        size_bytes = advice.recommendation.reserve_bytes
    check_size(size_bytes)
    try:
        array, peer = holder(station, target, via)
    except InvalidRequest as error:
        if error.code is not Code.NOT_RESERVED:
            raise
        raise InvalidRequest(
            Code.INVALID_TARGET,
            f"{error} yet: to make the first, name the port pair that it goes over (--port-pair A,B)",
        ) from error
    request = BufferReserveRequest(target=target, requested_bytes=size_bytes, lease_ns=lease_ns)
    answer = peer.send(request, request_id)
    if not isinstance(answer, BufferReserveResponse):
        raise PeerUnreachable(peer.who, "its answer is no reservation")
    return Reserved(array=array, requested_bytes=size_bytes, answer=answer, advice=advice)


def update(
    station: Station,
    target: Target,
    *,
    via: Pair | None = None,
    size_bytes: int | None = None,
    expected_revision: int | None = None,
    request_id: str | None = None,
) -> Updated:
    """Steps 1202-1208: bring the reservation of ``target`` to ``size_bytes``, or to the recommended size."""
    advice = None
    if size_bytes is None:
        advice = advise(station, target, via=via)
        size_bytes = advice.recommendation.reserve_bytes
    check_size(size_bytes)
    array, peer = holder(station, target, via)
    request = ReservedBufferUpdateRequest(
        target=target, recommended_bytes=size_bytes, expected_revision=expected_revision
    )
    answer = peer.send(request, request_id)
    if not isinstance(answer, ReservedBufferUpdateResponse):
        raise PeerUnreachable(peer.who, "its answer is no update")
    return Updated(array=array, requested_bytes=size_bytes, answer=answer, advice=advice)


def preview(
    station: Station,
    target: Target,
    *,
    via: Pair | None = None,
    size_bytes: int | None = None,
    bandwidth_bps: int | None = None,
    rtt_ns: int | None = None,
    sessions: int | None = None,
    connections_per_session: int | None = None,
) -> Previewed:
    """What reserving would do now, and on a channel that were other than it is; nothing changes anywhere.

    Without ``size_bytes`` the size is what would be recommended with the values given. Raises the refusal that the
    reservation would get.
    """
    advice = None
    if size_bytes is None:
        advice = suppose(
            station,
            with_pair(station, target),
            via=via,
            bandwidth_bps=bandwidth_bps,
            rtt_ns=rtt_ns,
            sessions=sessions,
            connections_per_session=connections_per_session,
        )
        size_bytes = advice.recommendation.reserve_bytes
    check_size(size_bytes)
    array, peer = holder(station, target, via)
    answer = peer.send(ReservationPreviewRequest(target=target, requested_bytes=size_bytes))
    if not isinstance(answer, ReservationPreview):
        raise PeerUnreachable(peer.who, "its answer is no preview")
    return Previewed(array=array, requested_bytes=size_bytes, answer=answer, advice=advice)


def release(
    station: Station,
    target: Target,
    *,
    via: Pair | None = None,
    drain: bool = False,
    request_id: str | None = None,
) -> tuple[str, ReservationReleaseResponse]:
    """Give the reservation of ``target`` up; the array's name and its answer (GAP-4)."""
    array, peer = holder(station, target, via)
    answer = peer.send(ReservationReleaseRequest(target=target, drain=drain), request_id)
    if not isinstance(answer, ReservationReleaseResponse):
        raise PeerUnreachable(peer.who, "its answer is no release")
    return array, answer


def check_size(size_bytes: int) -> None:
    """A size is positive (step 809: 'zero or less' is asked for again). Raises :class:`InvalidRequest`."""
    if not 0 < size_bytes < 2**63:
        raise InvalidRequest(Code.INVALID_SIZE, f"a size is a positive number of bytes, not {size_bytes}")
