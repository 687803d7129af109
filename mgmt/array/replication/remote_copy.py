"""Remote copy 103: takes the start requests M7, allocates M8, and keeps the copies (steps 813 to 815)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from credits.allocation import Allocation
from credits.errors import Code, CreditError, InvalidRequest, Refused
from credits.targets import (
    Target,
    TargetKind,
    by_precedence,
    check_target,
    connection,
    port_pair,
    port_pair_number,
)
from mgmt.array.description import CopyConfig
from mgmt.array.replication.engine import Progress, RunningCopy, share
from mgmt.array.replication.job import CopyJob, JobStatistics, Slot, StartRefused, State
from mgmt.array.replication.transport import CopyTransport, LinkLost, RemoteRefused
from mgmt.array.replication.usage_follower import UsageFollower
from mgmt.array.volumes import Volumes
from mgmt.messages import BadMessage, CopyStartRequest, CopyStartResponse, CopyStatus

#: So many copies are remembered; finished ones are forgotten first come, first gone.
COPIES_LIMIT = 64
#: Bounds what one start request may make the array hold.
CONNECTIONS_LIMIT = 256
#: The predetermined number of units where nobody reserved and nobody set one (GAP-16).
UNRESERVED_UNITS = 16
#: How often a copy that waits for another's units looks again.
_MAKING_ROOM_S = 0.02
#: How long it waits for one that is beginning just now.
_BEGINNING_S = 0.5
MODE = "initial"
#: The kinds that a start request may match besides its target (paragraph 102).
OPEN_KINDS = frozenset((TargetKind.APPLICATION, TargetKind.VOLUME_PAIR, TargetKind.VOLUME_GROUP_PAIR))


class NoSuchCopy(LookupError):
    """There is no copy of this name."""


class CopyBuffers(Protocol):
    """What remote copy needs of the communication interface: M8, and the size of a reservation."""

    def allocate(self, claims: Sequence[Target], units: int, *, holder: str, at_most: bool) -> Allocation:
        """Units from the most specific reservation among ``claims``, else from the free list (figure 8)."""
        ...

    def reserved_units(self, claims: Sequence[Target]) -> int:
        """Units of the reservation that would serve ``claims``; 0 when there is none."""
        ...

    def idle_buffer_id(self, local_port: str, remote_port: str) -> int | None:
        """A buffer ID of the port pair that nobody uses, or ``None``."""
        ...

    def reserved_bytes(self, claims: Sequence[Target]) -> int:
        """The same as :meth:`reserved_units`, in bytes."""
        ...


@dataclass(frozen=True, slots=True)
class CopyRecord:
    """A copy as it was asked for, and as it runs."""

    request: CopyStartRequest
    local_port: str
    remote_port: str
    claims: tuple[Target, ...]
    running: RunningCopy


class RemoteCopy:
    """The copies of one array. Lives on the data loop; nothing in it blocks.

    ``earlier`` are the copies of earlier runs of the array; they are over.
    """

    def __init__(
        self,
        *,
        local_port: str,
        buffers: CopyBuffers,
        volumes: Volumes,
        transport: Callable[[CopyStartRequest], CopyTransport],
        config: CopyConfig,
        executor: Executor,
        clock: Callable[[], int] = time.monotonic_ns,
        earlier: Sequence[CopyStatus] = (),
    ) -> None:
        self._earlier = {status.copy_id: status for status in earlier[-COPIES_LIMIT:]}
        self._local_port = local_port
        self._buffers = buffers
        self._volumes = volumes
        self._transport = transport
        self._config = config
        self._executor = executor
        self._clock = clock
        self._copies: dict[str, CopyRecord] = {}
        self._served: dict[str, Target] = {}
        self._endings: set[asyncio.Task[None]] = set()

    async def start(self, request: CopyStartRequest) -> CopyStartResponse:
        """Start one connection of one session (M7): allocate its units, connect it, hand it to its copy.

        Raises :class:`BadMessage` for a request that does not fit, :class:`CreditError` where the volume is
        unknown, the units are not to be had (with the numbers) or the remote array is not reached.
        """
        record = self._record(request)
        slot = Slot(request.session, request.connection)
        try:
            record.running.request(slot)
        except StartRefused as error:
            raise BadMessage(f"copy {request.copy_id}: {error}") from None
        try:
            allocation = await self._allocated(record, slot)
        except CreditError as error:
            record.running.refused(slot, str(error))
            raise
        response = CopyStartResponse(
            copy_id=request.copy_id,
            session=slot.session,
            connection=slot.connection,
            buffer_address=allocation.address,
            allocated_units=allocation.units,
            allocated_bytes=allocation.bytes,
        )
        try:
            await record.running.connect(slot, allocation)
        except (LinkLost, RemoteRefused) as error:
            raise CreditError(Code.UNREACHABLE, f"{slot} of copy {request.copy_id}: {error}") from None
        return response

    async def stop(self, copy_id: str) -> CopyStatus:
        """Stop a copy and wait until its units are back (GAP-4). :class:`NoSuchCopy`."""
        if (over := self._earlier.get(copy_id)) is not None:
            return over
        record = self._get(copy_id)
        record.running.stop()
        await record.running.finished.wait()
        return self._status(copy_id, record)

    def reservations_changed(self) -> None:
        """A reservation was updated: running copies follow at once (paragraph 97).

        Where the predetermined number is set, nobody gets more or less than that.
        """
        if self._config.allocation_units is not None:
            return
        for copy_id, record in self._copies.items():
            if not record.running.state.final:
                record.running.resize(partial(self._part, copy_id))

    def status(self, copy_id: str) -> CopyStatus:
        """How far a copy is. :class:`NoSuchCopy`."""
        return self._earlier.get(copy_id) or self._status(copy_id, self._get(copy_id))

    def statuses(self) -> list[CopyStatus]:
        """Every copy that is remembered, oldest first."""
        return [status for status, _ in self.progress()]

    def progress(self) -> list[tuple[CopyStatus, Progress | None]]:
        """Every copy that is remembered, oldest first; those of earlier runs without their progress."""
        earlier: list[tuple[CopyStatus, Progress | None]] = [
            (status, None) for status in self._earlier.values()
        ]
        return earlier + [
            (self._status(copy_id, record), record.running.progress())
            for copy_id, record in self._copies.items()
        ]

    async def close(self) -> None:
        """Stop everything and wait until every unit is back."""
        for ending in self._endings:
            ending.cancel()
        await asyncio.gather(*self._endings, return_exceptions=True)
        for record in self._copies.values():
            record.running.stop()
        for record in self._copies.values():
            await record.running.finished.wait()

    def _get(self, copy_id: str) -> CopyRecord:
        record = self._copies.get(copy_id)
        if record is None:
            raise NoSuchCopy(f"there is no copy {copy_id!r:.80} here")
        return record

    def _record(self, request: CopyStartRequest) -> CopyRecord:
        """The copy that ``request`` belongs to, made by the first request that names it."""
        record = self._copies.get(request.copy_id)
        if record is None:
            record = self._new_record(request)
            self._copies[request.copy_id] = record
            self._serve(record)
        elif _essentials(record.request) != _essentials(request):
            raise BadMessage(f"copy {request.copy_id} was started with other parameters")
        return record

    def _new_record(self, request: CopyStartRequest) -> CopyRecord:
        _check(request)
        if (over := self._earlier.get(request.copy_id)) is not None:
            raise BadMessage(
                f"copy {request.copy_id} is {over.state} since before a restart; take a new name"
            )
        for target in (request.target, *request.claims):
            check_target(target)
            if (
                target.kind is TargetKind.VOLUME_PAIR
                and (target.name or "").partition(",")[0] != request.volume
            ):
                raise InvalidRequest(
                    Code.INVALID_TARGET, f"{target} does not serve a copy of volume {request.volume:.80}"
                )
        volume = self._volumes.get(request.volume)
        if volume is None:
            raise InvalidRequest(
                Code.INVALID_TARGET,
                f"there is no volume {request.volume!r:.80} here; there are: {self._volumes.names()}",
            )
        self._forget_one()
        local_port = request.target.local_port or self._local_port
        remote_port = request.target.remote_port or request.remote_host
        claims = self._claims(request, local_port, remote_port)
        job = CopyJob(
            total_bytes=volume.size_bytes,
            extent_bytes=self._config.extent_bytes,
            sessions=request.sessions,
            connections_per_session=request.connections_per_session,
            gather_deadline_ns=self._clock() + self._config.gather_ns,
        )
        running = RunningCopy(job, volume.store, self._transport(request), self._executor, self._clock)
        if self._config.usage is not None:
            follower = UsageFollower(
                self._config.usage,
                running.links_up,
                partial(self._part, request.copy_id),
                self._clock,
            )
            running.accompany(follower.run())
        return CopyRecord(request, local_port, remote_port, claims, running)

    def _claims(self, request: CopyStartRequest, local_port: str, remote_port: str) -> tuple[Target, ...]:
        """The targets that M8 asks with: all that M7 names, the pair with its number, and the pair (GAP-24)."""
        claims = {
            port_pair_number(local_port, remote_port, request.remote_port_number): None,
            port_pair(local_port, remote_port): None,
        } | dict.fromkeys(request.claims)
        buffer_id = request.buffer_id
        if request.target.kind is not TargetKind.CONNECTION:
            claims[request.target] = None
        elif buffer_id is None:
            buffer_id = request.target.buffer_id or self._buffers.idle_buffer_id(local_port, remote_port)
        if buffer_id is not None:
            claims[connection(buffer_id)] = None
        return by_precedence(claims)

    def _forget_one(self) -> None:
        if len(self._copies) + len(self._earlier) < COPIES_LIMIT:
            return
        if self._earlier:
            del self._earlier[next(iter(self._earlier))]
            return
        over = next((copy_id for copy_id, record in self._copies.items() if record.running.state.final), None)
        if over is None:
            raise Refused(Code.BUSY, f"{COPIES_LIMIT} copies are running here; stop one or wait")
        del self._copies[over]
        self._served.pop(over, None)

    # -- copies that draw on one reservation ---------------------------------------------------------------------

    def _serve(self, record: CopyRecord) -> None:
        """Remember which reservation serves the copy; others that draw on it make room, and get it back at its end."""
        copy_id = record.request.copy_id
        served = next((claim for claim in record.claims if self._buffers.reserved_units((claim,))), None)
        if served is None or self._config.allocation_units is not None:
            return
        self._served[copy_id] = served
        if len(self._sharers(served)) > 1:
            self.reservations_changed()
        ending = asyncio.create_task(self._share_out_at_the_end(record, served))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _share_out_at_the_end(self, record: CopyRecord, served: Target) -> None:
        await record.running.finished.wait()
        if self._sharers(served):
            self.reservations_changed()

    def _sharers(self, target: Target) -> dict[str, int]:
        """The copies that draw on a reservation, and how many connections each was asked to have."""
        return {
            copy_id: record.request.sessions * record.request.connections_per_session
            for copy_id, record in self._copies.items()
            if self._served.get(copy_id) == target and not record.running.state.final
        }

    def _part(self, copy_id: str, target: Target) -> int:
        """Units of a reservation that are a copy's: by its connections among those of all copies that draw on it."""
        units = self._buffers.reserved_units((target,))
        sharers = self._sharers(target)
        if copy_id not in sharers:
            return units
        before, connections = 0, sum(sharers.values())
        for sharer, count in sharers.items():
            if sharer == copy_id:
                return units * (before + count) // connections - units * before // connections
            before += count
        return units

    async def _allocated(self, record: CopyRecord, slot: Slot) -> Allocation:
        """M8; where another copy still holds the units, it is waited for as it gives them back."""
        copy_id, began_ns = record.request.copy_id, self._clock()
        while True:
            try:
                return self._allocate(record, slot)
            except Refused as refusal:
                patience_ns = self._patience_ns(copy_id)
                if refusal.code != Code.OVER_RESERVATION or self._clock() - began_ns >= patience_ns:
                    raise
            await asyncio.sleep(_MAKING_ROOM_S)

    def _patience_ns(self, copy_id: str) -> int:
        """How long others may take to make room: as long as a connection may take to come up, where they are running
        and there is a unit for each connection; a moment, where they are only about to."""
        served = self._served.get(copy_id)
        if served is None:
            return 0
        sharers = self._sharers(served)
        if len(sharers) < 2 or self._buffers.reserved_units((served,)) < sum(sharers.values()):
            return 0
        states = {self._copies[other].running.state for other in sharers if other != copy_id}
        return int((self._config.connect_timeout_s if State.COPYING in states else _BEGINNING_S) * 1e9)

    def _allocate(self, record: CopyRecord, slot: Slot) -> Allocation:
        """M8 (step 814): the predetermined number, capped at what is left (GAP-16).

        With or without a reservation, this is the one way; what differs is the list the units come from.
        """
        holder = f"copy {record.request.copy_id} {slot}"
        units = self._predetermined_units(record, slot)
        return self._buffers.allocate(record.claims, units, holder=holder, at_most=True)

    def _predetermined_units(self, record: CopyRecord, slot: Slot) -> int:
        """The setting, or an even share of the reservation: rounded up for the first connections only.

        Rounding every share up would leave the last connections of a small reservation without any.
        """
        if self._config.allocation_units is not None:
            return self._config.allocation_units
        reserved = self._buffers.reserved_units(record.claims)
        if not reserved:
            return UNRESERVED_UNITS
        served = self._served.get(record.request.copy_id)
        if served is not None:
            reserved = self._part(record.request.copy_id, served)
        connections = record.request.sessions * record.request.connections_per_session
        number = slot.session * record.request.connections_per_session + slot.connection
        return max(1, share(reserved, number, connections))

    def _status(self, copy_id: str, record: CopyRecord) -> CopyStatus:
        progress = record.running.progress()
        job = progress.job
        return CopyStatus(
            copy_id=copy_id,
            local_port=record.local_port,
            remote_port=record.remote_port,
            volume=record.request.volume,
            mode=MODE,
            state=job.state.value,
            connections=job.started if job.state.final else job.connections,
            total_bytes=job.total_bytes,
            copied_bytes=job.acknowledged_bytes + job.outstanding_bytes,
            acknowledged_bytes=job.acknowledged_bytes,
            in_flight_bytes=progress.in_flight_bytes,
            reserved_bytes=self._buffers.reserved_bytes(record.claims),
            seconds=progress.elapsed_ns / 1e9,
            goodput_bps=progress.goodput_bps,
            error=_with_next_step(record.request, job),
        )


