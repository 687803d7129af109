"""What a primary does with each write of a host, on the host's own thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from iscsi_target.executor import Buffer
from iscsi_target.scsi.errors import StatusOnly, StoreError
from iscsi_target.scsi.status import Status
from iscsi_target.scsi.stores.store import BackingStore
from mgmt.array.replication.journal import Journal, JournalError, JournalFull
from mgmt.array.replication.tracker import ChangeTracker

#: A longer write becomes several records; an epoch may end between them.
RECORD_BYTES = 1 << 20
_DISCARD_BYTES = 16 << 20
_ZEROS_BYTES = 1 << 30


class Capture(Enum):
    """How changes of a volume are kept for the secondary."""

    NOTE = "set the blocks in the bitmap"
    JOURNAL = "number them in the journal"
    SYNC = "have them at the secondary before the answer"
    REFUSE = "tell the host BUSY: the secondary cannot have them now (fence DATA)"


class Suspended(Exception):
    """The secondary cannot have this write; the pair is suspended, and one line says why."""


class ChargedCache(Protocol):
    """The cache memory as far as others keep something in it."""

    def charge(self, holder: str, size_bytes: int) -> bool:
        """Take so much; False where there is not so much free."""
        ...

    def discharge(self, holder: str, size_bytes: int) -> None:
        """Give so much back."""
        ...


class SyncChannel(Protocol):
    """The engine's side of synchronous writes; called on hosts' threads.

    Each begins, and returns at once what has to be called once to wait for the end, which raises :class:`Suspended`.
    """

    def replicate(
        self, index: int, offset: int, data: Buffer | None, length: int, *, durable: bool
    ) -> Callable[[], None]:
        """Send a write, ``data`` None: zeros; at its end the secondary has it."""
        ...

    def flush_remote(self, index: int) -> Callable[[], None]:
        """At its end the secondary has flushed."""
        ...


class CacheShare:
    """What the journal keeps in the cache memory 102, if there is one: as many bytes as it holds in memory."""

    def __init__(self, name: str, cache: ChargedCache | None) -> None:
        self._name = f"pair {name}"
        self._cache = cache
        self._charged = 0

    def keep(self, size_bytes: int) -> bool:
        """Have ``size_bytes`` charged from here on; False, and nothing is changed, where there is no room for more."""
        if self._cache is None:
            return True
        more = size_bytes - self._charged
        if more > 0 and not self._cache.charge(self._name, more):
            return False
        if more < 0:
            self._cache.discharge(self._name, -more)
        self._charged = size_bytes
        return True


class JournalSide:
    """The journal with everybody who writes to it: who waits for room, and what happens when there is none."""

    def __init__(
        self,
        journal: Journal,
        trackers: Sequence[ChangeTracker],
        *,
        patience_s: float,
        wake: Callable[[], None],
        cache: CacheShare,
    ) -> None:
        self.journal = journal
        self.lock = threading.Lock()
        self._trackers = trackers
        self._patience_s = patience_s
        self._wake = wake
        self._cache = cache
        self._room = threading.Condition(self.lock)
        self.draining = False
        """Whether records are on their way to the secondary, so that waiting for room makes sense."""
        self.on_overflow: Callable[[str], None] = lambda reason: None
        self.waits = 0
        self.lanes: list[PrimaryLane] = []

    def released(self) -> None:
        """Records have left, or the channel has changed."""
        with self.lock:
            self._cache.keep(self.journal.pending_bytes)
            self._room.notify_all()

    def append(self, lane: PrimaryLane, offset: int, data: Buffer | None, length: int) -> bool:
        """Number one change; False: it is to be noted in the bitmap instead."""
        with self.lock:
            while lane.capture is Capture.JOURNAL:
                try:
                    if not self._cache.keep(self.journal.pending_bytes + length):
                        raise JournalFull
                    self.journal.append(lane.index, offset, data, length)
                except JournalFull:
                    self.waits += 1
                    if self.draining and self._room.wait(self._patience_s):
                        continue
                    self._overflow("the journal is full: the channel takes less than the hosts write")
                except JournalError as error:
                    self._overflow(str(error))
                else:
                    self._wake()
                    return True
            return False

    def give_up(self, reason: str = "") -> None:
        """The bitmaps take over from the journal, which is empty from here on."""
        with self.lock:
            self._overflow(reason)

    def _overflow(self, reason: str) -> None:
        for record in self.journal.pending():
            bitmap = self._trackers[record.volume].bitmap
            bitmap.mark(record.offset_bytes, record.length_bytes)
        for lane in self.lanes:
            if lane.capture is Capture.JOURNAL:
                lane.capture = Capture.NOTE
        self.journal.reset()
        self._cache.keep(0)
        self._room.notify_all()
        if reason:
            self.on_overflow(reason)


class PrimaryLane:
    """The lane of one P-VOL (:class:`~.replicated_store.Lane`). ``capture`` changes while the volume is frozen, or
    from JOURNAL to NOTE under the journal side's lock."""

    def __init__(
        self,
        index: int,
        tracker: ChangeTracker,
        side: JournalSide,
        channel: SyncChannel,
        slots: threading.Semaphore,
    ) -> None:
        self.index = index
        self.tracker = tracker
        self.capture = Capture.NOTE
        self.refuses = False
        """Fence DATA: a write that the secondary cannot have fails."""
        self._side = side
        self._channel = channel
        self._slots = slots

    def write(self, store: BackingStore, offset: int, data: Buffer, *, durable: bool) -> None:
        """One write."""
        length = len(data)
        if self.capture is Capture.JOURNAL:
            self._journalled(offset, data, length, lambda: store.write(offset, data, durable=durable))
        else:
            self._tracked(offset, data, length, lambda: store.write(offset, data, durable=durable), durable)

    def discard(self, store: BackingStore, offset: int, length: int) -> None:
        """One discard, in steps."""
        step = _ZEROS_BYTES if self.capture is Capture.JOURNAL else _DISCARD_BYTES
        while length:
            piece = min(step, length)
            at = offset

            def carry_out(at: int = at, piece: int = piece) -> None:
                store.discard(at, piece)

            if self.capture is Capture.JOURNAL:
                self._journalled(at, None, piece, carry_out)
            else:
                self._tracked(at, None, piece, carry_out, False)
            offset, length = offset + piece, length - piece

    def flush(self, store: BackingStore) -> None:
        """The volume here, and there where every write is there."""
        if self.capture is Capture.SYNC:
            self._at_both_ends(store.flush, self._channel.flush_remote(self.index))
        else:
            store.flush()

    def _journalled(
        self, offset: int, data: Buffer | None, length: int, carry_out: Callable[[], None]
    ) -> None:
        self.tracker.enter(offset, length)
        try:
            noted = False
            step = length if data is None else RECORD_BYTES
            for start in range(0, length, step):
                size = min(step, length - start)
                piece = None if data is None else memoryview(data)[start : start + size]
                if not self._side.append(self, offset + start, piece, size):
                    noted = True
                    break
            if noted:
                self.tracker.bitmap.mark(offset, length)
            self._try(carry_out, offset, length)
            if not noted and self.capture is not Capture.JOURNAL:  # the bitmaps took over meanwhile
                self.tracker.bitmap.mark(offset, length)
        finally:
            self.tracker.end(offset, length, replicated=False)

    def _tracked(
        self,
        offset: int,
        data: Buffer | None,
        length: int,
        carry_out: Callable[[], None],
        durable: bool,
    ) -> None:
        if self.capture is Capture.REFUSE:
            raise StatusOnly(Status.BUSY)
        waits = self.capture is Capture.SYNC
        if waits and not self._slots.acquire(blocking=False):
            raise StatusOnly(Status.TASK_SET_FULL)  # the other threads are for the partner's commands
        try:
            self._carry_out(offset, data, length, carry_out, durable, replicates=waits)
        finally:
            if waits:
                self._slots.release()

    def _carry_out(
        self,
        offset: int,
        data: Buffer | None,
        length: int,
        carry_out: Callable[[], None],
        durable: bool,
        *,
        replicates: bool,
    ) -> None:
        """Both ends are written at the same time: the blocks are set before, and the host has no answer before both
        have it, so whoever dies in between leaves nothing that is not known or not expected."""
        replicated = False
        era = self.tracker.era
        self.tracker.begin(offset, length)
        try:
            if replicates:
                sent = self._channel.replicate(self.index, offset, data, length, durable=durable)
                replicated = self._at_both_ends(lambda: self._try(carry_out, offset, length), sent)
            else:
                self._try(carry_out, offset, length)
        finally:
            self.tracker.end(offset, length, replicated=replicated and era == self.tracker.era)

    def _try(self, carry_out: Callable[[], None], offset: int, length: int) -> None:
        """A volume that did not take a change may have half of it, and the secondary none or all: that is copied."""
        try:
            carry_out()
        except StoreError as error:
            self.tracker.bitmap.mark(offset, length)
            if self.capture in (Capture.JOURNAL, Capture.SYNC):
                self._side.give_up(f"a write to the volume here failed: {error}")
            raise

    def _at_both_ends(self, carry_out: Callable[[], None], ended: Callable[[], None]) -> bool:
        """Do here what is on its way there, and wait for that in any case; whether it is done at both ends. BUSY where
        it has to be and is not."""
        try:
            carry_out()
        except BaseException:
            with contextlib.suppress(Suspended):
                ended()
            raise
        try:
            ended()
        except Suspended as reason:
            if self.refuses:
                raise StatusOnly(Status.BUSY) from reason
            return False
        return True


class NotingLane:
    """The lane of an S-VOL that was taken over: its changes are noted for the way back."""

    def __init__(self, tracker: ChangeTracker) -> None:
        self.tracker = tracker

    def write(self, store: BackingStore, offset: int, data: Buffer, *, durable: bool) -> None:
        """Note and write."""
        self.tracker.bitmap.announce(offset, len(data))
        self.tracker.bitmap.mark(offset, len(data))
        store.write(offset, data, durable=durable)

    def discard(self, store: BackingStore, offset: int, length: int) -> None:
        """Note and discard."""
        self.tracker.bitmap.announce(offset, length)
        self.tracker.bitmap.mark(offset, length)
        store.discard(offset, length)

    def flush(self, store: BackingStore) -> None:
        """Here only."""
        store.flush()
