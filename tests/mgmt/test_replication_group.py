"""The engine of a group in one process: a real device server as the remote array, a stand-in for the wire to it.

No real wire loses a connection, refuses a write or keeps an answer waiting between two chosen steps of a task. The
clock counts: a loop that turns without letting others run, or that looks again and again, asks it too often.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from credits.allocation import Allocation
from iscsi_target.executor import ScsiCommand, ScsiResult
from iscsi_target.scsi.errors import StatusOnly, StoreError
from iscsi_target.scsi.stores.memory import MemoryStore
from mgmt.array.portals import Devices
from mgmt.array.replication.group import GroupSettings, PrimaryGroup
from mgmt.array.replication.group_record import Fence, GroupFiles, GroupRecord, Mode, PairRecord, RemotePlace
from mgmt.array.replication.job import Slot
from mgmt.array.replication.link_set import LinkSet
from mgmt.array.replication.pair_state import PairState, Role
from mgmt.array.replication.replicated_store import ReplicatedStore
from mgmt.array.replication.stream import StreamLimits
from mgmt.array.replication.transport import Buffer, LinkLost, LinkTraffic, ScsiOutcome
from mgmt.array.volumes import Volume, Volumes

MIB = 1 << 20
SIZE, BLOCK, JOURNAL = MIB // 2, 4096, 4 * MIB
#: How often the clock may be asked before the loop has let somebody else run.
TURNS = 20_000
SPINS = "the group's loop turns without letting anybody else run"
WRITE = 0x8A


class Clock:
    """Monotonic nanoseconds; whoever asks too often is ended by an AssertionError, and :attr:`spun` says so."""

    def __init__(self) -> None:
        self.turns = self.asked = 0
        self.spun = False

    def __call__(self) -> int:
        self.turns += 1
        self.asked += 1
        self.spun |= self.turns > TURNS
        assert not self.spun, SPINS
        return time.monotonic_ns()


class Wire:
    """Transport and every link: each command goes to the remote array's device server on the loop's own thread."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self.disks = [MemoryStore(SIZE), MemoryStore(JOURNAL)]
        names = ("vol0", "jnl")
        volumes = [
            Volume(name, lun, ReplicatedStore(disk), disk)
            for lun, (name, disk) in enumerate(zip(names, self.disks, strict=True))
        ]
        self.array = Devices("iqn.2026-11.org.example:west", Volumes(volumes)).arrays
        self.rng = rng
        self.cut = ""
        self.refuses = False
        self.hold: Callable[[int, bytes], bool] = lambda lun, cdb: False
        self.held, self.go_on = asyncio.Event(), asyncio.Event()

    async def connect(self, slot: Slot, allocation: Allocation) -> Link:
        if self.cut:
            raise LinkLost(self.cut)
        return Link(self)

    def image(self) -> bytes:
        return b"".join(self.disks[0].read(0, SIZE))


class Link:
    capacity_bytes, outstanding_limit = SIZE, 4

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._lost = ""
        self.allocation = cast(Allocation, None)  # whose units nobody looks at here

    async def execute(
        self, lun: int, cdb: bytes, *, data_out: Sequence[Buffer] = (), data_in_length: int = 0
    ) -> ScsiOutcome:
        wire = self._wire
        if wire.hold(lun, cdb):
            wire.held.set()
            await wire.go_on.wait()
        if wire.rng is not None:
            for _ in range(wire.rng.randrange(4)):
                await asyncio.sleep(0)
        if self.lost:
            self._lost = self.lost
            raise LinkLost(self.lost)
        if wire.refuses and cdb[0] == WRITE:
            return ScsiOutcome(0x02, b"", bytes((0x72, 0x3, 0x0C, 0)))
        data = b"".join(data_out)
        name = "iqn.2026-11.org.example:east"
        command = ScsiCommand(
            name,
            f"{name},i,0x000000000001",
            1,
            lun,
            cdb,
            data,
            not data,
            bool(data),
            len(data) or data_in_length,
        )
        result = wire.array.execute(command)
        assert isinstance(result, ScsiResult)
        return ScsiOutcome(result.status, b"".join(result.data_in), bytes(result.sense))

    async def write(self, offset_bytes: int, data: Sequence[Buffer]) -> None:
        raise NotImplementedError

    async def flush(self) -> None:
        raise NotImplementedError

    async def resize(self, units: int) -> None:
        raise NotImplementedError

    def traffic(self) -> LinkTraffic:
        return LinkTraffic(0, 0, 0)

    async def close(self) -> None:
        self._lost = self._lost or "closed"

    @property
    def lost(self) -> str | None:
        return self._lost or self._wire.cut or None


