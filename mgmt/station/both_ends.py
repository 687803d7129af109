"""Reserving at both ends of a pair, or at neither (GAP-26): hold here, hold there, then confirm both.

A hold cannot be refused for want of units when it is confirmed, and ends by itself. What remains is an array or a
station that fails in between; so before the first confirmation the ends are written down, and unless both are known to
be confirmed, each is brought back to what it was: at once where its array answers, else by the :class:`Settler` as
soon as it does, also after a restart of the station.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from credits.errors import Code, InvalidRequest, Refused
from credits.targets import Target, TargetKind, port_pair
from mgmt.http import PeerRefused, PeerUnreachable
from mgmt.messages import (
    BufferHoldRequest,
    BufferHoldResponse,
    BufferReserveResponse,
)
from mgmt.plain import to_plain
from mgmt.station import events, lifecycle, policies, trail
from mgmt.station.arrays import Site
from mgmt.station.context import LOCAL_USER, Station
from mgmt.station.database import StationStoreError, Transaction
from mgmt.station.lifecycle import Input
from mgmt.station.open_ends import VERB, confirm, hold_id, hold_request, settle, settle_ends, undo_end
from mgmt.station.records import Record, Stage
from mgmt.station.reservations import Reserved, check_size, inputs_of
from mgmt.station.sizes import Advice, advise
from mgmt.station.store import OpenEnd
from mgmt.station.turns import on_each

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BothReserved:
    """What both arrays granted: ``local`` for the pair, ``remote`` for the pair the other way round."""

    local: Reserved
    remote: Reserved
    advice: Advice | None


def reserve_both_ends(
    station: Station,
    target: Target,
    *,
    size_bytes: int | None = None,
    sessions: int | None = None,
    connections_per_session: int | None = None,
    lease_ns: int | None = None,
    by: str = LOCAL_USER,
) -> BothReserved:
    """Reserve ``size_bytes`` (or the recommended size) for a port pair, and for its mirror image on the other array.

    The remote array reserves for what it sends back over the same channel, by the same messages. Raises what the
    failing end says; both are then as they were, or are so as soon as an array that does not answer does.
    """
    if target.kind is not TargetKind.PORT_PAIR or target.local_port is None or target.remote_port is None:
        raise InvalidRequest(Code.INVALID_TARGET, f"both ends are reserved for a port pair, not for {target}")
    advice = None
    if size_bytes is None:
        advice = advise(station, target, sessions=sessions, connections_per_session=connections_per_session)
        size_bytes = advice.recommendation.reserve_bytes
    check_size(size_bytes)
    attempt = uuid.uuid4().hex
    mirrored = port_pair(target.remote_port, target.local_port)
    inputs = inputs_of(size_bytes, advice) | ({} if lease_ns is None else {"lease_ns": lease_ns})
    asked = _Asked(attempt, target, size_bytes, lease_ns, by, inputs)
    targets = (target, mirrored)
    sites = [station.arrays.with_port(str(end.local_port)) for end in targets]
    claims = on_each((site.array, end) for site, end in zip(sites, targets, strict=True))
    with (
        _alone(station, target),
        station.turns.take(f"both ends of {target}", claims),
        station.attempts.work_on(attempt),
    ):
        record = station.store.database.write(lambda t: _record(t, station, asked, Stage.ASKED))
        asked = replace(asked, number=record.number)
        ends = _hold_both(station, asked, sites, targets)
        answers = _confirm_both(station, asked, ends, automatic=advice is not None)
    for end in ends:
        station.inventory.mark_changed(end.array)
    local, remote = (
        Reserved(array=end.array, requested_bytes=size_bytes, answer=answer, advice=None)
        for end, answer in zip(ends, answers, strict=True)
    )
    return BothReserved(local=local, remote=remote, advice=advice)


@contextmanager
def _alone(station: Station, target: Target) -> Iterator[None]:
    """One attempt for a pair at a time, and none before what an earlier one has left is brought back.

    Each attempt remembers what was there before it, so two that overlapped could not both be undone. Raises
    :class:`Refused` (BUSY).
    """
    ports = {target.local_port, target.remote_port}
    with station.attempts.work_on(f"both ends of {','.join(sorted(map(str, ports)))}") as mine:
        if not mine:
            raise Refused(
                Code.BUSY, f"both ends of {target} are being reserved by another request; try again"
            )
        for last in (False, True):
            left = [end for end in station.store.open_ends() if {end.local_port, end.remote_port} == ports]
            if not left:
                break
            if last:
                raise Refused(
                    Code.BUSY,
                    f"array {left[0].array} has still to bring back its end of {target}, which an earlier request "
                    "has left; try again when it answers",
                )
            settle(station)
        yield


@dataclass(frozen=True, slots=True)
class _Asked:
    """What both arrays are asked for."""

    attempt: str
    target: Target
    size_bytes: int
    lease_ns: int | None
    by: str
    inputs: Mapping[str, Any]
    number: int | None = None
    """Of the record in the trail that says what is asked."""


def _hold_both(
    station: Station, asked: _Asked, sites: Sequence[Site], targets: Sequence[Target]
) -> list[OpenEnd]:
    """The holds, written down; or neither."""
    ends: list[OpenEnd] = []
    try:
        for site, target in zip(sites, targets, strict=True):
            request = hold_request(target, asked.size_bytes, asked.lease_ns)
            ends.append(_hold(site, asked.attempt, len(ends), request))
        station.store.put_ends(ends)
    except (PeerRefused, PeerUnreachable, InvalidRequest, StationStoreError) as error:
        detail = str(error)
        back = [undo_end(station, end) for end in ends]
        # What is not known to be void is voided by reconciliation, or ends by itself.
        certain = all(back) and not isinstance(error, PeerUnreachable)
        stage = Stage.REFUSED if certain else Stage.UNKNOWN
        if not isinstance(error, StationStoreError):
            station.store.database.write(lambda t: _record(t, station, asked, stage, detail=detail))
        raise
    return ends


def _record(
    transaction: Transaction,
    station: Station,
    asked: _Asked,
    stage: Stage,
    *,
    after: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
    detail: str = "",
) -> Record:
    return trail.append(
        transaction,
        station,
        VERB,
        stage,
        str(asked.target),
        by=asked.by,
        of=asked.number,
        target=asked.target,
        request_id=asked.attempt,
        inputs=asked.inputs,
        before=before,
        after=after,
        detail=detail,
    )


def _hold(site: Site, attempt: str, number: int, request: BufferHoldRequest) -> OpenEnd:
    try:
        answer = site.peer.send(request, hold_id(attempt, number))
    except PeerRefused as refusal:
        raise _neither(refusal, site.array) from refusal
    if not isinstance(answer, BufferHoldResponse):
        raise PeerUnreachable(site.peer.who, "its answer is no hold")
    return OpenEnd(
        attempt=attempt,
        number=number,
        array=site.array,
        hold=answer.hold,
        local_port=str(request.target.local_port),
        remote_port=str(request.target.remote_port),
        previous_bytes=answer.previous_bytes,
    )


def _confirm_both(
    station: Station, asked: _Asked, ends: Sequence[OpenEnd], *, automatic: bool
) -> list[BufferReserveResponse]:
    """Both reservations in the order of ``ends``; or neither.

    The far end goes first: it is the likelier one to be out of reach, and then nothing here has changed yet.
    """
    answers: list[BufferReserveResponse] = []
    for end in reversed(ends):
        try:
            answers.insert(0, confirm(station, end))
        except (PeerRefused, PeerUnreachable) as error:
            settle_ends(station, ends, str(error))
            if isinstance(error, PeerRefused):
                raise _neither(error, end.array) from error
            detail = (
                f"{error.detail}; neither end keeps a reservation: what array {end.array} may have confirmed"
            )
            raise PeerUnreachable(error.who, f"{detail} is undone as soon as it answers") from error
    try:
        station.store.database.write(
            lambda transaction: _conclude(transaction, station, asked, ends, answers, automatic=automatic)
        )
    except StationStoreError:
        settle_ends(station, ends)
        raise
    return answers


def _conclude(
    transaction: Transaction,
    station: Station,
    asked: _Asked,
    ends: Sequence[OpenEnd],
    answers: Sequence[BufferReserveResponse],
    *,
    automatic: bool,
) -> None:
    """Both are confirmed: the ends are finished, and what they have is known; all in one commit."""
    station.store.finish_ends(transaction, ends)
    route = (ends[0].local_port, ends[0].remote_port)
    lease_s = None if asked.lease_ns is None else max(1, asked.lease_ns // 10**9)
    after: dict[str, Any] = {}
    before: dict[str, Any] = {}
    policies_before: dict[str, Any] = {}
    for end, answer in zip(ends, answers, strict=True):
        values = {
            "requested_bytes": asked.size_bytes,
            "reserved_units": answer.reserved_units,
            "reserved_bytes": answer.reserved_bytes,
            "epoch": answer.epoch,
            "lease_s": lease_s,
        }
        target = port_pair(end.local_port, end.remote_port)
        lifecycle.put(
            transaction, station, end.array, target, (Input.RESERVE, Input.GRANTED), values, by=asked.by
        )
        size = None if automatic else asked.size_bytes
        changed = policies.follow_size(transaction, station, target, route, size, lease_s, by=asked.by)
        if changed is not None:
            policies_before[str(target)] = None if changed[0] is None else to_plain(changed[0])
        after[str(target)] = {"array": end.array, **values}
        before[str(target)] = {
            "requested_bytes": end.previous_bytes,
            "reserved_units": answer.previous_units,
        }
    asked = replace(asked, inputs={**asked.inputs, "policies_before": policies_before})
    _record(transaction, station, asked, Stage.DONE, before=before, after=after)
    units = ", ".join(
        f"{answer.reserved_units} on array {end.array}" for end, answer in zip(ends, answers, strict=True)
    )
    text = f"reserved at both ends of {asked.target}: units {units}"
    events.note(transaction, station, "reserved", str(asked.target), text, by=asked.by)


def _neither(refusal: PeerRefused, array: str) -> PeerRefused:
    detail = f"array {array}: {refusal}; nothing has changed at either end"
    return PeerRefused(refusal.code, refusal.title, detail, refusal.problem | {"detail": detail})
