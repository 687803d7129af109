"""A consistency group at its primary: its volumes' lanes, its states, and the engine that keeps the channel busy.

Hosts' threads come in through the lanes; the engine is one task on the data loop. What both change is behind a lock:
the record of the group (its states, on disk before anybody acts on them) and the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from credits.errors import CreditError
from iscsi_target.scsi.errors import StoreError
from mgmt.array.replication.admission import Finding, RemoteUnfit
from mgmt.array.replication.bitmap import ChangeBitmap
from mgmt.array.replication.engine import Signal
from mgmt.array.replication.group_record import Fence, GroupFiles, GroupRecord, Mode, RecordError
from mgmt.array.replication.journal import Journal, JournalError
from mgmt.array.replication.lanes import (
    CacheShare,
    Capture,
    ChargedCache,
    JournalSide,
    PrimaryLane,
)
from mgmt.array.replication.link_set import LinkSet
from mgmt.array.replication.pair_state import TRANSITIONS, PairInput, PairState
from mgmt.array.replication.remote_log import Superblock
from mgmt.array.replication.replicated_store import ReplicatedStore
from mgmt.array.replication.stream import Stream, StreamLimits
from mgmt.array.replication.sync_writes import SyncWrites
from mgmt.array.replication.tracker import ChangeTracker
from mgmt.array.replication.transport import LinkLost, RemoteRefused

_log = logging.getLogger(__name__)

T = TypeVar("T")
OpenLinks = Callable[[GroupRecord], LinkSet]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """How a group behaves in time and space; times in seconds."""

    journal_bytes: int = 32 << 20
    epoch_interval_s: float = 0.05
    checkpoint_s: float = 0.5
    ping_s: float = 5.0
    sync_timeout_s: float = 5.0
    room_patience_s: float = 10.0
    drain_s: float = 20.0
    retry_s: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0)
    limits: StreamLimits = field(default_factory=StreamLimits)


class PrimaryGroup:
    """One group with this array as primary. Made blocking, before hosts are served; :meth:`start` begins to connect.

    ``fresh``: it is new, so every block is to be copied. ``sync_slots`` bounds how many hosts' threads of the array
    wait for other arrays at once.

    Raises RecordError, BitmapError, JournalError, StoreError.
    """

    def __init__(
        self,
        record: GroupRecord,
        stores: Sequence[ReplicatedStore],
        files: GroupFiles,
        settings: GroupSettings,
        open_links: OpenLinks,
        executor: Executor,
        primary: str,
        cache: ChargedCache | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        *,
        sync_slots: threading.Semaphore,
        fresh: bool = False,
    ) -> None:
        self.record = record
        self.stores = tuple(stores)
        self._files = files
        self._settings = settings
        self._open_links = open_links
        self._executor = executor
        self._primary = primary
        self._clock = clock
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._progress = Signal()
        """Records have left the journal, or the channel is gone; for who waits for that."""
        self._woken = False
        self._stream: Stream | None = None
        self._reserved_units: Callable[..., int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._draining = False
        self._sent_bytes = self._resynced_bytes = 0
        self.trackers = [
            ChangeTracker(ChangeBitmap(files.bitmap(record.name, pair.volume), store.size_bytes))
            for pair, store in zip(record.pairs, stores, strict=True)
        ]
        self.journal = Journal(files.journal(record.name), settings.journal_bytes, clock)
        self.side = JournalSide(
            self.journal,
            self.trackers,
            patience_s=settings.room_patience_s,
            wake=self._wake_from_thread,
            cache=CacheShare(record.name, cache),
        )
        self.side.on_overflow = self._overflowed
        self._sync = SyncWrites(
            self._up,
            lambda index: self.record.pairs[index].remote_lun,
            self._suspend,
            self.wake,
            timeout_s=settings.sync_timeout_s,
            checkpoint_s=settings.checkpoint_s,
        )
        self.lanes = [
            PrimaryLane(index, tracker, self.side, self._sync, sync_slots)
            for index, tracker in enumerate(self.trackers)
        ]
        self.side.lanes = self.lanes
        if fresh:
            for tracker in self.trackers:
                tracker.bitmap.mark_all()
            files.save(record)
        else:
            self._redo()
            self.apply(PairInput.ERROR, "the array has started; the channel is not up yet")
        self._choose_captures()
        for store, lane in zip(self.stores, self.lanes, strict=True):
            store.attach(lane)

    # -- at the start of the process --------------------------------------------------------------------------

    def _redo(self) -> None:
        """A write is in the journal before it is in its volume: carry out again what may not have got there."""
        for record in self.journal.pending():
            if record.volume >= len(self.stores):
                continue
            inner = self.stores[record.volume].inner
            if record.data is None:
                inner.discard(record.offset_bytes, record.length_bytes)
            else:
                inner.write(record.offset_bytes, record.data)

    def _choose_captures(self) -> None:
        """How each volume's changes are kept until the channel is up."""
        for pair, lane in zip(self.record.pairs, self.lanes, strict=True):
            lane.refuses = self.record.mode is Mode.SYNC and self.record.fence is Fence.DATA
            whole = not lane.tracker.bitmap.dirty_bytes
            if self.record.mode is Mode.ASYNC and pair.state is PairState.PSUE and whole and pair.once_paired:
                lane.capture = Capture.JOURNAL
            elif lane.refuses and pair.once_paired:
                lane.capture = Capture.REFUSE
        if any(self.lanes[item.volume].capture is not Capture.JOURNAL for item in self.journal.pending()):
            self.side.give_up()  # a volume whose changes are noted has nothing in the journal

    # -- states -----------------------------------------------------------------------------------------------

    def apply(
        self, what: PairInput, error: str = "", volumes: Iterable[str] | None = None, **changes: Any
    ) -> bool:
        """Take every pair for which ``what`` means something to its next state, on disk when this returns.

        Blocking. True where something changed. RecordError.
        """
        with self._lock:
            states, once = {}, {}
            for pair in self.record.pairs:
                after = TRANSITIONS.get(((self.record.role, pair.state), what))
                if after is not None and (volumes is None or pair.volume in set(volumes)):
                    states[pair.volume] = after[1]
                    if what in (PairInput.COPIED, PairInput.SPLIT):
                        once[pair.volume] = what is PairInput.COPIED
            if not states and not changes:
                return False
            record = self.record.with_states(states, error)
            pairs = tuple(
                replace(pair, once_paired=once.get(pair.volume, pair.once_paired)) for pair in record.pairs
            )
            record = replace(record, pairs=pairs, **changes)
            if record != self.record:
                self._files.save(record)
                self.record = record
            return bool(states)

    def states(self) -> list[PairState]:
        """The pairs' states, in their order."""
        return [pair.state for pair in self.record.pairs]

    def _index(self, volume: str) -> int:
        return next(number for number, pair in enumerate(self.record.pairs) if pair.volume == volume)

    # -- hosts' threads ---------------------------------------------------------------------------------------

    def _up(self) -> LinkSet:
        if self._stream is None:
            raise LinkLost(self.record.error or "the channel is not up")
        return self._stream.links

    def _suspend(self, reason: str, *, held: bool = False) -> None:
        """The channel does not work: PSUE, before anybody is answered on the strength of it. Blocking."""
        with self._lock:
            changed = self.apply(PairInput.ERROR, reason, held=held or self.record.held)
            for lane in self.lanes:
                if lane.capture is Capture.SYNC:
                    lane.capture = Capture.REFUSE if lane.refuses else Capture.NOTE
            if changed:
                _log.warning("group %s is suspended: %s", self.record.name, reason)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._lose, reason)

    def _lose(self, reason: str) -> None:
        if self._stream is not None:
            self._stream.links.fail(reason)

    def _overflowed(self, reason: str) -> None:
        """Called under the journal side's lock: the bitmaps have taken over."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._lose, reason)

    def _wake_from_thread(self) -> None:
        if not self._woken and self._loop is not None:
            self._woken = True
            self._loop.call_soon_threadsafe(self._wake.set)

    def wake(self) -> None:
        """Something changed; on the data loop."""
        self._wake.set()

    # -- the engine -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect; on the data loop."""
        self._loop = asyncio.get_running_loop()
        self._sync.start()
        self._task = self._loop.create_task(self._run(), name=f"group {self.record.name}")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("group %s ended on a defect", self.record.name, exc_info=error)
            self._executor.submit(self._suspend, f"internal error: {error!r}", held=True)

    async def close(self) -> None:
        """End the engine; every unit is back when this returns. The lanes stay where they are."""
        self._closing = True
        self._wake.set()
        self._lose("the array ends")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.side.draining = False
        self.side.released()

    def close_files(self) -> None:
        """Let go of bitmap and journal; blocking, with no host writing any more."""
        for tracker in self.trackers:
            tracker.bitmap.close()
        self.journal.close()

    async def _thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    @property
    def _wants_channel(self) -> bool:
        moving = (PairState.COPY, PairState.PAIR, PairState.PSUE)
        return not self.record.held and any(state in moving for state in self.states())

    async def _run(self) -> None:
        tries = 0
        while not self._closing:
            if not self._wants_channel:
                self._wake.clear()
                if not self._wants_channel:
                    await self._wake.wait()
                continue
            try:
                links = self._open_links(self.record)
            except CreditError as error:
                await self._thread(partial(self._suspend, str(error), held=True))
                continue
            try:
                await links.open()
                tries = 0
                await self._serve(links)
            except (LinkLost, TimeoutError) as lost:
                reason = str(lost) or "the remote array does not answer"
                await self._thread(partial(self._suspend, reason))
            except (RemoteRefused, RemoteUnfit) as refused:
                await self._thread(partial(self._suspend, str(refused), held=True))
            except (StoreError, JournalError, RecordError) as failed:
                await self._thread(partial(self._suspend, str(failed)))
            finally:
                if self._stream is not None:
                    self._resynced_bytes += self._stream.resynced_bytes
                self._stream = None
                self.side.draining = False
                self.side.released()
                self._progress.notify()
                for tracker in self.trackers:
                    tracker.forget_all()
                self._sent_bytes += links.sent_bytes
                await links.close()
            if not self._closing:
                await self._pause(self._settings.retry_s[min(tries, len(self._settings.retry_s) - 1)])
                tries += 1

    async def _pause(self, seconds: float) -> None:
        """Wait, or until somebody wants something."""
        self._wake.clear()
        self._woken = False
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _serve(self, links: LinkSet) -> None:
        """Do everything there is to do over ``links``, until they break or nothing is wanted any more."""
        stream = Stream(
            links,
            lambda: self.record,
            self.stores,
            self.trackers,
            self.journal,
            self._executor,
            self._settings.limits,
            self._primary,
        )
        if self.record.full:
            await self._thread(self._begin_anew)
        finding = await stream.begin()
        if finding is Finding.AHEAD:
            await self._thread(partial(self._catch_up, stream))
        await self._thread(self._resume)
        self._stream = stream
        if self._reserved_units is not None:  # it may have changed while the connections came up
            await links.resize(self._reserved_units)
        await stream.tell()
        self.side.draining = True
        checkpoint_ns = self._clock()
        while self._wants_channel and not self._closing:
            if links.lost is not None:
                raise LinkLost(links.lost)
            self._wake.clear()
            self._woken = False
            began_ns = self._clock()
            busy = bool(await stream.send_epoch())
            self.side.released()
            self._progress.notify()
            busy |= await self._copy(stream)
            pending = any(tracker.pending for tracker in self.trackers)
            if pending and (self._clock() - checkpoint_ns) / 1e9 >= self._settings.checkpoint_s:
                await stream.checkpoint()
                checkpoint_ns = self._clock()
            if not busy and not self.journal.records:
                await self._idle(links, self._settings.checkpoint_s if pending else self._settings.ping_s)
                if not self._wake.is_set() and links.lost is None and not pending:
                    await links.ping(self.record.remote_journal_lun)
            elif busy and not self._draining and PairState.COPY not in self.states():
                spare_s = self._settings.epoch_interval_s - (self._clock() - began_ns) / 1e9
                if spare_s > 0:
                    await asyncio.sleep(spare_s)
        await stream.checkpoint()

    async def _idle(self, links: LinkSet, timeout_s: float | None) -> None:
        """Until there is something to do, or the links break."""
        waits = [asyncio.ensure_future(self._wake.wait()), asyncio.ensure_future(links.wait_until_lost())]
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _begin_anew(self) -> None:
        """A full copy was asked for: whatever the remote array has is written over."""
        with self.side.lock:
            for lane in self.lanes:
                if lane.capture is Capture.JOURNAL:
                    lane.capture = Capture.NOTE
            self.journal.reset()
        for tracker in self.trackers:
            tracker.bitmap.mark_all()

    def _catch_up(self, stream: Stream) -> None:
        """The remote array has writes that this one lost with its power: number on from there."""
        self.side.give_up()
        found = stream.superblock
        self.journal.reset(found.last_seq)
        self.journal.release(found.last_seq, found.epoch)

    def _resume(self) -> None:
        """The channel is up: what the journal has goes on, the rest is copied."""
        whole = [
            pair.volume
            for pair, lane in zip(self.record.pairs, self.lanes, strict=True)
            if lane.capture is Capture.JOURNAL and not lane.tracker.bitmap.dirty_bytes
        ]
        self.apply(PairInput.RECOVERED, "", whole, full=False)
        self.apply(PairInput.RESYNC, "", [p.volume for p in self.record.pairs if p.state is PairState.PSUE])

    # -- copying ----------------------------------------------------------------------------------------------

    async def _copy(self, stream: Stream) -> bool:
        copying = [pair.volume for pair in self.record.pairs if pair.state is PairState.COPY]
        for volume in copying:
            index = self._index(volume)
            tracker = self.trackers[index]
            if tracker.bitmap.dirty_bytes > stream.final_bytes():
                each = 2 if self.record.mode is Mode.SYNC else 8  # a host may be waiting behind these
                await stream.copy_some(index, min(64, each * stream.links.connections))
            if tracker.pending:
                await stream.checkpoint()
            if tracker.bitmap.dirty_bytes <= stream.final_bytes():
                await self._finish(stream, index, volume)
        return bool(copying)

    async def _finish(self, stream: Stream, index: int, volume: str) -> None:
        """The last step: hosts wait while what is left becomes one epoch; from then on nothing is left out."""
        store, lane = self.stores[index], self.lanes[index]
        await _freeze(store)
        try:
            if self.trackers[index].pending:
                await stream.checkpoint()
            if self.trackers[index].bitmap.dirty_bytes > stream.final_bytes():
                return  # hosts were quick; another round
            if self.journal.used_bytes > self.journal.capacity_bytes // 2:
                return  # full of other volumes' writes, which go first
            await self._thread(partial(stream.take_rest, index))
            if self.record.mode is Mode.SYNC:
                while await stream.send_epoch():
                    pass
            await self._thread(partial(self.apply, PairInput.COPIED, "", [volume]))
            lane.capture = Capture.JOURNAL if self.record.mode is Mode.ASYNC else Capture.SYNC
            if not self.journal.records:
                paired = all(state is not PairState.COPY for state in self.states())
                await stream.tell(consistent=paired or stream.superblock.consistent)
        finally:
            store.thaw()

    # -- verbs ------------------------------------------------------------------------------------------------

    async def split(self) -> None:
        """PSUS: the secondary gets what was written until now, where the channel is up; then changes are noted."""
        await self.freeze_all()
        try:
            await self.drain()
            await self._thread(self._split)
        finally:
            self.thaw_all()
        self.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s):
                while self._stream is not None:  # the secondary is told, and what is under way ends
                    await self._progress.wait()

    def _split(self) -> None:
        self.side.give_up()
        self.apply(PairInput.SPLIT)
        for lane in self.lanes:
            lane.capture = Capture.NOTE

    async def drain(self) -> bool:
        """With every volume frozen: wait until the secondary has the journal; False where that takes too long."""
        self._draining = True
        self.wake()
        try:
            async with asyncio.timeout(self._settings.drain_s):
                while self.journal.records and self._stream is not None:
                    await self._progress.wait()
        except TimeoutError:
            return False
        finally:
            self._draining = False
        return not self.journal.records

    async def freeze_all(self) -> None:
        """Keep every write to the group waiting."""
        for store in self.stores:
            await _freeze(store)

    def thaw_all(self) -> None:
        """Let writes go on."""
        for store in self.stores:
            store.thaw()

    async def resync(self, *, full: bool) -> None:
        """COPY of what has changed; with ``full`` of everything, whatever the remote array has."""
        await self._thread(
            partial(self.apply, PairInput.RESYNC, "", held=False, full=full or self.record.full)
        )
        if full:
            self._lose("a full copy begins")
        self.wake()

    async def resized(self, reserved_units: Callable[..., int]) -> None:
        """The reservation has changed (paragraph 97); connections that are coming up follow when they are there."""
        self._reserved_units = reserved_units
        if self._stream is not None:
            await self._stream.links.resize(reserved_units)

    # -- looking ----------------------------------------------------------------------------------------------

    @property
    def links(self) -> LinkSet | None:
        """The connections, while the channel is up."""
        return None if self._stream is None else self._stream.links

    @property
    def sent_bytes(self) -> int:
        """Bytes of every WRITE that the remote array has answered, since the process began."""
        now = self.links
        return self._sent_bytes + (0 if now is None else now.sent_bytes)

    @property
    def resynced_bytes(self) -> int:
        """Of them, those that were copied because a bitmap said so."""
        return self._resynced_bytes + (0 if self._stream is None else self._stream.resynced_bytes)

    @property
    def superblock(self) -> Superblock | None:
        """The metadata record at the secondary as it was last written, while the channel is up."""
        return None if self._stream is None else self._stream.superblock

    def dirty_bytes_of(self, index: int) -> int:
        """What the bitmap of a volume says is still to be copied."""
        return self.trackers[index].bitmap.dirty_bytes

    def rpo_bytes(self) -> int:
        """What hosts have been told is written, and the remote image does not have."""
        with self.side.lock:
            noted = sum(lane.tracker.bitmap.dirty_bytes for lane in self.lanes if not self._replicates(lane))
            return self.journal.pending_bytes + noted

    def _replicates(self, lane: PrimaryLane) -> bool:
        """Whether every change of a volume is in the remote image or in the journal; else some are in the bitmap."""
        paired = self.record.pairs[lane.index].state in (PairState.PAIR, PairState.PSUE)
        return paired and lane.capture in (Capture.JOURNAL, Capture.SYNC)

    def rpo_ns(self) -> int | None:
        """How old the remote image is: the age of the oldest write it does not have; None: nobody knows (COPY)."""
        with self.side.lock:  # the bitmaps may take over from the journal at any moment
            oldest = self.journal.oldest_ns()
            known = all(self._replicates(lane) for lane in self.lanes) and self.journal.ages_known
        if not known:
            return None
        if oldest is not None:
            return max(0, self._clock() - oldest)
        return None if PairState.PSUE in self.states() else 0


async def _freeze(store: ReplicatedStore) -> None:
    """Freeze a store; a caller that is cancelled meanwhile does not leave it frozen for ever."""
    freezing = asyncio.ensure_future(asyncio.to_thread(store.freeze))
    try:
        await asyncio.shield(freezing)
    except asyncio.CancelledError:
        freezing.add_done_callback(lambda _: store.thaw())
        raise
