"""Remote copy over iSCSI: sessions of several connections (MC/S, RFC 7143 section 4.2.2) to the remote array's target.

Each connection's bytes live in the memory buffers that were allocated for it until the remote array's TCP has
acknowledged them. At error recovery level 0 the loss of one connection ends its session; the other sessions of
the copy go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from credits.allocation import Allocation
from credits.durable import DurablePool
from credits.memory import UnitMemory
from iscsi_target.errors import CommandFailed, ConnectionLost, IscsiError, LoginFailed, NegotiationError
from iscsi_target.initiator import Initiator
from iscsi_target.session.chap import Chap
from iscsi_target.session.parameters import Parameters
from iscsi_target.tcp import ReservedTcpConnection, connect_socket
from iscsi_target.wire.opcodes import LoginStatus
from mgmt.array.replication.job import Slot
from mgmt.array.replication.transport import Buffer, LinkLost, LinkTraffic, RemoteRefused, ScsiOutcome

_Connect = Callable[[str, int], Awaitable[ReservedTcpConnection]]

#: Writes under way beyond those whose bytes fill the reserved buffers: one is answered, one is being read.
_AHEAD = 4
_OUTSTANDING_LIMIT = 64
_COMMAND_TIMEOUT_S = 120.0
_LOGOUT_TIMEOUT_S = 2.0
_PROVE_YOURSELF = (
    "copies go to a target with the arrays' secret (the same --chap-file at both, and the name that ends in :copy); "
    "for a target that has none, such as another maker's, start this array with --no-chap"
)
#: A peer whose TCP acknowledges nothing for so long is gone.
_SILENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The remote logical unit, the path to it, and how it is written."""

    local_address: str
    host: str
    port: int
    target_iqn: str
    lun: int
    initiator_iqn: str
    connections_per_session: int
    extent_bytes: int
    connect_timeout_s: float
    session_name: str | None = None
    """Makes the sessions' ISIDs: who connects again under the same name ends what is left of its sessions there."""
    silence_s: float = _SILENCE_S
    digests: bool = False
    chap: Chap | None = None
    """How this array proves itself, and what it wants proven."""
    congestion: str = ""
    """TCP_CONGESTION of the connections; empty: the system's."""


@dataclass(slots=True)
class _Session:
    """One iSCSI session; ``initiator`` is there once the leading connection is logged in."""

    leading: asyncio.Lock = field(default_factory=asyncio.Lock)
    closing: asyncio.Lock = field(default_factory=asyncio.Lock)
    initiator: Initiator | None = None
    block_bytes: int = 0
    capacity_bytes: int = 0
    closed: bool = False

    async def close(self) -> None:
        """Log out where that is still possible, and drop every connection."""
        async with self.closing:
            if self.closed or self.initiator is None:
                return
            self.closed = True
            try:
                async with asyncio.timeout(_LOGOUT_TIMEOUT_S):
                    await self.initiator.logout()
            except (TimeoutError, IscsiError):  # a peer that is gone needs no goodbye
                pass
            finally:
                await self.initiator.abort()