class Disk(MemoryStore):
    """A volume that can be full: half of a write gets there, and the host is told that it failed."""

    full = False

    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        if self.full:
            super().write(offset, memoryview(data)[: len(data) // 2])
            raise StoreError("there is no space left")
        super().write(offset, data, durable=durable)


class Bench:
    """One group with one pair, not started."""

    def __init__(
        self,
        directory: Path,
        mode: Mode,
        rng: random.Random | None = None,
        journal_bytes: int = MIB,
        *,
        before: Bench | None = None,
    ) -> None:
        """``before``: the process that was killed; this one finds what it left, at both ends."""
        self.wire: Wire = Wire(rng) if before is None else before.wire
        self.disk: Disk = Disk(SIZE) if before is None else before.disk
        self.clock = Clock()
        self.store = ReplicatedStore(self.disk)
        self.threads = ThreadPoolExecutor(8)
        self.hosts = ThreadPoolExecutor(4)
        record = (
            before.group.record
            if before is not None
            else GroupRecord(
                name="g1",
                group="00000000-0000-0000-0000-0000000000ab",
                generation=1,
                role=Role.PRIMARY,
                mode=mode,
                fence=Fence.NEVER,
                remote=RemotePlace(host="127.0.0.2", port=3260, iqn="iqn.2026-11.org.example:west"),
                local_port="127.0.0.1",
                journal=None,
                remote_journal_lun=1,
                sessions=1,
                connections_per_session=2,
                priority=0,
                self_applying=False,
                pairs=(PairRecord(volume="vol0", remote_lun=0, state=PairState.COPY),),
            )
        )

        def links(wanted: GroupRecord) -> LinkSet:
            slots = [Slot(0, number) for number in range(wanted.connections_per_session)]
            return LinkSet(self.wire, slots, lambda _: cast(Allocation, None), timeout_s=30, unmap=False)

        self.group: PrimaryGroup = PrimaryGroup(
            record,
            [self.store],
            GroupFiles(directory),
            GroupSettings(
                journal_bytes=journal_bytes,
                epoch_interval_s=0.001,
                checkpoint_s=0.005,
                ping_s=60.0,
                room_patience_s=0.5,
                retry_s=(0.001,),
                limits=StreamLimits(
                    write_bytes=16384, epoch_bytes=65536, final_bytes=32768, pass_bytes=131072
                ),
            ),
            links,
            self.threads,
            "east",
            clock=self.clock,
            sync_slots=threading.Semaphore(10),
            fresh=before is None,
        )

    async def write(self, block: int, data: bytes) -> None:
        """One write of a host, on a thread as every host's."""
        work = asyncio.get_running_loop().run_in_executor(
            self.hosts, lambda: self.store.write(block * BLOCK, data)
        )
        with contextlib.suppress(StatusOnly):
            await work

    @property
    def state(self) -> PairState:
        return self.group.record.pairs[0].state

    @property
    def paired(self) -> bool:
        """The remote image has everything, the checkpoints are over, and hosts may write."""
        tracker = self.group.trackers[0]
        if self.store._frozen:
            return False  # in the last step of a copy
        quiet = not (self.group.journal.records or tracker.bitmap.dirty_bytes or tracker.pending)
        found = self.group.superblock
        return self.state is PairState.PAIR and found is not None and found.consistent and quiet

    async def until(self, reached: Callable[[], bool]) -> None:
        """The test's own time-out bounds it."""
        while not reached():
            assert not self.clock.spun, SPINS
            assert "internal error" not in self.group.record.error, self.group.record.error
            await asyncio.sleep(0.001)

    def image(self) -> bytes:
        return b"".join(self.store.inner.read(0, SIZE))


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    """Its engine at work until the block ends; whoever gets to run beside it takes the clock back to 0."""

    async def beat() -> None:
        while True:
            bench.clock.turns = 0
            await asyncio.sleep(0.001)

    heart = asyncio.create_task(beat())
    bench.group.start()
    try:
        yield
    finally:
        bench.wire.go_on.set()
        heart.cancel()
        bench.clock.turns = 0
        await bench.group.close()
        bench.group.close_files()
        bench.hosts.shutdown()
        bench.threads.shutdown()


def names_an_epoch(lun: int, cdb: bytes) -> bool:
    """A WRITE to the journal volume's superblock."""
    return lun == 1 and cdb[0] == WRITE and int.from_bytes(cdb[2:10], "big") * 512 < 8192


def test_a_drain_whose_last_write_has_arrived_lets_everybody_run(tmp_path: Path) -> None:
    """It was over for the engine, which then turned on the spot, before whoever waited for it could run and see so."""

    async def play() -> None:
        bench = Bench(tmp_path, Mode.ASYNC)
        async with running(bench):
            await bench.until(lambda: bench.paired)
            for number in range(20):
                bench.wire.held.clear()
                bench.wire.go_on.clear()
                bench.wire.hold = names_an_epoch
                await bench.write(number, bytes((number + 1,)) * BLOCK)
                await bench.wire.held.wait()  # one write is on its way
                splitting = asyncio.create_task(bench.group.split())
                await bench.until(lambda: bench.group._draining)
                bench.wire.hold = lambda lun, cdb: False
                bench.wire.go_on.set()
                await splitting
                assert bench.state is PairState.PSUS
                assert bench.wire.image() == bench.image(), "a split waits for what was written before it"
                assert not bench.clock.spun, SPINS
                await bench.group.resync(full=False)
                await bench.until(lambda: bench.paired)

    asyncio.run(play())


@pytest.mark.parametrize("mode", list(Mode))
def test_a_group_with_nothing_to_do_asks_nobody(tmp_path: Path, mode: Mode) -> None:
    """Also while somebody drains it: the engine waits for an event, it does not look again and again."""

    async def play() -> None:
        bench = Bench(tmp_path, mode)
        async with running(bench):
            await bench.write(3, b"x" * BLOCK)
            await bench.until(lambda: bench.paired)
            bench.group._draining = True
            bench.group.wake()
            await asyncio.sleep(0.002)
            before = bench.clock.asked
            for _ in range(100):
                await asyncio.sleep(0.001)
            bench.group._draining = False
            assert not bench.clock.spun, SPINS
            assert bench.clock.asked - before <= 4, "it looks again and again"

    asyncio.run(play())


def test_a_write_that_was_torn_by_a_kill_is_carried_out_again_at_both_ends(tmp_path: Path) -> None:
    """The journal had it as a whole before the volume and the channel had any of it."""

    async def play() -> None:
        killed = Bench(tmp_path, Mode.ASYNC)
        async with running(killed):
            await killed.until(lambda: killed.paired)
            killed.wire.cut = "cut"
            await killed.until(lambda: killed.group.links is None)
            await killed.write(5, b"new!" * 1024)
        killed.disk.write(5 * BLOCK, b"torn" * 512 + bytes(2048))
        killed.wire.cut = ""
        again = Bench(tmp_path, Mode.ASYNC, before=killed)
        async with running(again):
            await again.until(lambda: again.paired)
        assert (
            again.image()[5 * BLOCK : 6 * BLOCK]
            == again.wire.image()[5 * BLOCK : 6 * BLOCK]
            == b"new!" * 1024
        )
        assert again.image() == again.wire.image()

    asyncio.run(play())


@pytest.mark.parametrize("mode", list(Mode))
def test_a_write_that_a_full_disk_here_refused_leaves_both_ends_equal(tmp_path: Path, mode: Mode) -> None:
    async def play() -> None:
        bench = Bench(tmp_path, mode)
        async with running(bench):
            await bench.until(lambda: bench.paired)
            bench.disk.full = True
            with pytest.raises(StoreError, match="no space left"):
                await bench.write(7, b"x" * BLOCK)
            bench.disk.full = False
            await bench.write(9, b"y" * BLOCK)
            await bench.until(lambda: bench.paired)
            assert bench.wire.image() == bench.image()

    asyncio.run(play())


class Life:
    """Hosts that write, and a channel and an operator who do what they like, as one seed has it."""

    def __init__(self, bench: Bench, rng: random.Random) -> None:
        self.bench, self.rng = bench, rng
        self.numbers = iter(range(1, 1 << 30))
        self.over = False

    async def host(self) -> None:
        while not self.over:
            number = next(self.numbers)
            await self.bench.write(
                self.rng.randrange(SIZE // BLOCK), number.to_bytes(8, "big") * (BLOCK // 8)
            )

    async def split(self) -> None:
        if self.bench.state in (PairState.PAIR, PairState.COPY, PairState.PSUE):
            await self.bench.group.split()

    async def resync(self) -> None:
        group = self.bench.group
        if group.record.held or self.bench.state in (PairState.PSUS, PairState.PSUE):
            await group.resync(full=self.rng.random() < 0.3)

    async def cut(self) -> None:
        """For a moment, or until the journal is full."""
        self.bench.wire.cut = "cut"
        await asyncio.sleep(self.rng.choice((0.0, 0.002, 0.02)))
        self.bench.wire.cut = ""

    async def refuse(self) -> None:
        """A remote disk that takes no writes for a moment: the group is held until somebody resumes it."""
        self.bench.wire.refuses = True
        await asyncio.sleep(self.rng.choice((0.0, 0.002)))
        self.bench.wire.refuses = False

    async def rest(self) -> None:
        await asyncio.sleep(self.rng.choice((0.0, 0.001, 0.005)))

    async def drain(self) -> None:
        """As a swap does it, whose hosts then stay where they are."""
        group = self.bench.group
        await group.freeze_all()
        await group.drain()
        group.thaw_all()

    async def lead(self, steps: int) -> None:
        hosts = [asyncio.create_task(self.host()) for _ in range(2)]
        things = (
            self.split,
            self.resync,
            self.resync,
            self.cut,
            self.refuse,
            self.drain,
            self.rest,
            self.rest,
        )
        for _ in range(steps):
            await self.rng.choice(things)()
            assert not self.bench.clock.spun, SPINS
        self.over = True
        await asyncio.gather(*hosts)


def live(directory: Path, mode: Mode, seed: int, steps: int) -> None:
    async def play() -> None:
        rng = random.Random(seed)
        bench = Bench(directory, mode, rng, journal_bytes=rng.choice((65536, MIB)))
        async with running(bench):
            await Life(bench, rng).lead(steps)
            while not bench.paired:
                if bench.group.record.held or bench.state is PairState.PSUS:
                    await bench.group.resync(full=False)
                assert not bench.clock.spun, SPINS
                await asyncio.sleep(0.001)
            assert bench.wire.image() == bench.image()

    asyncio.run(play())


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_comes_a_group_neither_spins_nor_stands_still_nor_loses(
    tmp_path: Path, mode: Mode, seed: int
) -> None:
    live(tmp_path, mode, seed, steps=40)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", list(Mode))
def test_a_group_lives_through_a_hundred_lives(tmp_path: Path, mode: Mode) -> None:
    first = int(time.time())
    for seed in range(first, first + 100):
        print(f"seed {seed}")
        directory = tmp_path / str(seed)
        directory.mkdir()
        live(directory, mode, seed, steps=60)