def _with_next_step(request: CopyStartRequest, job: JobStatistics) -> str:
    """The error of a copy; one that had begun to run says where the other side is, and what to do."""
    if job.state is not State.FAILED or not job.started:
        return job.error
    return (
        f"{job.error}; the remote end is port {request.remote_host} (iscsi://{request.remote_host}:"
        f"{request.remote_port_number}/{request.remote_iqn}): start the copy again when its array is in order"
    )


def _check(request: CopyStartRequest) -> None:
    if not 1 <= len(request.copy_id) <= 128 or not request.copy_id.isprintable():
        raise BadMessage("copy_id is a printable text of 1 to 128 characters")
    if request.sessions < 1 or request.connections_per_session < 1:
        raise BadMessage("a copy has at least one session of at least one connection")
    if request.sessions * request.connections_per_session > CONNECTIONS_LIMIT:
        raise BadMessage(f"a copy has at most {CONNECTIONS_LIMIT} connections")
    if not 1 <= request.remote_port_number <= 65535:
        raise BadMessage(f"remote_port_number is from 1 to 65535, not {request.remote_port_number}")
    if not 0 <= request.remote_lun <= 16383:
        raise BadMessage(f"remote_lun is from 0 to 16383, not {request.remote_lun}")
    kinds = [claim.kind for claim in request.claims]
    if len(set(kinds)) < len(kinds) or not OPEN_KINDS.issuperset(kinds):
        raise BadMessage(f"claims has at most one target of each of {', '.join(sorted(OPEN_KINDS))}")


def _essentials(request: CopyStartRequest) -> tuple[object, ...]:
    """What all start requests of one copy share."""
    return (
        request.target,
        request.volume,
        request.remote_host,
        request.remote_port_number,
        request.remote_iqn,
        request.remote_lun,
        request.sessions,
        request.connections_per_session,
        request.buffer_id,
        request.claims,
    )
