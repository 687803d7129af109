"""Remote copy over Fibre Channel: FCP exchanges on a live link, as many frames under way as the copy has credits.

A link has two ends and one login, so all connections of a copy share it; each brings the units that were allocated for
it. Frames beyond the sum of the units wait at this end, and beyond what the login granted the peer's R_RDYs hold them
back: whichever is less bounds what is in flight (paragraphs 24 and 96, spec J.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from credits.allocation import Allocation
from credits.durable import DurablePool
from fcsim.errors import CreditMisuse, FibreChannelError
from fcsim.fcp.initiator import CommandCompleted
from fcsim.live.capture import LinkCapture
from fcsim.live.fcp import connect_as_initiator, end_config
from fcsim.live.live_end import LiveEnd
from fcsim.live.shell import Address, LiveLink
from fcsim.port.channel import ChannelStatistics
from iscsi_target.trace.pcapng import PcapngWriter
from iscsi_target.wire.lun import lun_to_bytes
from mgmt.array.replication import remote_disk
from mgmt.array.replication.job import Slot
from mgmt.array.replication.transport import Buffer, LinkLost, LinkTraffic, ScsiOutcome

#: Writes worth having under way at once, for every connection.
_OUTSTANDING = 16
_CLOSE_S = 2.0
_NO_LOGIN = "is a receive buffer free or reserved there, and no other array plugged in?"


@dataclass(frozen=True, slots=True, kw_only=True)
class FcDestination:
    """The remote end of the line, the logical unit behind it, and who calls."""

    address: Address
    where: str
    lun: int
    port_name: int
    connect_timeout_s: float
    capture: Path | None = None
    """What crosses the line is written here (pcapng), as this end sees it."""


@dataclass(slots=True)
class _Line:
    """The one link of a copy, and the units of everybody on it."""

    link: LiveLink
    allocations: dict[Slot, Allocation]
    block_bytes: int = 0
    capacity_bytes: int = 0
    most_frames: int = 0
    sharing: int = 1
    """How many connections have been on it at once."""
    capture: BinaryIO | None = None

    def set_ceiling(self) -> None:
        """As many frames under way as there are units, and no more than the login granted."""
        units = sum(allocation.units for allocation in self.allocations.values())

        def limit(end: LiveEnd, now_ps: int) -> None:
            end.set_ceiling(max(1, min(units, self.channel().transmit_bb_credit)), now_ps)

        self.link.call(limit)

    async def unplug(self) -> None:
        """Close the link, and the capture of it."""
        try:
            with contextlib.suppress(TimeoutError, FibreChannelError):
                async with asyncio.timeout(_CLOSE_S):
                    await self.link.close()
        finally:
            if self.capture is not None:
                self.capture.close()

    def channel(self) -> ChannelStatistics:
        """The counters of the credits."""
        (channel,) = self.link.end.statistics().channels
        return channel

    def frames_under_way(self) -> int:
        """Frames whose R_RDY has not come."""
        channel = self.channel()
        frames = min(channel.transmit_bb_credit, channel.transmit_ceiling) - channel.transmit_remaining
        self.most_frames = max(self.most_frames, frames)
        return frames


class FcCopyTransport:
    """Implements :class:`~mgmt.array.replication.transport.CopyTransport` for one copy or group.

    ``plugged`` is told of every link that it plugs in, on the loop that it runs in."""

    def __init__(
        self,
        destination: FcDestination,
        pool: DurablePool,
        plugged: Callable[[LiveLink], None] = lambda _link: None,
    ) -> None:
        self._destination = destination
        self._plugged = plugged
        self._pool = pool
        self._opening = asyncio.Lock()
        self._line: _Line | None = None

    async def connect(self, slot: Slot, allocation: Allocation) -> FcCopyLink:
        """Be on the line; the first one logs in. LinkLost, RemoteRefused."""
        with contextlib.ExitStack() as undo:
            undo.callback(self._pool.free, allocation)
            async with self._opening:
                if self._line is None or self._line.link.closed.done():
                    self._line = await self._open()
                line = self._line
            line.allocations[slot] = allocation
            line.sharing = max(line.sharing, len(line.allocations))
            undo.callback(line.allocations.pop, slot, None)
            with _translating(self._destination.where):
                line.set_ceiling()
            undo.pop_all()
        return FcCopyLink(line, slot, self._destination, self._pool)

    async def _open(self) -> _Line:
        destination = self._destination
        mine = end_config("copy", port_name=destination.port_name, wants_targets=True)
        with _translating(destination.where), contextlib.ExitStack() as undo:
            file, capture = None, None
            if destination.capture is not None:
                file = undo.enter_context(destination.capture.open("wb"))
                capture = LinkCapture(PcapngWriter(file), "copy", epoch_ns=time.time_ns())
            async with asyncio.timeout(destination.connect_timeout_s):
                try:
                    link = await connect_as_initiator(destination.address, mine, capture=capture)
                except FibreChannelError as error:
                    raise LinkLost(
                        f"{destination.where} does not let this port log in ({error}); {_NO_LOGIN}"
                    ) from None
            undo.pop_all()
        self._plugged(link)
        line = _Line(link, {}, capture=file)
        try:
            blocks, line.block_bytes = await remote_disk.read_capacity(
                _LineCarrier(line, self._destination.where), self._destination.lun
            )
        except BaseException:
            await line.unplug()
            raise
        line.capacity_bytes = blocks * line.block_bytes
        return line


class _LineCarrier:
    """Commands over the line (:class:`~mgmt.array.replication.remote_disk.Carrier`)."""

    def __init__(self, line: _Line, where: str) -> None:
        self._line = line
        self._where = where

    async def execute(
        self, lun: int, cdb: bytes, *, data_out: Sequence[Buffer] = (), data_in_length: int = 0
    ) -> ScsiOutcome:
        """One exchange. LinkLost."""
        data = data_out[0] if len(data_out) == 1 else b"".join(data_out)
        with _translating(self._where):
            if self._line.link.closed.done():
                raise LinkLost(self._line.link.error or f"the link to {self._where} is closed")
            done: CommandCompleted = await self._line.link.command(
                lun_to_bytes(lun), cdb, data_out=bytes(data), data_in_length=data_in_length
            )
            self._line.frames_under_way()
        return ScsiOutcome(done.status, done.data_in, done.sense)


class FcCopyLink:
    """One connection's place on the line (:class:`~mgmt.array.replication.transport.CopyLink`)."""

    def __init__(self, line: _Line, slot: Slot, destination: FcDestination, pool: DurablePool) -> None:
        self._line = line
        self._slot = slot
        self._destination = destination
        self._pool = pool
        self._allocation = line.allocations[slot]
        self._carrier = _LineCarrier(line, destination.where)
        self._sent_bytes = 0
        self._held = True

    @property
    def capacity_bytes(self) -> int:
        """Size of the remote logical unit, from READ CAPACITY(16)."""
        return self._line.capacity_bytes

    @property
    def outstanding_limit(self) -> int:
        """Enough exchanges for the line to stay full while answers travel."""
        return _OUTSTANDING

    @property
    def allocation(self) -> Allocation:
        """The units that it brought."""
        return self._allocation

    @property
    def lost(self) -> str | None:
        """Why the line is gone."""
        link = self._line.link
        return (link.error or "the link was closed") if link.closed.done() else None

    async def execute(
        self, lun: int, cdb: bytes, *, data_out: Sequence[Buffer] = (), data_in_length: int = 0
    ) -> ScsiOutcome:
        """One command."""
        outcome = await self._carrier.execute(lun, cdb, data_out=data_out, data_in_length=data_in_length)
        self._sent_bytes += sum(len(piece) for piece in data_out)
        return outcome

    async def write(self, offset_bytes: int, data: Sequence[Buffer]) -> None:
        """One WRITE(16)."""
        await remote_disk.write(self, self._destination.lun, offset_bytes, data, self._line.block_bytes)

    async def flush(self) -> None:
        """SYNCHRONIZE CACHE(16)."""
        await remote_disk.flush(self, self._destination.lun)

    async def resize(self, units: int) -> None:
        """More credits count at once; fewer when the frames beyond them have had their R_RDYs."""
        surplus = self._allocation.units - units
        if not self._held or surplus == 0:
            return
        if surplus < 0:
            self._pool.grow(self._allocation, -surplus)
        else:
            self._pool.free(self._allocation, surplus)
        with _translating(self._destination.where):
            self._line.set_ceiling()

    def traffic(self) -> LinkTraffic:
        """Its share of what is on the line: frames are not told apart by connection."""
        sharing = self._line.sharing
        unit_bytes = self._pool.config.unit_bytes
        frames = 0 if self._line.link.closed.done() else self._line.frames_under_way()
        return LinkTraffic(
            in_flight_bytes=frames * unit_bytes // sharing if self._held else 0,
            max_in_flight_bytes=self._line.most_frames * unit_bytes // sharing,
            sent_bytes=self._sent_bytes,
            limit_bytes=self._allocation.bytes if self._held else 0,
        )

    async def close(self) -> None:
        """Leave the line; the last one unplugs it."""
        if not self._held:
            return
        self._held = False
        self._line.allocations.pop(self._slot, None)
        if not self._line.allocations:
            await self._line.unplug()
        self._pool.free(self._allocation)


@contextlib.contextmanager
def _translating(where: str) -> Iterator[None]:
    """What Fibre Channel raises, in the words of remote copy."""
    try:
        yield
    except CreditMisuse as error:
        raise LinkLost(f"{where}: {error}") from None
    except FibreChannelError as error:
        raise LinkLost(f"{where}: {error}") from None
    except TimeoutError:
        raise LinkLost(f"{where} does not answer") from None
    except OSError as error:
        raise LinkLost(f"cannot reach {where}: {error.strerror or error}") from None
