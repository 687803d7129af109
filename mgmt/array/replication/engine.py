"""One remote copy as it runs: the asyncio shell around :class:`~mgmt.array.replication.job.CopyJob`.

Lives on the array's data loop. Volumes are read on a small thread pool; the loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

from credits.allocation import Allocation
from credits.errors import Refused
from credits.targets import Target
from iscsi_target.scsi.errors import StoreError
from mgmt.array.replication.job import CopyJob, JobStatistics, Slot, State
from mgmt.array.replication.transport import (
    Buffer,
    CopyLink,
    CopyTransport,
    LinkLost,
    LinkTraffic,
    RemoteRefused,
)

_log = logging.getLogger(__name__)

_CLOSING = (State.FINISHING, State.STOPPING, State.FAILING)


class Source(Protocol):
    """The volume that is copied; reads may block and raise :class:`StoreError`."""

    @property
    def size_bytes(self) -> int:
        """Its length."""
        ...

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        """The bytes at ``offset``."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a copy: its job, the time from first byte to last acknowledgement, its connections."""

    job: JobStatistics
    elapsed_ns: int
    links: tuple[tuple[Slot, LinkTraffic], ...]

    @property
    def max_in_flight_bytes(self) -> int:
        """The most that each connection ever had in flight, added up: an upper bound of their sum."""
        return sum(traffic.max_in_flight_bytes for _, traffic in self.links)

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of all connections that the remote array's TCP has not acknowledged yet."""
        return sum(traffic.in_flight_bytes for _, traffic in self.links)

    @property
    def goodput_bps(self) -> int:
        """Volume bytes acknowledged, in bits per second of the time they took."""
        return self.job.acknowledged_bytes * 8_000_000_000 // self.elapsed_ns if self.elapsed_ns else 0


def share(total: int, number: int, count: int) -> int:
    """Part ``number`` of ``total`` divided into ``count`` parts as even as can be, the larger ones first."""
    return total // count + (number < total % count)


class Signal:
    """Wakes everyone who waits for a change of the job."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Something changed."""
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Until the next :meth:`notify`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)


