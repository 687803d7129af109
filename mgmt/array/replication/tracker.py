"""Which changed blocks may be called equal again, while hosts go on writing (sans-IO around the durable bitmap).

A bit is cleared only when the secondary has the block on its disk and no write touched the block since it was read
or sent. Until then a crash finds the bit set, and the block is sent again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from mgmt.array.replication.bitmap import BLOCK_BYTES, ChangeBitmap


@dataclass(slots=True, eq=False)
class CopyRun:
    """A run of blocks that is being sent: from reading it to the checkpoint that clears its bits."""

    first: int
    count: int
    touched: bool = False
    """A write came in between: what was sent is old."""

    @property
    def offset_bytes(self) -> int:
        """Where it begins in the volume."""
        return self.first * BLOCK_BYTES


class ChangeTracker:
    """The books of one volume. Thread-safe: hosts' threads write, the engine copies and checkpoints."""

    def __init__(self, bitmap: ChangeBitmap) -> None:
        self.bitmap = bitmap
        self.era = 0
        """Counts the times that the channel broke: what was sent before may never have reached a disk."""
        self._lock = threading.Lock()
        self._inflight: dict[int, int] = {}
        self._runs: dict[int, CopyRun] = {}
        self._sent: list[CopyRun] = []
        self._settled: dict[int, None] = {}
        self._settling: dict[int, None] = {}

    def _blocks(self, offset: int, length: int) -> range:
        return range(offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES + 1)

    # -- writes of hosts --------------------------------------------------------------------------------------

    def begin(self, offset: int, length: int) -> None:
        """A write is about to change these bytes; its blocks are set from here on."""
        self.bitmap.announce(offset, length)
        with self._lock:
            self.bitmap.mark(offset, length)
            for block in self._blocks(offset, length):
                self._inflight[block] = self._inflight.get(block, 0) + 1
                self._settled.pop(block, None)
                self._settling.pop(block, None)
                run = self._runs.get(block)
                if run is not None:
                    run.touched = True

    def enter(self, offset: int, length: int) -> None:
        """A write that the journal has is about to change these bytes: nothing is set, but no copy of them counts."""
        self.bitmap.announce(offset, length)
        with self._lock:
            for block in self._blocks(offset, length):
                self._inflight[block] = self._inflight.get(block, 0) + 1
                run = self._runs.get(block)
                if run is not None:
                    run.touched = True

    def end(self, offset: int, length: int, *, replicated: bool) -> None:
        """The write is over; ``replicated``: the secondary has it too, so the next checkpoint may clear its blocks."""
        with self._lock:
            for block in self._blocks(offset, length):
                left = self._inflight[block] - 1
                if left:
                    self._inflight[block] = left
                else:
                    del self._inflight[block]
                    if replicated:
                        self._settled[block] = None

    # -- copying ----------------------------------------------------------------------------------------------

    def take(self, start: int, most: int) -> CopyRun | None:
        """The next run from block ``start`` on that is set and not under way; None at the end."""
        while (found := self.bitmap.next_run(start, most)) is not None:
            with self._lock:
                first, end = found[0], found[0] + found[1]
                while first < end and self._busy(first):
                    first += 1
                stop = first
                while stop < end and not self._busy(stop):
                    stop += 1
                if stop > first:
                    run = CopyRun(first, stop - first)
                    run.touched = any(block in self._inflight for block in range(first, stop))
                    for block in range(first, stop):
                        self._runs[block] = run
                    return run
            start = end
        return None

    def _busy(self, block: int) -> bool:
        return block in self._runs or block in self._settled or block in self._settling

    def sent(self, run: CopyRun) -> None:
        """The secondary has acknowledged the run."""
        with self._lock:
            self._sent.append(run)

    def dropped(self, run: CopyRun) -> None:
        """The run was not sent; its blocks stay set."""
        with self._lock:
            self._forget(run)

    def _forget(self, run: CopyRun) -> None:
        for block in range(run.first, run.first + run.count):
            if self._runs.get(block) is run:
                del self._runs[block]

    # -- checkpoints ------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether a checkpoint would clear anything."""
        return bool(self._sent or self._settled)

    def checkpoint_begins(self) -> list[CopyRun]:
        """What is to be cleared once the secondary has flushed; hand the answer to :meth:`checkpoint_done`."""
        with self._lock:
            self._settling |= self._settled
            self._settled = {}
            sent, self._sent = self._sent, []
            return sent

    def checkpoint_done(self, sent: list[CopyRun]) -> None:
        """The secondary has it on its disk: clear what nobody touched since."""
        with self._lock:
            for run in sent:
                self._forget(run)
                if not run.touched:
                    self.bitmap.clear(run.first, run.count)
            for block in self._settling:
                self.bitmap.clear(block)
            self._settling = {}

    def forget_all(self) -> None:
        """The channel broke: nothing that is under way counts; every bit stays."""
        with self._lock:
            self.era += 1
            self._runs.clear()
            self._sent.clear()
            self._settled.clear()
            self._settling.clear()
