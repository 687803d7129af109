"""Reserving (steps 809-812, figure 7), updating (1206-1208, figure 10) and releasing."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from credits.errors import Code, InvalidRequest
from credits.sharing import Sharing
from credits.targets import Target, TargetKind
from mgmt.http import Peer, PeerUnreachable
from mgmt.messages import (
    BufferReserveRequest,
    BufferReserveResponse,
    Message,
    ReservationPreview,
    ReservationPreviewRequest,
    ReservationReleaseRequest,
    ReservationReleaseResponse,
    ReservedBufferUpdateRequest,
    ReservedBufferUpdateResponse,
)
from mgmt.station import policies
from mgmt.station.changes import Asked, Done, carry_out
from mgmt.station.channels import Pair
from mgmt.station.context import LOCAL_USER, Station
from mgmt.station.database import Transaction
from mgmt.station.holders import holder, with_pair
from mgmt.station.lifecycle import Input
from mgmt.station.records import Cause
from mgmt.station.sizes import Advice, advise, suppose

A = TypeVar("A")
_SECOND_NS = 10**9
#: What is written in the same commit as the end of a change.
Also = Callable[[Transaction], policies.Changed]


def _nothing(_: Transaction) -> policies.Changed:
    """Nothing else is written."""
    return None


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
    relogin: bool = False,
    expected_revision: int | None = None,
    request_id: str | None = None,
    sharing: Sharing | None = None,
    by: str = LOCAL_USER,
    cause: Cause = Cause.USER,
) -> Reserved:
    """Steps 809-812: reserve ``size_bytes``, or the recommended size where it is ``None`` (AUTO, 704).

    The array itself compares with what is free and still expandable (1002, 1003), in one critical section; its
    refusal carries the numbers (GAP-6). A pair that was not in table 108 is registered (801). A target of the open
    kinds is reserved on the array whose port ``via`` begins with. With ``lease_ns`` the reservation lapses unless it is
    made again in time (GAP-10). With ``sharing`` several connections share the new buffer ID (GAP-18). With
    ``expected_revision`` only while nothing in the pool has changed since. With ``relogin`` also beyond what a Fibre
    Channel login has granted: the link logs in again. The target's policy becomes automatic
    without a size, and manual with one.
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
        array, _ = holder(station, target, via)
    except InvalidRequest as error:
        if error.code is not Code.NOT_RESERVED:
            raise
        raise InvalidRequest(
            Code.INVALID_TARGET,
            f"{error} yet: to make the first, name the port pair that it goes over (--port-pair A,B)",
        ) from error
    manual_bytes = size_bytes if advice is None else None
    lease_s = None if lease_ns is None else max(1, lease_ns // _SECOND_NS)

    def also(transaction: Transaction, made: Target) -> policies.Changed:
        route = via or _own_pair(target)
        return policies.follow_size(transaction, station, made, route, manual_bytes, lease_s, by=by)

    answer = reserve_on(
        station,
        target,
        array,
        size_bytes,
        lease_ns=lease_ns,
        relogin=relogin,
        expected_revision=expected_revision,
        request_id=request_id,
        inputs=inputs_of(size_bytes, advice),
        by=by,
        cause=cause,
        sharing=sharing,
        via=None if via is None else via[0],
        also=also,
    )
    return Reserved(array=array, requested_bytes=size_bytes, answer=answer, advice=advice)


def reserve_on(
    station: Station,
    target: Target,
    array: str,
    size_bytes: int,
    *,
    inputs: Mapping[str, Any],
    by: str,
    cause: Cause = Cause.USER,
    lease_ns: int | None = None,
    relogin: bool = False,
    expected_revision: int | None = None,
    request_id: str | None = None,
    sharing: Sharing | None = None,
    via: str | None = None,
    also: Callable[[Transaction, Target], policies.Changed],
) -> BufferReserveResponse:
    """Steps 810-812 on an array that is known: M5 and M6. ``also`` is written with what they left."""
    peer = station.arrays[array]
    asked = Asked(
        verb="reserve",
        wish=Input.RESERVE,
        array=array,
        target=target,
        by=by,
        cause=cause,
        request_id=request_id or uuid.uuid4().hex,
        inputs=inputs,
    )
    request = BufferReserveRequest(
        target=target,
        requested_bytes=size_bytes,
        expected_revision=expected_revision,
        lease_ns=lease_ns,
        sharing=sharing,
        via=via,
        relogin=relogin,
    )
    lease_s = None if lease_ns is None else max(1, lease_ns // _SECOND_NS)

    def read(answer: BufferReserveResponse) -> Done:
        made = answer.target
        if made.buffer_id is None and answer.buffer_id is not None:
            pair = (made.local_port, made.remote_port)
            made = Target(TargetKind.CONNECTION, *pair, buffer_id=answer.buffer_id)

        return Done(
            target=made,
            happened=Input.GRANTED,
            previous_units=answer.previous_units,
            after={
                "requested_bytes": size_bytes,
                "reserved_units": answer.reserved_units,
                "reserved_bytes": answer.reserved_bytes,
                "epoch": answer.epoch,
                "lease_s": lease_s,
            },
            text=f"reserved {answer.reserved_units} units for {made} on array {array}",
            kind="reserved",
            also=lambda transaction: also(transaction, made),
        )

    return carry_out(
        station,
        asked,
        lambda: _answer(peer, request, asked.request_id, BufferReserveResponse, "reservation"),
        read,
    )


def update(
    station: Station,
    target: Target,
    *,
    via: Pair | None = None,
    size_bytes: int | None = None,
    relogin: bool = False,
    expected_revision: int | None = None,
    request_id: str | None = None,
    by: str = LOCAL_USER,
) -> Updated:
    """Steps 1202-1208: bring the reservation of ``target`` to ``size_bytes``, or to the recommended size.

    ``relogin``: as in :func:`reserve`. The target's policy becomes automatic without a size, and manual with one.
    """
    advice = None
    if size_bytes is None:
        advice = advise(station, target, via=via)
        size_bytes = advice.recommendation.reserve_bytes
    check_size(size_bytes)
    array, peer = holder(station, target, via)
    manual_bytes = size_bytes if advice is None else None

    def also(transaction: Transaction) -> policies.Changed:
        route = via or _own_pair(target)
        return policies.follow_size(transaction, station, target, route, manual_bytes, None, by=by)

    answer = bring_to(
        station,
        target,
        array,
        peer,
        size_bytes,
        inputs=inputs_of(size_bytes, advice),
        relogin=relogin,
        expected_revision=expected_revision,
        request_id=request_id,
        by=by,
        also=also,
    )
    return Updated(array=array, requested_bytes=size_bytes, answer=answer, advice=advice)


def bring_to(
    station: Station,
    target: Target,
    array: str,
    peer: Peer,
    size_bytes: int,
    *,
    inputs: Mapping[str, Any],
    by: str,
    cause: Cause = Cause.USER,
    verb: str = "update",
    message: Message | None = None,
    relogin: bool = False,
    expected_revision: int | None = None,
    epoch: int | None = None,
    request_id: str | None = None,
    resizes: bool = False,
    also: Also = _nothing,
) -> ReservedBufferUpdateResponse:
    """Steps 1206-1208 on an array that is known: M10 (or another ``message`` that M11 answers), and what it left.

    With ``resizes`` not for what has been released meanwhile: M10 would reserve it anew (step 1303).
    """
    request = message or ReservedBufferUpdateRequest(
        target=target,
        recommended_bytes=size_bytes,
        expected_revision=expected_revision,
        epoch=epoch,
        relogin=relogin,
    )
    asked = Asked(
        verb=verb,
        wish=Input.UPDATE,
        array=array,
        target=target,
        by=by,
        cause=cause,
        request_id=request_id or uuid.uuid4().hex,
        inputs=inputs,
        resizes=resizes,
    )

    def read(answer: ReservedBufferUpdateResponse) -> Done:
        after: dict[str, Any] = {
            "requested_bytes": size_bytes,
            "reserved_units": answer.reserved_units,
            "reserved_bytes": answer.reserved_bytes,
        }
        if answer.buffer_ids:
            after["buffer_ids"] = list(answer.buffer_ids)
        return Done(
            target=target,
            happened=Input.GRANTED,
            previous_units=answer.previous_units,
            after=after,
            text=f"{target} on array {array} has {answer.reserved_units} units, before {answer.previous_units}",
            kind="updated",
            remembered=not answer.buffer_ids,
            also=also,
        )

    return carry_out(
        station,
        asked,
        lambda: _answer(peer, request, asked.request_id, ReservedBufferUpdateResponse, "update"),
        read,
    )


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
    request = ReservationPreviewRequest(
        target=target, requested_bytes=size_bytes, via=None if via is None else via[0]
    )
    return Previewed(array=array, requested_bytes=size_bytes, answer=_previewed(peer, request), advice=advice)


def preview_release(
    station: Station, target: Target, *, via: Pair | None = None, drain: bool = False
) -> Previewed:
    """What giving the reservation of ``target`` up would do now; nothing changes anywhere.

    Raises the refusal that the release would get.
    """
    array, peer = holder(station, target, via)
    request = ReservationPreviewRequest(target=target, requested_bytes=0, release=True, drain=drain)
    return Previewed(array=array, requested_bytes=0, answer=_previewed(peer, request), advice=None)


def _previewed(peer: Peer, request: ReservationPreviewRequest) -> ReservationPreview:
    answer = peer.send(request)
    if not isinstance(answer, ReservationPreview):
        raise PeerUnreachable(peer.who, "its answer is no preview")
    return answer


def release(
    station: Station,
    target: Target,
    *,
    via: Pair | None = None,
    on: str | None = None,
    drain: bool = False,
    expected_revision: int | None = None,
    request_id: str | None = None,
    epoch: int | None = None,
    by: str = LOCAL_USER,
    cause: Cause = Cause.USER,
    inputs: Mapping[str, Any] | None = None,
    also: Also = _nothing,
) -> tuple[str, ReservationReleaseResponse]:
    """Give the reservation of ``target`` up; the array's name and its answer (GAP-4). Its policy stays.

    ``on`` names the array where it is known; with ``epoch`` only while it is the one made under that number, with
    ``expected_revision`` only while nothing in its pool has changed since.
    """
    array, peer = holder(station, target, via) if on is None else (on, station.arrays[on])
    asked = Asked(
        verb="release",
        wish=Input.RELEASE,
        array=array,
        target=target,
        by=by,
        cause=cause,
        request_id=request_id or uuid.uuid4().hex,
        inputs={"drain": drain, **(inputs or {})},
    )
    request = ReservationReleaseRequest(
        target=target, drain=drain, epoch=epoch, expected_revision=expected_revision
    )

    def read(answer: ReservationReleaseResponse) -> Done:
        text = f"released {answer.released_units} units of {target} on array {array}"
        if answer.draining_units:
            text += f", {answer.draining_units} more follow"
        return Done(
            target=target,
            happened=Input.DRAINS if answer.draining_units else Input.GRANTED,
            previous_units=answer.released_units + answer.draining_units,
            after={},
            text=text,
            kind="released",
            also=also,
        )

    return array, carry_out(
        station,
        asked,
        lambda: _answer(peer, request, asked.request_id, ReservationReleaseResponse, "release"),
        read,
    )


def check_size(size_bytes: int) -> None:
    """A size is positive (step 809: 'zero or less' is asked for again). Raises :class:`InvalidRequest`."""
    if not 0 < size_bytes < 2**63:
        raise InvalidRequest(Code.INVALID_SIZE, f"a size is a positive number of bytes, not {size_bytes}")


def inputs_of(size_bytes: int, advice: Advice | None) -> dict[str, Any]:
    """What a size came from, for the audit trail: the formula's inputs, or the size that somebody named."""
    if advice is None:
        return {"requested_bytes": size_bytes}
    channel = advice.channel
    return {
        "requested_bytes": size_bytes,
        "policy": advice.recommendation.policy,
        "bandwidth_bps": channel.bandwidth_bps,
        "rtt_ns": channel.rtt_ns,
        "sessions": channel.sessions,
        "connections_per_session": channel.connections_per_session,
        "unit_bytes": advice.recommendation.unit_bytes,
        "recommended_bytes": advice.recommendation.bytes,
        "measured_at": channel.measured_at,
        "stale": advice.stale,
    }


def _own_pair(target: Target) -> Pair | None:
    if target.local_port is None or target.remote_port is None:
        return None
    return target.local_port, target.remote_port


def _answer(peer: Peer, request: Message, request_id: str, kind: type[A], noun: str) -> A:
    answer = peer.send(request, request_id)
    if not isinstance(answer, kind):
        raise PeerUnreachable(peer.who, f"its answer is no {noun}")
    return answer