class RunningCopy:
    """One copy: the job, its links, and the tasks that move its data. ``clock`` is monotonic, in nanoseconds.

    Whatever happens, :attr:`finished` is set once every link is closed and its units are back.
    """

    def __init__(
        self,
        job: CopyJob,
        source: Source,
        transport: CopyTransport,
        executor: Executor,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._job = job
        self._source = source
        self._transport = transport
        self._executor = executor
        self._clock = clock
        self._signal = Signal()
        self._links: dict[Slot, CopyLink] = {}
        self._connecting: set[asyncio.Task[CopyLink]] = set()
        self._arriving = 0
        self._pumps: set[asyncio.Task[None]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._wanted_units: dict[Slot, int] = {}
        self._resizer: asyncio.Task[None] | None = None
        self._resize_due: Callable[[Target], int] | None = None
        self._company: list[asyncio.Task[None]] = []
        self._first_byte_ns: int | None = None
        self._last_acknowledgement_ns: int | None = None
        self.finished = asyncio.Event()
        self._main = asyncio.create_task(self._run(), name="copy")

    @property
    def state(self) -> State:
        """Where the copy is."""
        return self._job.state

    def request(self, slot: Slot) -> None:
        """A start request for ``slot`` came in; raises what :meth:`CopyJob.request` does."""
        self._job.request(slot)

    def refused(self, slot: Slot, reason: str) -> None:
        """``slot`` got no units, or no connection."""
        self._job.connection_refused(slot, reason)
        self._signal.notify()

    async def connect(self, slot: Slot, allocation: Allocation) -> None:
        """Bring ``slot`` up over ``allocation``. Raises LinkLost and RemoteRefused; the units are back then."""
        connecting = asyncio.create_task(self._transport.connect(slot, allocation))
        self._connecting.add(connecting)
        self._arriving += 1
        link: CopyLink | None = None
        try:
            await asyncio.wait({connecting})
            if connecting.cancelled():
                raise LinkLost(f"the copy is {self._job.state}")
            link = connecting.result()
            self._check(link)
        except (LinkLost, RemoteRefused) as error:
            # Said before the link is closed: that may end its session, and others would report only this.
            self.refused(slot, f"{slot}: {error}")
            if link is not None:
                await link.close()
            raise
        finally:
            connecting.cancel()
            self._connecting.discard(connecting)
            self._arriving -= 1
            self._signal.notify()
        self._links[slot] = link
        self._job.connection_up(slot)
        pump = asyncio.create_task(self._pump(slot, link), name=f"copy {slot}")
        self._pumps.add(pump)
        pump.add_done_callback(self._pump_ended)
        self._signal.notify()

    def stop(self) -> None:
        """Stop moving data and give everything back; :attr:`finished` says when that is done (GAP-4)."""
        self._job.stop()
        self._signal.notify()

    def resize(self, reserved_units: Callable[[Target], int]) -> None:
        """Share out anew what is reserved now, among the connections that live on it (paragraphs 51 and 97).

        ``reserved_units`` tells the size of a target's reservation, 0 where it is gone. Connections whose units
        came from the free list keep them. While connections are still to come, their shares are left to them.
        """
        if self._job.state is State.STARTING:
            self._resize_due = reserved_units
            return
        self._resize_due = None
        served: dict[Target, list[Slot]] = {}
        for slot in sorted(self._links):
            target = self._links[slot].allocation.target
            if target is not None and self._job.is_up(slot):
                served.setdefault(target, []).append(slot)
        self._wanted_units = {
            slot: max(1, share(total, number, len(slots)))
            for target, slots in served.items()
            if (total := reserved_units(target))
            for number, slot in enumerate(slots)
        }
        if self._resizer is None or self._resizer.done():
            self._resizer = asyncio.create_task(self._resize())

    async def _resize(self) -> None:
        """Carry out the newest wish; first those that shrink, as the others may grow by what they give back."""
        while self._wanted_units:
            wanted, self._wanted_units = self._wanted_units, {}
            smaller = {slot for slot, units in wanted.items() if units < self._links[slot].allocation.units}
            for slots in (smaller, wanted.keys() - smaller):
                await asyncio.gather(*(self._resize_link(slot, wanted[slot]) for slot in slots))

    async def _resize_link(self, slot: Slot, units: int) -> None:
        link = self._links[slot]
        try:
            await link.resize(units)
        except (Refused, LinkLost) as error:  # the copy goes on with what it has, or its pump sees the loss
            _log.warning("%s keeps its %d units: %s", slot, link.allocation.units, error)

    def links_up(self) -> dict[Slot, CopyLink]:
        """The connections that carry data now."""
        return {slot: link for slot, link in self._links.items() if self._job.is_up(slot)}

    def accompany(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` beside the copy, and cancel it when the copy closes."""
        self._company.append(asyncio.create_task(work))

    def progress(self) -> Progress:
        """The copy as it stands."""
        elapsed_ns = 0
        if self._first_byte_ns is not None:
            moving = self._job.state is State.COPYING or self._last_acknowledgement_ns is None
            end_ns = self._clock() if moving else self._last_acknowledgement_ns
            elapsed_ns = max(1, (end_ns or 0) - self._first_byte_ns)
        links = tuple((slot, link.traffic()) for slot, link in sorted(self._links.items()))
        return Progress(self._job.statistics(), elapsed_ns, links)

    def _check(self, link: CopyLink) -> None:
        """Refuse a link that came up too late, or to a logical unit that is too small."""
        if self._job.state not in (State.STARTING, State.COPYING):
            raise LinkLost(f"the copy is {self._job.state}")
        if link.capacity_bytes < self._source.size_bytes:
            raise RemoteRefused(
                f"the remote logical unit has {link.capacity_bytes} bytes, "
                f"the volume has {self._source.size_bytes}"
            )

    async def _run(self) -> None:
        """Carry the job from its first to its last state."""
        try:
            while self._job.state not in _CLOSING:
                if self._resize_due is not None and self._job.state is State.COPYING:
                    self.resize(self._resize_due)
                if self._job.state is State.FLUSHING:
                    await self._flush()
                else:
                    await self._wait_for_change()
        finally:
            self._job.fail("the copy ended on a defect")  # means nothing to a copy that is closing already
            await self._close()
            self._job.closed()
            self._signal.notify()
            self.finished.set()

    async def _wait_for_change(self) -> None:
        deadline_ns = self._job.next_deadline()
        timeout_s = None if deadline_ns is None else max(0.0, (deadline_ns - self._clock()) / 1e9)
        try:
            async with asyncio.timeout(timeout_s):
                await self._signal.wait()
        except TimeoutError:
            self._job.handle_timer(self._clock())
            self._signal.notify()

    async def _flush(self) -> None:
        """SYNCHRONIZE CACHE over a link that is up, unless someone asks to stop meanwhile."""
        slot, link = next(item for item in self._links.items() if self._job.is_up(item[0]))
        flushing = asyncio.create_task(link.flush())
        while not flushing.done() and self._job.state is State.FLUSHING:
            changed = asyncio.create_task(self._signal.wait())
            await asyncio.wait({flushing, changed}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        if not flushing.done():
            flushing.cancel()
            await asyncio.wait({flushing})
            return
        try:
            flushing.result()
            self._job.flushed()
        except LinkLost as lost:
            self._job.connection_lost(slot, str(lost))
        except RemoteRefused as error:
            self._job.fail(f"the remote disk was not flushed: {error}")

    async def _pump(self, slot: Slot, link: CopyLink) -> None:
        """Keep ``link`` full until there is nothing more to take, or it breaks."""
        try:
            async with asyncio.TaskGroup() as writers:
                for _ in range(link.outstanding_limit):
                    writers.create_task(self._write_extents(slot, link))
        except* LinkLost as lost:
            self._job.connection_lost(slot, str(lost.exceptions[0]))
            self._signal.notify()
            self._retiring.add(asyncio.create_task(link.close()))  # not to be cancelled with this pump
        except* (RemoteRefused, StoreError) as failed:
            self._job.fail(str(failed.exceptions[0]))
            self._signal.notify()

    async def _write_extents(self, slot: Slot, link: CopyLink) -> None:
        loop = asyncio.get_running_loop()
        while self._job.state in (State.STARTING, State.COPYING):
            extent = self._job.take(slot)
            if extent is None:
                await self._signal.wait()
                continue
            data = await loop.run_in_executor(
                self._executor, self._source.read, extent.offset_bytes, extent.length_bytes
            )
            if self._first_byte_ns is None:
                self._first_byte_ns = self._clock()
            await link.write(extent.offset_bytes, data)
            self._last_acknowledgement_ns = self._clock()
            self._job.acknowledge(slot, extent)
            if self._job.state is not State.COPYING:
                self._signal.notify()

    def _pump_ended(self, pump: asyncio.Task[None]) -> None:
        self._pumps.discard(pump)
        if not pump.cancelled() and (error := pump.exception()) is not None:
            _log.error("a copy's connection ended on a defect", exc_info=error)
            self._job.fail(f"internal error: {error!r}")
            self._signal.notify()

    async def _close(self) -> None:
        """End every task and link; only when this returns are all units back."""
        busy: list[asyncio.Task[Any]] = [*self._connecting, *self._pumps, *self._company]
        if self._resizer is not None:
            busy.append(self._resizer)
        for task in busy:
            task.cancel()
        while self._arriving:
            await self._signal.wait()
        await asyncio.gather(*busy, return_exceptions=True)
        closing = (*self._retiring, *(link.close() for link in self._links.values()))
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, Exception):
                _log.error("a copy's connection did not close", exc_info=outcome)
