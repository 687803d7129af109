"""A copy as it runs, over links that are scripted: what it moves, how it ends, and that units always come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from credits.allocation import Allocation
from credits.config import PoolConfig, UnitKind
from credits.durable import DurablePool
from credits.targets import port_pair
from iscsi_target.scsi.errors import StoreError
from mgmt.array.replication.engine import RunningCopy, share
from mgmt.array.replication.job import CopyJob, Slot, State
from mgmt.array.replication.transport import Buffer, LinkLost, LinkTraffic, RemoteRefused

UNIT = 16
VOLUME = bytes(range(200))


@dataclass
class Volume:
    data: bytes = VOLUME
    bad_offset: int | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        if offset == self.bad_offset:
            raise StoreError("reading vol0: input/output error")
        return (self.data[offset : offset + length],)


@dataclass
class Remote:
    """The far end of all links: its disk, and what it does to a write."""

    disk: bytearray = field(default_factory=lambda: bytearray(len(VOLUME)))
    flushed: int = 0
    capacity_bytes: int = len(VOLUME)
    on_write: Callable[[Slot, int], Awaitable[None]] | None = None
    on_connect: Callable[[Slot], Awaitable[None]] | None = None
    on_flush: Callable[[Slot], Awaitable[None]] | None = None


@dataclass
class Link:
    slot: Slot
    allocation: Allocation
    pool: DurablePool
    remote: Remote
    outstanding_limit: int = 3
    open: bool = True

    @property
    def capacity_bytes(self) -> int:
        return self.remote.capacity_bytes

    async def write(self, offset_bytes: int, data: Sequence[Buffer]) -> None:
        await asyncio.sleep(0)
        if self.remote.on_write is not None:
            await self.remote.on_write(self.slot, offset_bytes)
        joined = b"".join(data)
        self.remote.disk[offset_bytes : offset_bytes + len(joined)] = joined

    async def flush(self) -> None:
        if self.remote.on_flush is not None:
            await self.remote.on_flush(self.slot)
        self.remote.flushed += 1

    async def resize(self, units: int) -> None:
        surplus = self.allocation.units - units
        if surplus > 0:
            self.pool.free(self.allocation, surplus)
        elif surplus < 0:
            self.pool.grow(self.allocation, -surplus)

    def traffic(self) -> LinkTraffic:
        return LinkTraffic(0, 0, 0)

    async def close(self) -> None:
        if self.open:
            self.open = False
            self.pool.free(self.allocation)


@dataclass
class Transport:
    pool: DurablePool
    remote: Remote

    async def connect(self, slot: Slot, allocation: Allocation) -> Link:
        try:
            if self.remote.on_connect is not None:
                await self.remote.on_connect(slot)
        except BaseException:
            self.pool.free(allocation)
            raise
        return Link(slot, allocation, self.pool, self.remote)


class Site:
    """One copy with two connections, and everything around it."""

    def __init__(
        self,
        remote: Remote,
        volume: Volume,
        connections: int = 2,
        gather_ns: int = 60 * 10**9,
        *,
        ticking: bool = True,
    ) -> None:
        self.ticking = ticking
        self._began_ns = time.monotonic_ns()
        config = PoolConfig(name="tcp0", kind=UnitKind.TCP, unit_bytes=UNIT, total_units=10)
        self.pool = DurablePool.open(None, config)
        self.remote = remote
        self.executor = ThreadPoolExecutor(1)
        self.slots = [Slot(0, number) for number in range(connections)]
        job = CopyJob(
            total_bytes=volume.size_bytes,
            extent_bytes=UNIT,
            sessions=1,
            connections_per_session=connections,
            gather_deadline_ns=self._began_ns + gather_ns,
        )
        self.copy = RunningCopy(job, volume, Transport(self.pool, remote), self.executor, self._now_ns)

    def _now_ns(self) -> int:
        """The time of the copy; it begins to pass when :attr:`ticking` is set."""
        return time.monotonic_ns() if self.ticking else self._began_ns

    async def start(self, slots: Sequence[Slot] | None = None) -> list[BaseException | None]:
        async def one(slot: Slot) -> None:
            self.copy.request(slot)
            await self.copy.connect(slot, self.pool.allocate((), 2, holder=str(slot)))

        wanted = self.slots if slots is None else slots
        return await asyncio.gather(*(one(slot) for slot in wanted), return_exceptions=True)

    async def end(self) -> None:
        await asyncio.wait_for(self.copy.finished.wait(), 60)
        self.executor.shutdown()
        assert self.pool.statistics().free_units == 10


def run(
    scenario: Callable[[Site], Awaitable[None]],
    remote: Remote | None = None,
    volume: Volume | None = None,
    gather_ns: int = 60 * 10**9,
    *,
    ticking: bool = True,
) -> Site:
    async def main() -> Site:
        site = Site(remote or Remote(), volume or Volume(), gather_ns=gather_ns, ticking=ticking)
        await scenario(site)
        await site.end()
        return site

    return asyncio.run(main())


async def just_start(site: Site) -> None:
    assert await site.start() == [None, None]


def test_a_volume_is_copied_flushed_and_its_units_come_back() -> None:
    site = run(just_start)
    assert bytes(site.remote.disk) == VOLUME
    assert site.remote.flushed == 1
    progress = site.copy.progress()
    assert progress.job.state is State.DONE
    assert progress.job.acknowledged_bytes == len(VOLUME)
    assert progress.elapsed_ns > 0
    assert progress.goodput_bps == len(VOLUME) * 8 * 10**9 // progress.elapsed_ns


def test_a_connection_that_breaks_leaves_its_extents_to_the_other() -> None:
    async def break_the_first(slot: Slot, _offset: int) -> None:
        if slot.connection == 0:
            raise LinkLost("reset by peer")

    site = run(just_start, Remote(on_write=break_the_first))
    assert bytes(site.remote.disk) == VOLUME
    assert site.copy.state is State.DONE
    assert site.copy.progress().job.error == "session 0 connection 0 was lost: reset by peer"


def test_a_copy_whose_connections_all_break_fails() -> None:
    async def break_all(_slot: Slot, offset: int) -> None:
        if offset >= 64:
            raise LinkLost("reset by peer")

    site = run(just_start, Remote(on_write=break_all))
    assert site.copy.state is State.FAILED
    assert "reset by peer" in site.copy.progress().job.error


def test_a_remote_disk_that_is_full_ends_the_copy_with_its_words() -> None:
    async def full(_slot: Slot, offset: int) -> None:
        if offset >= 96:
            raise RemoteRefused("SCSI status 0x02, sense 3/0c/00")

    site = run(just_start, Remote(on_write=full))
    assert site.copy.state is State.FAILED
    assert site.copy.progress().job.error == "SCSI status 0x02, sense 3/0c/00"


def test_a_local_disk_that_cannot_be_read_ends_the_copy_with_its_words() -> None:
    site = run(just_start, volume=Volume(bad_offset=48))
    assert site.copy.state is State.FAILED
    assert site.copy.progress().job.error == "reading vol0: input/output error"


def test_a_copy_is_stopped_while_every_write_hangs() -> None:
    async def hang(_slot: Slot, _offset: int) -> None:
        await asyncio.Event().wait()

    async def scenario(site: Site) -> None:
        await just_start(site)
        while site.pool.statistics().in_use_units < 4:
            await asyncio.sleep(0.001)
        site.copy.stop()

    site = run(scenario, Remote(on_write=hang))
    assert site.copy.state is State.STOPPED


def test_a_copy_is_stopped_while_it_still_connects() -> None:
    connecting = asyncio.Event()

    async def hang(_slot: Slot) -> None:
        connecting.set()
        await asyncio.Event().wait()

    async def scenario(site: Site) -> None:
        starting = asyncio.create_task(site.start())
        await connecting.wait()
        site.copy.stop()
        refusals = await starting
        assert [str(refusal) for refusal in refusals] == ["the copy is stopping"] * 2

    site = run(scenario, Remote(on_connect=hang))
    assert site.copy.state is State.STOPPED


def test_a_copy_is_stopped_while_the_remote_disk_flushes() -> None:
    async def hang(_slot: Slot) -> None:
        await asyncio.Event().wait()

    async def scenario(site: Site) -> None:
        await just_start(site)
        while site.copy.state is not State.FLUSHING:
            await asyncio.sleep(0.001)
        site.copy.stop()

    assert run(scenario, Remote(on_flush=hang)).copy.state is State.STOPPED


def test_a_flush_that_breaks_is_tried_on_another_connection() -> None:
    async def break_the_first(slot: Slot) -> None:
        if slot.connection == 0:
            raise LinkLost("reset by peer")

    site = run(just_start, Remote(on_flush=break_the_first))
    assert site.copy.state is State.DONE
    assert site.remote.flushed == 1


def test_a_flush_that_is_refused_fails_the_copy() -> None:
    async def refuse(_slot: Slot) -> None:
        raise RemoteRefused("SCSI status 0x02")

    site = run(just_start, Remote(on_flush=refuse))
    assert site.copy.state is State.FAILED
    assert site.copy.progress().job.error == "the remote disk was not flushed: SCSI status 0x02"


def test_a_remote_unit_that_is_too_small_is_refused_before_any_data() -> None:
    async def scenario(site: Site) -> None:
        refusals = await site.start()
        assert all(isinstance(refusal, RemoteRefused) for refusal in refusals)

    site = run(scenario, Remote(capacity_bytes=len(VOLUME) - 1))
    assert site.copy.state is State.FAILED
    assert "has 199 bytes, the volume has 200" in site.copy.progress().job.error
    assert bytes(site.remote.disk) == bytes(200)


def test_half_a_copy_starts_when_the_wait_is_over() -> None:
    async def scenario(site: Site) -> None:
        await site.start(site.slots[:1])
        site.ticking = True

    site = run(scenario, gather_ns=1_000_000, ticking=False)
    assert site.copy.state is State.DONE
    assert site.copy.progress().job.error.startswith("1 of 2 connections started")


def test_a_running_copy_shares_its_reservation_out_anew_whenever_that_changes() -> None:
    async def hang(_slot: Slot, _offset: int) -> None:
        await asyncio.Event().wait()

    target = port_pair("a", "b")

    async def scenario(site: Site) -> None:
        site.pool.reserve(target, 8 * UNIT, request_id="r", now_ns=0)
        for slot in site.slots:
            site.copy.request(slot)
            await site.copy.connect(slot, site.pool.allocate((target,), 4, holder=str(slot)))
        for number, units in enumerate((5, 9, 2)):
            site.pool.update(target, units * UNIT, request_id=f"u{number}", now_ns=0)
            site.copy.resize(lambda _target, units=units: units)  # type: ignore[misc]
            while [row.allocated_units for row in site.pool.allocation_table()] != [units]:
                await asyncio.sleep(0.001)
            assert site.pool.statistics().free_units == 10 - units
        site.copy.stop()
        await site.copy.finished.wait()
        site.pool.release(target, request_id="x", now_ns=0)

    run(scenario, Remote(on_write=hang))


def test_a_reservation_that_changes_while_connections_come_leaves_their_shares_to_them() -> None:
    async def hang(_slot: Slot, _offset: int) -> None:
        await asyncio.Event().wait()

    target = port_pair("a", "b")

    async def scenario(site: Site) -> None:
        site.pool.reserve(target, 6 * UNIT, request_id="r", now_ns=0)
        for slot in site.slots:
            site.copy.request(slot)
            await site.copy.connect(slot, site.pool.allocate((target,), 3, holder=str(slot)))
            site.copy.resize(lambda _target: 8 if site.copy.state is State.COPYING else 6)
            await asyncio.sleep(0.01)
        site.pool.update(target, 8 * UNIT, request_id="u", now_ns=0)
        site.copy.resize(lambda _target: 8)
        while [row.allocated_units for row in site.pool.allocation_table()] != [8]:
            await asyncio.sleep(0.001)  # once all are there, what is reserved is theirs
        site.copy.stop()
        await site.copy.finished.wait()
        site.pool.release(target, request_id="x", now_ns=0)

    run(scenario, Remote(on_write=hang))


def test_connections_that_live_on_the_free_list_keep_their_units() -> None:
    async def hang(_slot: Slot, _offset: int) -> None:
        await asyncio.Event().wait()

    async def scenario(site: Site) -> None:
        await just_start(site)
        site.copy.resize(lambda _target: 10)
        await asyncio.sleep(0.01)
        assert site.pool.statistics().in_use_units == 4
        site.copy.stop()

    run(scenario, Remote(on_write=hang))


@pytest.mark.parametrize(
    ("total", "count", "parts"), [(8, 6, [2, 2, 1, 1, 1, 1]), (0, 2, [0, 0]), (6, 3, [2, 2, 2])]
)
def test_shares_are_even_and_whole(total: int, count: int, parts: list[int]) -> None:
    assert [share(total, number, count) for number in range(count)] == parts


@pytest.mark.parametrize("connections", [1, 2])
def test_every_refused_connection_is_reported(connections: int) -> None:
    async def unreachable(slot: Slot) -> None:
        if slot.connection < connections:
            raise LinkLost("connection refused")

    async def scenario(site: Site) -> None:
        refusals = await site.start()
        assert sum(isinstance(refusal, LinkLost) for refusal in refusals) == connections

    site = run(scenario, Remote(on_connect=unreachable))
    assert site.copy.state is (State.DONE if connections == 1 else State.FAILED)
    error = site.copy.progress().job.error
    assert error == f"{2 - connections} of 2 connections started: session 0 connection 0: connection refused"
