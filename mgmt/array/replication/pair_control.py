"""Messages about pairs, turned into calls, and the groups' statuses."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from mgmt.array.replication.group import PrimaryGroup
from mgmt.array.replication.group_record import Fence, GroupRecord, Mode, PairRecord, RemotePlace
from mgmt.array.replication.pair_errors import PairRefused
from mgmt.array.replication.pair_state import PairState, Role
from mgmt.array.replication.pairs import Pairs
from mgmt.array.replication.secondary_group import SecondaryGroup
from mgmt.pair_messages import GroupStatus, PairCreateRequest, PairRequest, PairStatus, RemoteEnd
from mgmt.plain import BadMessage

_CONNECTIONS_LIMIT = 256
#: From worst to best: what one word says about a group.
_SEVERITY = (
    PairState.PSUE,
    PairState.SSWS,
    PairState.PSUS,
    PairState.COPY,
    PairState.PAIR,
    PairState.SMPL,
)

ReservedBytes = Callable[[GroupRecord], int]


def _place(end: RemoteEnd) -> RemotePlace:
    if not 0 <= end.port_number <= 65535:
        raise BadMessage(f"port_number is from 0 to 65535, not {end.port_number}")
    return RemotePlace(host=end.host, port=end.port_number, iqn=end.iqn, fc=end.link)


def record_of(request: PairCreateRequest) -> GroupRecord:
    """The group that a request asks for. BadMessage."""
    try:
        role, mode, fence = Role(request.role), Mode(request.mode), Fence(request.fence)
        group = uuid.UUID(request.group_id)
    except ValueError as error:
        raise BadMessage(str(error)) from None
    if request.sessions < 1 or request.connections_per_session < 1:
        raise BadMessage("a group has at least one session of at least one connection")
    if request.sessions * request.connections_per_session > _CONNECTIONS_LIMIT:
        raise BadMessage(f"a group has at most {_CONNECTIONS_LIMIT} connections")
    luns = [member.remote_lun for member in request.members] + [request.remote_journal_lun]
    if not all(0 <= lun <= 16383 for lun in luns) or len(set(luns)) < len(luns):
        raise BadMessage("the remote LUNs are different, and from 0 to 16383")
    if not 0 <= request.priority <= 255:
        raise BadMessage(f"priority is from 0 to 255, not {request.priority}")
    if fence is Fence.DATA and mode is not Mode.SYNC:
        raise BadMessage("fence data is for synchronous groups")
    pairs = tuple(
        PairRecord(volume=member.volume, remote_lun=member.remote_lun, state=PairState.COPY)
        for member in request.members
    )
    return GroupRecord(
        name=request.group,
        group=str(group),
        generation=1,
        role=role,
        mode=mode,
        fence=fence,
        remote=_place(request.remote),
        local_port=request.local_port,
        journal=request.journal,
        remote_journal_lun=request.remote_journal_lun,
        sessions=request.sessions,
        connections_per_session=request.connections_per_session,
        priority=request.priority,
        self_applying=request.self_applying,
        pairs=pairs,
        full=request.overwrite,
    )


class PairControl:
    """What the array's management agent does with pairs; called on the data loop."""

    def __init__(self, pairs: Pairs, reserved_bytes: ReservedBytes) -> None:
        self._pairs = pairs
        self._reserved_bytes = reserved_bytes

    async def create(self, request: PairCreateRequest) -> GroupStatus:
        """Make a group at this end. BadMessage, PairRefused."""
        await self._pairs.create(record_of(request))
        return self.status(request.group)

    async def carry_out(self, request: PairRequest) -> GroupStatus:
        """A wish about a group; its status afterwards. BadMessage, PairRefused, NoSuchGroup."""
        name, pairs = request.group, self._pairs
        match request.verb:
            case "status":
                pass
            case "split":
                await pairs.split(name)
            case "resync":
                await pairs.resync(name, full=request.full)
            case "takeover":
                await pairs.takeover(name, force=request.force)
            case "demote":
                await pairs.demote(name)
            case "promote":
                if request.remote is None:
                    raise BadMessage("promote says where the other array is now")
                await pairs.promote(name, _place(request.remote))
            case "delete":
                before = self.status(name)
                await pairs.delete(name)
                return before
            case _:
                raise BadMessage(f"there is no wish {request.verb!r:.40} about a group")
        return self.status(name)

    def status(self, name: str) -> GroupStatus:
        """One group. NoSuchGroup."""
        return self._status(self._pairs.get(name))

    def statuses(self) -> list[GroupStatus]:
        """Every group, by name."""
        return [self._status(group) for group in self._pairs.groups()]

    def _status(self, group: PrimaryGroup | SecondaryGroup) -> GroupStatus:
        record = group.record
        primary = group if isinstance(group, PrimaryGroup) else None
        links = None if primary is None else primary.links
        block = primary.superblock if primary is not None else group.superblock
        state = min((pair.state for pair in record.pairs), key=_SEVERITY.index)
        return GroupStatus(
            group=record.name,
            group_id=record.group.replace("-", ""),
            role=record.role.value,
            mode=record.mode.value,
            fence=record.fence.value,
            state=state.value,
            pairs=tuple(
                PairStatus(
                    volume=pair.volume,
                    remote_lun=pair.remote_lun,
                    state=pair.state.value,
                    total_bytes=group.stores[number].size_bytes,
                    dirty_bytes=group.dirty_bytes_of(number),
                )
                for number, pair in enumerate(record.pairs)
            ),
            generation=record.generation,
            epoch=0 if block is None else block.epoch,
            last_seq=0 if block is None else block.last_seq,
            newest_seq=0 if primary is None else primary.journal.last_seq,
            consistent=block is not None and block.consistent,
            connections=0 if links is None else links.connections,
            wanted_connections=record.sessions * record.connections_per_session,
            reserved_bytes=self._reserved_bytes(record),
            in_flight_bytes=0 if links is None else links.in_flight_bytes,
            journal_bytes=0 if primary is None else primary.journal.used_bytes,
            journal_capacity_bytes=0 if primary is None else primary.journal.capacity_bytes,
            rpo_bytes=0 if primary is None else primary.rpo_bytes(),
            rpo_ns=None if primary is None else primary.rpo_ns(),
            sent_bytes=0 if primary is None else primary.sent_bytes,
            resynced_bytes=0 if primary is None else primary.resynced_bytes,
            local_port=record.local_port,
            remote_port="" if record.remote is None else record.remote.host,
            delay_ns=0 if primary is None else self._pairs.delay_of(primary),
            held=record.held,
            error=record.error,
        )


def problem_code(error: PairRefused) -> str:
    """The word for machines of a refusal about pairs."""
    return f"PAIR_{error.code}"
