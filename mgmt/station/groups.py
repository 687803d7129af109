"""Consistency groups: making them at both arrays, and every verb sent to the end that it concerns.

The station keeps nothing about groups: the arrays do, and are asked. So a station that was killed in the middle of
something finds what there is, and the same wish can be made again.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from credits.errors import Code, InvalidRequest
from mgmt.http import PeerRefused, PeerUnreachable, ProblemError
from mgmt.messages import GroupStatus, PairCreateRequest, PairRequest, VolumeChecksums, VolumeChecksumsRequest
from mgmt.pair_messages import PairMember, RemoteEnd
from mgmt.station.arrays import Gathered, Site
from mgmt.station.context import Station
from mgmt.station.copies import CONNECTION_LIMIT, FC_PORT_NUMBER

P_VOL, S_VOL = "P-VOL", "S-VOL"
#: A split waits for what is on its way; a first connection for its login.
VERB_TIMEOUT_S = 70.0
CHECKSUM_TIMEOUT_S = 120.0
PIECE_BYTES = 1 << 20
PIECES = 64

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWish:
    """A group to be made: ports, volumes and the journal volume as (here, there)."""

    group: str
    ports: Pair
    volumes: Sequence[Pair]
    journal: Pair
    mode: str = "async"
    fence: str = "never"
    sessions: int = 1
    connections_per_session: int = 1
    priority: int = 0
    overwrite: bool = False


def create(station: Station, wish: GroupWish) -> list[dict[str, Any]]:
    """Make a group: the secondary first, then the primary; when that refuses, the secondary is dissolved again.

    Raises what the arrays refused, InvalidRequest, ProblemError; nothing is left behind then.
    """
    if wish.sessions * wish.connections_per_session > CONNECTION_LIMIT:
        raise InvalidRequest(Code.INVALID_SIZE, f"a group has at most {CONNECTION_LIMIT} connections")
    local, remote = (station.arrays.with_port(port, again=True) for port in wish.ports)
    if local.array == remote.array:
        raise ProblemError(
            "PAIR_LOOP",
            f"ports {wish.ports[0]} and {wish.ports[1]} are both of array {local.array}: a pair has two arrays",
            status=409,
            title="Not with this pair",
        )
    near = [local.volume(here) for here, _ in wish.volumes]
    far = [remote.volume(there) for _, there in wish.volumes]
    for here, there in zip(near, far, strict=True):
        _check_sizes(local, here, remote, there)
    journals = local.volume(wish.journal[0]), remote.volume(wish.journal[1])
    group_id = uuid.uuid4().hex

    def request(role: str) -> PairCreateRequest:
        first = role == P_VOL
        mine, other = (local, remote) if first else (remote, local)
        own, others = (near, far) if first else (far, near)
        return PairCreateRequest(
            group=wish.group,
            group_id=group_id,
            role=role,
            mode=wish.mode,
            fence=wish.fence,
            members=tuple(
                PairMember(volume=str(volume["name"]), remote_lun=other.lun(there))
                for volume, there in zip(own, others, strict=True)
            ),
            remote=_end(other),
            local_port=str(mine.port.get("address")),
            journal=str(journals[0 if first else 1]["name"]),
            remote_journal_lun=other.lun(journals[1 if first else 0]),
            sessions=wish.sessions,
            connections_per_session=wish.connections_per_session,
            priority=wish.priority,
            overwrite=wish.overwrite,
        )

    remote.peer.send(request(S_VOL), timeout_s=VERB_TIMEOUT_S)
    try:
        local.peer.send(request(P_VOL), timeout_s=VERB_TIMEOUT_S)
    except PeerRefused:
        remote.peer.send(PairRequest(group=wish.group, verb="delete"), timeout_s=VERB_TIMEOUT_S)
        raise
    return rows(station, wish.group).rows


def _check_sizes(local: Site, here: Mapping[str, Any], remote: Site, there: Mapping[str, Any]) -> None:
    if here.get("size_bytes") != there.get("size_bytes"):
        raise ProblemError(
            "PAIR_SIZE",
            f"the volumes differ in size: {here['name']} of array {local.array} has {here.get('size_bytes')} bytes, "
            f"{there['name']} of array {remote.array} has {there.get('size_bytes')}",
            status=409,
            title="Not with this pair",
        )


def _end(site: Site) -> RemoteEnd:
    address = str(site.port.get("address"))
    if site.port.get("kind") == "fc":
        link = str(site.port.get("link") or "")
        if not link:
            raise ProblemError(
                "NO_LINK",
                f"port {address} of array {site.array} only calls others: give its interface a link to listen at",
                status=409,
                title="Not with this pair",
            )
        return RemoteEnd(host=address, port_number=FC_PORT_NUMBER, iqn=address, link=link)
    iqn = str(site.port.get("copy_iqn") or site.port.get("iqn"))
    return RemoteEnd(host=address, port_number=site.iscsi_port, iqn=iqn)


def rows(station: Station, group: str | None = None) -> Gathered:
    """One row for each pair and end, of one group or of all, as far as the arrays answer."""
    gathered = station.arrays.gather("/v1/pairs")
    if group is None:
        return gathered
    return Gathered([row for row in gathered.rows if row.get("group") == group], gathered.down)


def _array_of(station: Station, group: str, role: str) -> str:
    """The array that has this end of the group. ProblemError, PeerUnreachable."""
    found = rows(station, group)
    for row in found.rows:
        if row.get("role") == role:
            return str(row["array"])
    if found.down:
        down = found.down[0]
        raise PeerUnreachable(f"array {down.array} at {down.address}", down.detail)
    if found.rows:
        raise ProblemError(
            "PAIR_WRONG_STATE",
            f"no array has the {role} of group {group}: both ends are {found.rows[0].get('role')}",
            status=409,
            title="Not with this pair",
        )
    raise ProblemError(
        "NOT_FOUND",
        f"there is no group {group!r:.80}: see `sancredit pair status`",
        status=404,
        title="No such group",
    )


def wish(station: Station, group: str, verb: str, *, full: bool = False, force: bool = False) -> GroupStatus:
    """``split``, ``resync``, ``takeover``, ``swap`` or ``delete``; the status of the end that acted.

    Raises what the array refused, ProblemError, PeerUnreachable.
    """
    if verb == "swap":
        return swap(station, group)
    if verb == "delete":
        return delete(station, group, force=force)
    array = _array_of(station, group, S_VOL if verb == "takeover" else P_VOL)
    return _send(station, array, PairRequest(group=group, verb=verb, full=full, force=force))


def _send(station: Station, array: str, request: PairRequest) -> GroupStatus:
    peer = station.arrays[array]
    answer = peer.send(request, timeout_s=VERB_TIMEOUT_S)
    if not isinstance(answer, GroupStatus):
        raise PeerUnreachable(peer.who, "its answer is no group status")
    return answer


def swap(station: Station, group: str) -> GroupStatus:
    """Change the direction: the primary becomes secondary, then the secondary primary.

    From PAIR nothing is copied; after a takeover what either end changed since is. Between the two steps neither end
    takes writes; when the second one fails, the same wish again, or a takeover, goes on from there.
    """
    ends = rows(station, group)
    by_role = {str(row.get("role")): row for row in ends.rows}
    secondaries = [row for row in ends.rows if row.get("role") == S_VOL]
    if P_VOL in by_role:
        old = str(by_role[P_VOL]["array"])
        new = _array_of(station, group, S_VOL)
        if by_role[S_VOL].get("group_state") not in ("PAIR", "SSWS"):
            raise ProblemError(
                "PAIR_WRONG_STATE",
                f"group {group} is {by_role[S_VOL].get('group_state')} at array {new}: it is swapped from PAIR, or "
                "from SSWS after a takeover",
                status=409,
                title="Not with this pair",
            )
        _send(station, old, PairRequest(group=group, verb="demote"))
    elif len({row["array"] for row in secondaries}) == 2:  # an earlier swap was broken off half way
        taken = [row for row in secondaries if row.get("group_state") == "SSWS"] or secondaries
        newest = max(taken, key=lambda row: -int(row.get("generation", 0)))
        new = str(newest["array"])
        old = next(str(row["array"]) for row in secondaries if row["array"] != new)
    else:
        new = _array_of(station, group, S_VOL)
        raise ProblemError(
            "PAIR_WRONG_STATE",
            f"only array {new} answers for group {group}: a swap needs both arrays",
            status=409,
            title="Not with this pair",
        )
    port = next(str(row.get("local_port")) for row in ends.rows if row["array"] == old)
    place = _end(station.arrays.with_port(port, again=True))
    return _send(station, new, PairRequest(group=group, verb="promote", remote=place))


def delete(station: Station, group: str, *, force: bool) -> GroupStatus:
    """Dissolve a group at both ends; with ``force`` at those that answer."""
    found = rows(station, group)
    if found.down and not force:
        down = found.down[0]
        raise PeerUnreachable(
            f"array {down.array} at {down.address}", f"{down.detail}; --force does without it"
        )
    arrays = sorted({str(row["array"]) for row in found.rows}, key=lambda array: _is_secondary(found, array))
    if not arrays:
        _array_of(station, group, P_VOL)
    answers = [_send(station, array, PairRequest(group=group, verb="delete")) for array in arrays]
    return answers[0]


def _is_secondary(found: Gathered, array: str) -> bool:
    return any(row["array"] == array and row.get("role") == S_VOL for row in found.rows)


@dataclass(frozen=True, slots=True)
class Compared:
    """Part of a comparison: from ``offset_bytes`` on so many bytes, and the pieces that differ."""

    volume: str
    offset_bytes: int
    compared_bytes: int
    total_bytes: int
    different: tuple[int, ...]


def compare(station: Station, group: str, volume: str, offset_bytes: int) -> Compared:
    """Compare some MiB of a P-VOL and its S-VOL by checksums that each array computes; only those travel.

    Asked again from where it ended, until ``offset_bytes + compared_bytes`` is ``total_bytes``.
    """
    ends = rows(station, group)
    primary = _array_of(station, group, P_VOL)
    secondary = _array_of(station, group, S_VOL)
    mine = [row for row in ends.rows if row["array"] == primary]
    other = [row for row in ends.rows if row["array"] == secondary]
    number = next((n for n, row in enumerate(mine) if row.get("volume") == volume), None)
    if number is None or number >= len(other):
        raise InvalidRequest(
            Code.INVALID_TARGET, f"group {group} has no volume {volume!r:.80} at array {primary}"
        )
    sides = ((primary, volume), (secondary, str(other[number].get("volume"))))
    answers = station.arrays.concurrently(
        [
            partial(
                station.arrays[array].send,
                VolumeChecksumsRequest(
                    volume=name, offset_bytes=offset_bytes, piece_bytes=PIECE_BYTES, pieces=PIECES
                ),
                timeout_s=CHECKSUM_TIMEOUT_S,
            )
            for array, name in sides
        ]
    )
    found: list[VolumeChecksums] = []
    for (array, _), answer in zip(sides, answers, strict=True):
        if isinstance(answer, PeerRefused | PeerUnreachable):
            raise answer
        if not isinstance(answer, VolumeChecksums):
            raise PeerUnreachable(station.arrays[array].who, "its answer is no checksums")
        found.append(answer)
    here, there = found
    pieces = max(len(here.checksums), len(there.checksums))
    end = min(offset_bytes + pieces * PIECE_BYTES, here.total_bytes)
    different = tuple(
        offset_bytes + piece * PIECE_BYTES
        for piece in range(pieces)
        if here.checksums[piece : piece + 1] != there.checksums[piece : piece + 1]
    )
    return Compared(volume, offset_bytes, end - offset_bytes, here.total_bytes, different)
