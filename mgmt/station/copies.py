"""Remote copies: starting (steps 813-814), status, stopping, and the proof that both disks are equal."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from credits.errors import Code, InvalidRequest, Refused
from credits.targets import Target, TargetKind, application, check_target, volume_group_pair, volume_pair
from mgmt.copy_rows import copy_row
from mgmt.http import PeerRefused, PeerUnreachable, ProblemError
from mgmt.messages import (
    CopyStartRequest,
    CopyStartResponse,
    CopyStatus,
    CopyStatusRequest,
    CopyStopRequest,
    VolumeDigest,
    VolumeDigestRequest,
)
from mgmt.station.arrays import Site
from mgmt.station.channels import Pair, counts, over, pair_of, register
from mgmt.station.context import Station
from mgmt.station.holders import with_pair
from mgmt.station.store import CopyRecord

#: Connections of one copy: sessions x connections per session. Each is one M7 under way.
CONNECTION_LIMIT = 256
#: The name by which remote copy claims a reservation for an application, unless told another (paragraph 102).
APPLICATION = "remote-copy"
#: An M7 is answered when its connection has logged in and its units are allocated.
START_TIMEOUT_S = 30.0
#: Fibre Channel ports have none; messages want one.
FC_PORT_NUMBER = 1
#: Both disks are read whole.
DIGEST_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A copy after its M7 requests: one answer for each connection that came up, one refusal for each that did not."""

    copy_id: str
    connections: tuple[CopyStartResponse, ...]
    refusals: tuple[PeerRefused | PeerUnreachable, ...]


def start(
    station: Station,
    target: Target,
    volume: str,
    *,
    via: Pair | None = None,
    remote_volume: str | None = None,
    application_name: str = APPLICATION,
    volume_groups: Pair | None = None,
    sessions: int | None = None,
    connections_per_session: int | None = None,
    copy_id: str | None = None,
) -> Started:
    """Step 813: M7 for every connection of every session, all at once; step 814 is the array's.

    ``target`` names the port pair (with port number or buffer ID where the reservation has one), or an open kind with
    the pair in ``via``. Besides it the copy claims every open kind that it matches: its volumes, the groups they are
    in where ``volume_groups`` names them, and the application; the most specific that is reserved serves it (GAP-24,
    paragraph 102). The remote end is the
    iSCSI target at the remote port; the remote volume has the name of the local one unless ``remote_volume`` says
    another. Raises the first refusal when no connection came up; some refused and some up is an answer (GAP-9).
    """
    target = with_pair(station, target)
    claims = _claims(target, (volume, remote_volume or volume), application_name, volume_groups)
    route = over(target, via)
    local_port, _ = pair_of(route)
    channel = register(station, route, sessions=sessions, connections_per_session=connections_per_session)
    sessions, connections_per_session = _counts(channel, target, sessions, connections_per_session)
    local = station.arrays.with_port(local_port, again=True)
    remote = station.arrays.with_port(channel.remote_port, again=True)
    near, far = local.volume(volume), remote.volume(remote_volume or volume)
    _check_room(local, near, remote, far)
    record = CopyRecord(
        copy_id=copy_id or f"copy-{uuid.uuid4().hex[:12]}",
        array=local.array,
        remote_array=remote.array,
        volume=volume,
        remote_volume=str(far["name"]),
        local_port=local_port,
        remote_port=channel.remote_port,
        started_at=station.utc_now().isoformat(timespec="milliseconds"),
    )
    with station.store.exclusive():
        if record.copy_id in station.store.copies():
            raise Refused(Code.BUSY, f"there is a copy {record.copy_id} already")
        station.store.put_copy(record)
    link = str(remote.port.get("link")) if remote.port.get("kind") == "fc" else None
    requests = [
        CopyStartRequest(
            copy_id=record.copy_id,
            target=target,
            volume=volume,
            remote_host=str(remote.port.get("address")),
            remote_port_number=remote.iscsi_port if link is None else FC_PORT_NUMBER,
            remote_iqn=str(remote.port.get("copy_iqn") or remote.port.get("iqn")),
            remote_link=link,
            remote_lun=remote.lun(far),
            sessions=sessions,
            connections_per_session=connections_per_session,
            session=session,
            connection=connection,
            buffer_id=target.buffer_id,
            claims=claims,
        )
        for session in range(sessions)
        for connection in range(connections_per_session)
    ]

    def send(request: CopyStartRequest) -> Any:
        key = f"{request.copy_id}/{request.session}/{request.connection}"
        try:
            return local.peer.send(request, key, timeout_s=START_TIMEOUT_S)
        except (PeerRefused, PeerUnreachable) as error:
            return error

    # Threads of their own: all M7 of a copy must be under way together, whatever else the station does.
    with ThreadPoolExecutor(len(requests), thread_name_prefix=record.copy_id) as pool:
        answers = list(pool.map(send, requests))
    up = tuple(answer for answer in answers if isinstance(answer, CopyStartResponse))
    refusals = tuple(answer for answer in answers if isinstance(answer, PeerRefused | PeerUnreachable))
    if refusals and not up:
        if all(isinstance(refusal, PeerRefused) for refusal in refusals):
            station.store.remove_copy(record.copy_id)  # it is certain that nothing runs
        raise refusals[0]
    return Started(copy_id=record.copy_id, connections=up, refusals=refusals)


