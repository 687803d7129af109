"""Reserving (steps 809-812, figure 7), updating (1206-1208, figure 10) and releasing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from credits.errors import Code, InvalidRequest
from credits.targets import Target, TargetKind
from mgmt.http import Peer, PeerUnreachable
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
from mgmt.station.channels import Pair, over
from mgmt.station.context import Station
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
        size_bytes = advice.recommendation.bytes
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
        size_bytes = advice.recommendation.bytes
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
        size_bytes = advice.recommendation.bytes
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


def holder(station: Station, target: Target, via: Pair | None = None) -> tuple[str, Peer]:
    """The array that serves ``target``: by its local port, or that of ``via``, or by who has reserved for it already.

    A buffer ID alone, and the open kinds, are looked up in the arrays' tables 101 and 1500.
    """
    local_port = over(target, via).local_port
    if local_port is not None:
        site = station.arrays.with_port(local_port)
        return site.array, site.peer
    if target.kind is TargetKind.CONNECTION:
        gathered = station.arrays.gather("/v1/buffer-ids")
        found = [row for row in gathered.rows if row.get("buffer_id") == target.buffer_id]
    else:
        gathered = station.arrays.gather("/v1/reservations")
        found = [row for row in gathered.rows if _same(row.get("target"), target)]
    names = sorted({str(row.get("array")) for row in found})
    if len(names) == 1:
        return names[0], station.arrays[names[0]]
    if len(names) > 1:
        raise InvalidRequest(
            Code.INVALID_TARGET,
            f"{target} is on several arrays ({', '.join(names)}): name its port pair too (--port-pair A,B)",
        )
    if gathered.down:
        down = gathered.down[0]
        raise PeerUnreachable(f"array {down.array} at {down.address}", down.detail)
    raise InvalidRequest(Code.NOT_RESERVED, f"no array has a reservation for {target}")


def with_pair(station: Station, target: Target) -> Target:
    """``target`` with the port pair that table 1500 has for its buffer ID, where it came without one."""
    if target.kind is not TargetKind.CONNECTION or target.local_port is not None:
        return target
    name, _ = holder(station, target)
    for row in station.arrays.gather("/v1/buffer-ids").rows:
        if row.get("array") == name and row.get("buffer_id") == target.buffer_id:
            return replace(target, local_port=row.get("local_port"), remote_port=row.get("remote_port"))
    raise InvalidRequest(Code.NOT_RESERVED, f"table 1500 has no {target}")


def _same(plain: Any, target: Target) -> bool:
    return (
        isinstance(plain, dict)
        and plain.get("kind") == target.kind.value
        and plain.get("name") == target.name
    )