class IscsiCopyTransport:
    """Implements :class:`~mgmt.array.replication.transport.CopyTransport` for one copy."""

    def __init__(self, destination: Destination, pool: DurablePool, memory: UnitMemory) -> None:
        self._destination = destination
        self._pool = pool
        self._memory = memory
        self._sessions: dict[int, _Session] = {}

    async def connect(self, slot: Slot, allocation: Allocation) -> IscsiCopyLink:
        """Log ``slot`` in; the first of its session is the leading connection, whichever number it has."""
        session = self._sessions.setdefault(slot.session, _Session())
        with _Translating(self._destination), contextlib.ExitStack() as undo:
            undo.callback(self._pool.free, allocation)
            streams: list[ReservedTcpConnection] = []

            async def open_stream(host: str, port: int) -> ReservedTcpConnection:
                stream = await self._open_stream(host, port, allocation)
                streams.append(stream)
                undo.callback(stream.abort)
                return stream

            async with asyncio.timeout(self._destination.connect_timeout_s):
                initiator = await self._log_in(session, slot, open_stream)
            undo.pop_all()
        units = _LinkUnits(streams[0], allocation, self._pool, self._memory)
        return IscsiCopyLink(session, initiator, slot, self._destination, units)

    async def _open_stream(self, host: str, port: int, allocation: Allocation) -> ReservedTcpConnection:
        sock = await connect_socket(
            host,
            port,
            timeout_s=self._destination.connect_timeout_s,
            source_host=self._destination.local_address,
            congestion=self._destination.congestion,
        )
        silence_s = self._destination.silence_s
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence_s * 1000))
        return ReservedTcpConnection(sock, self._memory.slices(allocation), stall_timeout_s=silence_s)

    async def _log_in(self, session: _Session, slot: Slot, connect: _Connect) -> Initiator:
        async with session.leading:
            if session.initiator is None:
                return await self._lead(session, slot, connect)
            initiator = session.initiator
        await initiator.add_connection(slot.connection, connect=connect)
        return initiator

    async def _lead(self, session: _Session, slot: Slot, connect: _Connect) -> Initiator:
        destination = self._destination
        digest = ("CRC32C", "None") if destination.digests else ("None", "CRC32C")
        try:
            initiator = await Initiator.login(
                destination.host,
                destination.port,
                destination.target_iqn,
                initiator_iqn=destination.initiator_iqn,
                isid=_isid(destination.session_name, slot.session),
                cid=slot.connection,
                parameters=Parameters(
                    max_connections=destination.connections_per_session,
                    header_digest=digest,
                    data_digest=digest,
                ),
                connect=connect,
                chap=destination.chap,
                timeout_s=_COMMAND_TIMEOUT_S,
            )
        except (NegotiationError, LoginFailed) as error:
            refused = getattr(error, "status", LoginStatus.AUTHENTICATION_FAILURE)
            if destination.chap is None or refused != LoginStatus.AUTHENTICATION_FAILURE:
                raise
            raise LinkLost(f"{_where(destination)}: {error}; {_PROVE_YOURSELF}") from None
        try:
            blocks, session.block_bytes = await initiator.read_capacity(destination.lun)
        except BaseException:
            await initiator.abort()
            raise
        session.capacity_bytes = blocks * session.block_bytes
        session.initiator = initiator
        return initiator


class _LinkUnits:
    """The units of one connection and the stream whose bytes live in them."""

    def __init__(
        self, stream: ReservedTcpConnection, allocation: Allocation, pool: DurablePool, memory: UnitMemory
    ) -> None:
        self.stream = stream
        self.allocation = allocation
        self.held = True
        self._pool = pool
        self._memory = memory
        self._resizing = asyncio.Lock()

    async def resize(self, units: int) -> None:
        """Grow or shrink; what is in flight is acknowledged before any unit changes hands."""
        async with self._resizing:
            surplus = self.allocation.units - units
            if not self.held or surplus == 0:
                return
            if surplus < 0:
                self._pool.grow(self.allocation, -surplus)
                await self.stream.replace_memory(self._memory.slices(self.allocation))
                return
            unit_bytes = self._pool.config.unit_bytes
            self.stream.set_limit(units * unit_bytes)
            # The pool takes units back from the front of the chain.
            rest = _without_front(self._memory.slices(self.allocation), surplus * unit_bytes)
            await self.stream.replace_memory(rest)
            if self.held:
                self._pool.free(self.allocation, surplus)

    def release(self) -> None:
        """Reset the stream, and give every unit back to the list it came from."""
        self.stream.abort()
        if self.held:
            self.held = False
            self._pool.free(self.allocation)


def _isid(name: str | None, session: int) -> bytes | None:
    """The ISID of a session that keeps its name (the random format, RFC 7143 section 11.12.5); None: any."""
    if name is None:
        return None
    return bytes((0x80,)) + hashlib.sha256(name.encode()).digest()[:3] + session.to_bytes(2, "big")


def _without_front(slices: Sequence[memoryview], size_bytes: int) -> list[memoryview]:
    """The memory behind the first ``size_bytes``."""
    rest = []
    for piece in slices:
        if size_bytes < len(piece):
            rest.append(piece[size_bytes:])
        size_bytes = max(0, size_bytes - len(piece))
    return rest