def _check_room(local: Site, near: Mapping[str, Any], remote: Site, far: Mapping[str, Any]) -> None:
    """The remote volume holds the local one, as far as both arrays say their sizes; they check it again."""
    wanted, there = near.get("size_bytes"), far.get("size_bytes")
    if type(wanted) is int and type(there) is int and there < wanted:
        raise ProblemError(
            "VOLUME_TOO_SMALL",
            f"volume {far['name']} of array {remote.array} has {there} bytes, {wanted - there} too few for volume "
            f"{near['name']} of array {local.array} with {wanted}: make it larger, or name another (--remote-volume)",
            status=409,
            title="The remote volume is too small",
        )


def _claims(target: Target, volumes: Pair, name: str, groups: Pair | None) -> tuple[Target, ...]:
    """The open kinds that a copy of ``volumes`` matches; an open ``target`` is the one of its kind."""
    pair = volume_pair(*volumes)
    if target.kind is TargetKind.VOLUME_PAIR and target != pair:
        raise InvalidRequest(Code.INVALID_TARGET, f"this is a copy of {pair}, not of {target}")
    matched = [pair, application(name)]
    if groups is not None:
        matched.append(volume_group_pair(*groups))
    for claim in matched:
        check_target(claim)
    return tuple(claim for claim in matched if claim.kind is not target.kind)


def _counts(channel: Any, target: Target, sessions: int | None, connections: int | None) -> tuple[int, int]:
    """The counts asked for, else those of table 108; a shared buffer ID may be given more than one connection."""
    registered = counts(channel, target)
    wanted = (sessions or registered[0], connections or registered[1])
    if wanted[0] * wanted[1] > CONNECTION_LIMIT:
        raise InvalidRequest(
            Code.INVALID_SIZE,
            f"a copy has at most {CONNECTION_LIMIT} connections, not {wanted[0] * wanted[1]}",
        )
    return wanted


def record_of(station: Station, copy_id: str) -> CopyRecord:
    """The copy ``copy_id``. Raises :class:`ProblemError`."""
    record = station.store.copies().get(copy_id)
    if record is None:
        raise ProblemError(
            "NOT_FOUND",
            f"this station has started no copy {copy_id!r}: see `sancredit get copies`",
            status=404,
            title="No such copy",
        )
    return record


def status(station: Station, copy_id: str) -> CopyStatus:
    """How far the copy is, from its array."""
    return _status(station, record_of(station, copy_id), CopyStatusRequest(copy_id=copy_id))


def stop(station: Station, copy_id: str) -> CopyStatus:
    """Stop the copy; its units return to the reservation (GAP-4)."""
    return _status(station, record_of(station, copy_id), CopyStopRequest(copy_id=copy_id))


def _status(station: Station, record: CopyRecord, request: CopyStatusRequest | CopyStopRequest) -> CopyStatus:
    peer = station.arrays[record.array]
    answer = peer.send(request)
    if not isinstance(answer, CopyStatus):
        raise PeerUnreachable(peer.who, "its answer is no copy status")
    return answer


def row(station: Station, status: CopyStatus) -> dict[str, Any]:
    """One copy as a row of ``get copies`` has it, with the names of both arrays."""
    record = record_of(station, status.copy_id)
    return copy_row(record.array, status) | {"remote_array": record.remote_array}


def verify(station: Station, copy_id: str) -> tuple[VolumeDigest, VolumeDigest]:
    """SHA-256 of the volume on the local and on the remote array's disk, computed there."""
    record = record_of(station, copy_id)
    sides = ((record.array, record.volume), (record.remote_array, record.remote_volume))
    answers = station.arrays.concurrently(
        [
            partial(
                station.arrays[array].send, VolumeDigestRequest(volume=volume), timeout_s=DIGEST_TIMEOUT_S
            )
            for array, volume in sides
        ]
    )
    digests = []
    for (array, _), answer in zip(sides, answers, strict=True):
        if isinstance(answer, PeerRefused | PeerUnreachable):
            raise answer
        if not isinstance(answer, VolumeDigest):
            raise PeerUnreachable(station.arrays[array].who, "its answer is no digest")
        digests.append(answer)
    return digests[0], digests[1]
