"""The connections of a consistency group: sessions times connections, each with its share of the reservation.

They live and die together. A command that was under way on a broken connection may still be carried out at the
target, after its repetition over another; so nothing is repeated before every session has been made anew under its
old name, which ends what the target still has of it (session reinstatement, RFC 7143 section 6.3.5).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from credits.allocation import Allocation
from credits.errors import CreditError, Refused
from credits.targets import Target
from mgmt.array.replication import remote_disk
from mgmt.array.replication.engine import Signal, share
from mgmt.array.replication.job import Slot
from mgmt.array.replication.transport import (
    Buffer,
    CopyLink,
    CopyTransport,
    LinkLost,
    LinkTraffic,
    RemoteRefused,
    ScsiOutcome,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")
_LOOK_S = 0.1
_PING_S = 10.0
Allocate = Callable[[Slot], Allocation]
"""M8 for one connection; raises CreditError."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One WRITE of many: where it goes, and what; ``zeros`` is the length of a run of zeros instead of data."""

    lun: int
    offset_bytes: int
    data: tuple[Buffer, ...]
    zeros: int = 0


class LinkSet:
    """The links of one group to one remote target. Lives on the data loop.

    ``timeout_s`` bounds one command. After :class:`LinkLost` the set is good for nothing but :meth:`close`.
    """

    def __init__(
        self,
        transport: CopyTransport,
        slots: Sequence[Slot],
        allocate: Allocate,
        *,
        timeout_s: float,
        unmap: bool,
    ) -> None:
        self._transport = transport
        self._slots = tuple(slots)
        self._allocate = allocate
        self._timeout_s = timeout_s
        self._unmap = unmap
        self._links: dict[Slot, CopyLink] = {}
        self._busy: dict[Slot, int] = {}
        self._changed = Signal()
        self._lost: str | None = None
        self._block_bytes: dict[int, int] = {}
        self._watch: asyncio.Task[None] | None = None
        self.refusals: list[str] = []
        self.sent_bytes = 0
        """Bytes of all WRITE commands that were answered GOOD."""

    # -- coming and going -------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many are up."""
        return len(self._links)

    async def open(self) -> None:
        """Connect every slot; fewer than all is fine and told by :attr:`refusals`. LinkLost: none came up."""
        outcomes = await asyncio.gather(
            *(self._connect(slot) for slot in self._slots), return_exceptions=True
        )
        for slot, outcome in zip(self._slots, outcomes, strict=True):
            if isinstance(outcome, CreditError | LinkLost | RemoteRefused):
                self.refusals.append(f"{slot}: {outcome}")
            elif isinstance(outcome, BaseException):
                await self.close()
                raise outcome
        if not self._links:
            await self.close()
            raise LinkLost(self.refusals[0])
        self._watch = asyncio.create_task(self._look())

    async def _look(self) -> None:
        """Find out that a connection is gone also while no command needs it."""
        while self._lost is None:
            await asyncio.sleep(_LOOK_S)
            for link in self._links.values():
                if link.lost is not None:
                    self.fail(link.lost)

    async def _connect(self, slot: Slot) -> None:
        link = await self._transport.connect(slot, self._allocate(slot))
        self._links[slot] = link
        self._busy[slot] = 0

    async def close(self) -> None:
        """End every connection; their units are back where they came from when this returns."""
        self.fail("the connections were closed")
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        links, self._links = self._links, {}
        for outcome in await asyncio.gather(
            *(link.close() for link in links.values()), return_exceptions=True
        ):
            if isinstance(outcome, Exception):
                _log.error("a pair's connection did not close", exc_info=outcome)

    def fail(self, reason: str) -> None:
        """One connection is lost, and so are all."""
        if self._lost is None:
            self._lost = reason
        self._changed.notify()

    @property
    def lost(self) -> str | None:
        """Why the links are gone; None while they are there."""
        return self._lost

    async def wait_until_lost(self) -> str:
        """Why, once it is so."""
        while self._lost is None:
            await self._changed.wait()
        return self._lost

    # -- commands ---------------------------------------------------------------------------------------------

    async def execute(
        self, lun: int, cdb: bytes, *, data_out: Sequence[Buffer] = (), data_in_length: int = 0
    ) -> ScsiOutcome:
        """One command over the connection with the most room (:class:`~.remote_disk.Carrier`)."""
        slot = await self._room()
        self._busy[slot] += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._links[slot].execute(
                    lun, cdb, data_out=data_out, data_in_length=data_in_length
                )
        except TimeoutError:
            self.fail(f"no answer within {self._timeout_s:g} s")
            raise LinkLost(str(self._lost)) from None
        except LinkLost as lost:
            self.fail(str(lost))
            raise
        finally:
            if slot in self._busy:
                self._busy[slot] -= 1
            self._changed.notify()

    async def _room(self) -> Slot:
        while True:
            if self._lost is not None:
                raise LinkLost(self._lost)
            slot = min(self._links, key=lambda slot: self._busy[slot] / self._links[slot].outstanding_limit)
            if self._busy[slot] < self._links[slot].outstanding_limit:
                return slot
            await self._changed.wait()

    async def capacity(self, lun: int) -> int:
        """Bytes of a remote logical unit."""
        blocks, block_bytes = await remote_disk.read_capacity(self, lun)
        self._block_bytes[lun] = block_bytes
        return blocks * block_bytes

    async def write(self, lun: int, offset: int, data: Sequence[Buffer], *, durable: bool = False) -> None:
        """One WRITE."""
        await remote_disk.write(self, lun, offset, data, self._block_bytes[lun], durable=durable)
        self.sent_bytes += sum(len(piece) for piece in data)

    async def zero(self, lun: int, offset: int, length: int) -> None:
        """The bytes read as zeros from now on."""
        await remote_disk.zero(self, lun, offset, length, self._block_bytes[lun], unmap=self._unmap)

    async def read(self, lun: int, offset: int, length: int) -> Buffer:
        """One READ."""
        return await remote_disk.read(self, lun, offset, length, self._block_bytes[lun])

    async def flush(self, luns: Sequence[int]) -> None:
        """Everything that these logical units have answered is on their disks."""
        await self._all([remote_disk.flush(self, lun) for lun in luns])

    async def ping(self, lun: int) -> None:
        """Is anybody there?"""
        async with asyncio.timeout(_PING_S):
            await remote_disk.ping(self, lun)

    async def write_all(self, pieces: Sequence[Piece]) -> None:
        """Many writes in any order, over every connection; all are answered GOOD when this returns.

        Each begins in a turn of the loop of its own, between which hosts' commands are served.
        """
        work: list[asyncio.Task[None]] = []
        try:
            for piece in pieces:
                work.append(asyncio.create_task(self._put(piece)))
                await asyncio.sleep(0)
            await self._all(work)
        except BaseException:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            raise

    async def _put(self, piece: Piece) -> None:
        if piece.zeros:
            await self.zero(piece.lun, piece.offset_bytes, piece.zeros)
        else:
            await self.write(piece.lun, piece.offset_bytes, piece.data)

    async def _all(self, work: Sequence[Awaitable[T]]) -> None:
        """Wait for all, also when one fails: nothing is under way any more when this returns or raises."""
        failed = [
            outcome
            for outcome in await asyncio.gather(*work, return_exceptions=True)
            if isinstance(outcome, BaseException)
        ]
        for kind in (asyncio.CancelledError, RemoteRefused, LinkLost, BaseException):
            for error in failed:
                if isinstance(error, kind):
                    raise error

    # -- the reservation --------------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Units of all connections."""
        return sum(link.allocation.units for link in self._links.values())

    @property
    def in_flight_bytes(self) -> int:
        """Bytes that the remote array's TCP has not acknowledged."""
        return sum(link.traffic().in_flight_bytes for link in self._links.values())

    def traffic(self) -> list[tuple[Slot, LinkTraffic]]:
        """Every connection's counters."""
        return [(slot, link.traffic()) for slot, link in sorted(self._links.items())]

    async def resize(self, reserved_units: Callable[[Target], int]) -> None:
        """Share out anew what is reserved now (paragraph 97): those that shrink first.

        Only among connections that are present: none comes back to a set that is up, so what is kept for those away
        would lie idle. The next set begins with even shares for all (GAP-16).
        """
        served: dict[Target, list[Slot]] = {}
        for slot, link in sorted(self._links.items()):
            if link.allocation.target is not None:
                served.setdefault(link.allocation.target, []).append(slot)
        wishes = [
            (self._links[slot], max(1, share(total, number, len(slots))))
            for target, slots in served.items()
            if (total := reserved_units(target))
            for number, slot in enumerate(slots)
        ]
        for grows in (False, True):
            chosen = [(link, units) for link, units in wishes if (units > link.allocation.units) is grows]
            for outcome in await asyncio.gather(
                *(link.resize(units) for link, units in chosen), return_exceptions=True
            ):
                if isinstance(outcome, Refused | LinkLost):  # it goes on with what it has, or is found out
                    _log.warning("a pair's connection keeps its units: %s", outcome)
                elif isinstance(outcome, BaseException):
                    raise outcome
        self._changed.notify()