class IscsiCopyLink:
    """One connection of a session (:class:`~mgmt.array.replication.transport.CopyLink`)."""

    def __init__(
        self,
        session: _Session,
        initiator: Initiator,
        slot: Slot,
        destination: Destination,
        units: _LinkUnits,
    ) -> None:
        self._session = session
        self._initiator = initiator
        self._cid = slot.connection
        self._destination = destination
        self._units = units

    @property
    def outstanding_limit(self) -> int:
        """Enough writes to fill the reserved buffers, and some that are being read or answered."""
        filling = self._units.allocation.bytes // self._destination.extent_bytes
        return min(filling + _AHEAD, _OUTSTANDING_LIMIT)

    @property
    def capacity_bytes(self) -> int:
        """Size of the remote logical unit, from READ CAPACITY(16)."""
        return self._session.capacity_bytes

    async def execute(
        self, lun: int, cdb: bytes, *, data_out: Sequence[Buffer] = (), data_in_length: int = 0
    ) -> ScsiOutcome:
        """One command on this connection."""
        buffer = data_out[0] if len(data_out) == 1 else b"".join(data_out)
        with _Translating(self._destination):
            answer = await self._initiator.execute(
                lun,
                cdb,
                data_out=buffer,
                data_in_length=data_in_length,
                connection=self._cid,
                check=False,
            )
        return ScsiOutcome(answer.status, answer.data_in, answer.sense)

    async def write(self, offset_bytes: int, data: Sequence[Buffer]) -> None:
        """One WRITE(16), its data unsolicited as far as FirstBurstLength goes."""
        block_bytes = self._session.block_bytes
        buffer = data[0] if len(data) == 1 else b"".join(data)
        if offset_bytes % block_bytes or len(buffer) % block_bytes:
            raise RemoteRefused(
                f"the remote logical unit's blocks of {block_bytes} bytes do not fit the volume"
            )
        with _Translating(self._destination):
            await self._initiator.write(
                self._destination.lun,
                offset_bytes // block_bytes,
                buffer,
                block_bytes=block_bytes,
                connection=self._cid,
            )

    async def flush(self) -> None:
        """SYNCHRONIZE CACHE(16) of the whole logical unit."""
        with _Translating(self._destination):
            await self._initiator.synchronize_cache(self._destination.lun)

    @property
    def lost(self) -> str | None:
        """Why the session is gone."""
        return self._initiator.lost

    @property
    def allocation(self) -> Allocation:
        """The units that its bytes live in."""
        return self._units.allocation

    async def resize(self, units: int) -> None:
        """Grow or shrink, one resize after the other."""
        with _Translating(self._destination):
            await self._units.resize(units)

    def traffic(self) -> LinkTraffic:
        """The stream's counters; the TCP acknowledgements are those of this moment."""
        statistics, diagnosis = self._units.stream.statistics(), self._units.stream.diagnosis()
        return LinkTraffic(
            in_flight_bytes=statistics.in_flight_bytes if self._units.held else 0,
            max_in_flight_bytes=statistics.max_in_flight_bytes,
            sent_bytes=statistics.written_bytes,
            limited_by="" if diagnosis is None else diagnosis.limit.value,
            hint="" if diagnosis is None else diagnosis.limit.words,
            limit_bytes=statistics.limit_bytes if self._units.held else 0,
            snd_cwnd_bytes=None if diagnosis is None else diagnosis.snd_cwnd_bytes,
            rtt_ns=None if diagnosis is None else diagnosis.rtt_ns,
            busy_percent=None if diagnosis is None else diagnosis.busy_percent,
            reservation_percent=None if diagnosis is None else diagnosis.reservation_percent,
            peer_percent=None if diagnosis is None else diagnosis.peer_percent,
            retransmitted_segments=None if diagnosis is None else diagnosis.total_retransmitted,
        )

    async def close(self) -> None:
        """End the session that this connection belongs to; then its units are free of bytes and go back."""
        try:
            await self._session.close()
        finally:
            self._units.release()


def _where(destination: Destination) -> str:
    return f"iscsi://{destination.host}:{destination.port}/{destination.target_iqn}/{destination.lun}"


class _Translating:
    """What iSCSI raises, in the words of remote copy. Not a generator: every command goes through here."""

    __slots__ = ("_destination",)

    def __init__(self, destination: Destination) -> None:
        self._destination = destination

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, CommandFailed):
            raise RemoteRefused(f"{_where(self._destination)} refused: {error}") from None
        if isinstance(error, ConnectionLost):
            raise LinkLost(str(error)) from None
        if isinstance(error, TimeoutError):
            raise LinkLost(f"{_where(self._destination)} does not answer") from None
        if isinstance(error, IscsiError | ValueError):
            raise LinkLost(f"{_where(self._destination)}: {error}") from None
