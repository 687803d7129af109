"""What a primary does with a host's write, by the state that its pair is in; the channel is a stand-in."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from iscsi_target.executor import Buffer
from iscsi_target.scsi.errors import StatusOnly, StoreError
from iscsi_target.scsi.status import Status
from iscsi_target.scsi.stores.memory import MemoryStore
from mgmt.array.replication.bitmap import ChangeBitmap
from mgmt.array.replication.journal import Journal
from mgmt.array.replication.lanes import CacheShare, Capture, JournalSide, PrimaryLane, Suspended
from mgmt.array.replication.tracker import ChangeTracker

SIZE = 1 << 20


class StandIn:
    """A channel that takes writes, or does not. No real one can be made to fail at will on a thread of ours."""

    def __init__(self) -> None:
        self.fails = ""
        self.sent: list[tuple[int, int]] = []

    def replicate(
        self, index: int, offset: int, data: Buffer | None, length: int, *, durable: bool
    ) -> Callable[[], None]:
        return lambda: self._end((offset, length))

    def flush_remote(self, index: int) -> Callable[[], None]:
        return self._end

    def _end(self, *sent: tuple[int, int]) -> None:
        if self.fails:
            raise Suspended(self.fails)
        self.sent += sent


class Bench:
    def __init__(self, directory: Path, *, slots: int = 4, capacity: int = 64 * 1024) -> None:
        self.store = MemoryStore(SIZE)
        self.tracker = ChangeTracker(ChangeBitmap(directory / "bitmap", SIZE))
        self.journal = Journal(directory / "journal", capacity, lambda: 0)
        self.side = JournalSide(
            self.journal, [self.tracker], patience_s=0.01, wake=lambda: None, cache=CacheShare("g", None)
        )
        self.channel = StandIn()
        self.slots = threading.Semaphore(slots)
        self.lane = PrimaryLane(0, self.tracker, self.side, self.channel, self.slots)
        self.side.lanes = [self.lane]

    def write(self, offset: int, data: bytes) -> None:
        self.lane.write(self.store, offset, data, durable=False)

    @property
    def dirty(self) -> int:
        return self.tracker.bitmap.dirty_bytes

    def close(self) -> None:
        self.tracker.bitmap.close()
        self.journal.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_noted_write_sets_its_blocks_and_sends_nothing(bench: Bench) -> None:
    bench.write(4096, bytes(4097))
    assert (bench.dirty, bench.journal.records, bench.channel.sent) == (8192, 0, [])
    bench.close()


def test_a_journalled_write_is_numbered_and_sets_nothing(bench: Bench) -> None:
    bench.lane.capture = Capture.JOURNAL
    bench.write(0, b"a" * 512)
    bench.lane.discard(bench.store, 0, 4096)
    assert [record.data for record in bench.journal.pending()] == [b"a" * 512, None]
    assert bench.dirty == 0
    assert not b"".join(bench.store.read(0, 4096)).strip(b"\0")
    bench.close()


def test_a_journal_without_room_hands_everything_to_the_bitmap(bench: Bench) -> None:
    bench.lane.capture = Capture.JOURNAL
    reasons: list[str] = []
    bench.side.on_overflow = reasons.append
    for number in range(20):
        bench.write(number * 8192, bytes([number + 1]) * 8192)
    assert bench.lane.capture is Capture.NOTE
    assert bench.journal.records == 0
    assert bench.dirty == 20 * 8192
    assert len(reasons) == 1 and "full" in reasons[0]
    bench.close()


def test_a_synchronous_write_is_cleared_only_at_a_checkpoint(bench: Bench) -> None:
    bench.lane.capture = Capture.SYNC
    bench.write(0, bytes(4096))
    assert (bench.channel.sent, bench.dirty) == ([(0, 4096)], 4096)
    bench.tracker.checkpoint_done(bench.tracker.checkpoint_begins())
    assert bench.dirty == 0
    bench.close()


class Watched(MemoryStore):
    """Tells when it is written; ``fails``: it cannot be."""

    def __init__(self, events: list[str], *, fails: bool = False) -> None:
        super().__init__(SIZE)
        self._events = events
        self._fails = fails

    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        self._events.append("written here")
        if self._fails:
            raise StoreError("no room")
        super().write(offset, data, durable=durable)


class WatchedChannel(StandIn):
    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self._events = events

    def replicate(
        self, index: int, offset: int, data: Buffer | None, length: int, *, durable: bool
    ) -> Callable[[], None]:
        self._events.append("sent")
        ended = super().replicate(index, offset, data, length, durable=durable)

        def wait() -> None:
            self._events.append("waited")
            ended()

        return wait


@pytest.mark.parametrize("fails", [False, True])
def test_a_synchronous_write_is_on_its_way_while_the_volume_here_is_written_and_waited_for_in_any_case(
    tmp_path: Path, fails: bool
) -> None:
    bench, events = Bench(tmp_path), list[str]()
    lane = PrimaryLane(0, bench.tracker, bench.side, WatchedChannel(events), bench.slots)
    lane.capture = Capture.SYNC
    with pytest.raises(StoreError) if fails else contextlib.nullcontext():
        lane.write(Watched(events, fails=fails), 0, b"x" * 4096, durable=False)
    assert events == ["sent", "written here", "waited"]
    bench.tracker.checkpoint_done(bench.tracker.checkpoint_begins())
    assert bench.dirty == (4096 if fails else 0), "what is not known to be at both ends stays set"
    bench.close()


def test_what_the_secondary_cannot_have_stays_set_and_the_fence_says_what_the_host_is_told(
    bench: Bench,
) -> None:
    bench.lane.capture = Capture.SYNC
    bench.channel.fails = "the channel is down"
    bench.write(0, bytes(4096))  # fence never: answered all the same
    bench.tracker.checkpoint_done(bench.tracker.checkpoint_begins())
    assert bench.dirty == 4096
    bench.lane.refuses = True
    with pytest.raises(StatusOnly) as refused:
        bench.write(8192, bytes(4096))
    assert refused.value.status == Status.BUSY
    bench.lane.capture = Capture.REFUSE
    with pytest.raises(StatusOnly):
        bench.write(16384, b"x" * 4096)
    assert not b"".join(bench.store.read(16384, 4096)).strip(b"\0"), "a refused write changes nothing"
    bench.close()


def test_synchronous_writes_beyond_the_threads_for_them_are_told_task_set_full(tmp_path: Path) -> None:
    bench = Bench(tmp_path, slots=0)
    bench.lane.capture = Capture.SYNC
    with pytest.raises(StatusOnly) as refused:
        bench.write(0, b"x" * 4096)
    assert refused.value.status == Status.TASK_SET_FULL
    assert bench.dirty == 0
    assert not b"".join(bench.store.read(0, 4096)).strip(b"\0")
    bench.close()
