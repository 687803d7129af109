"""A volume's store with remote copy in the way of every change that hosts make to it.

Without a pair a call costs one lock more. With one, the change goes through the pair's lane: noted, journalled, or
sent to the secondary first, as its state asks. Reads go straight through.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

from iscsi_target.executor import Buffer
from iscsi_target.scsi.stores.store import BackingStore, Extent, Space


class Lane(Protocol):
    """What a pair does with the changes of its volume; called on hosts' threads, may wait, raises StoreError."""

    def write(self, store: BackingStore, offset: int, data: Buffer, *, durable: bool) -> None:
        """Carry a write out, at this end and, as the state asks, at the other."""
        ...

    def discard(self, store: BackingStore, offset: int, length: int) -> None:
        """Carry a discard out: the bytes read as zeros from now on."""
        ...

    def flush(self, store: BackingStore) -> None:
        """What was written is durable wherever it counts as written."""
        ...


class ReplicatedStore:
    """A :class:`~iscsi_target.scsi.stores.store.BackingStore` over another."""

    def __init__(self, inner: BackingStore) -> None:
        self.inner = inner
        self._lane: Lane | None = None
        self._changing = 0
        self._frozen = 0
        self._gate = threading.Condition()

    # -- for the pair -----------------------------------------------------------------------------------------

    @property
    def lane(self) -> Lane | None:
        """What changes go through; None: straight to the file."""
        return self._lane

    def attach(self, lane: Lane | None) -> None:
        """Put a pair in the way, or out of it. Blocks until no change is under way that does not know."""
        self.freeze()
        self._lane = lane
        self.thaw()

    def freeze(self) -> None:
        """Keep changes waiting; blocks until none is under way. Freezing twice wants thawing twice."""
        with self._gate:
            self._frozen += 1
            while self._changing:
                self._gate.wait()

    def thaw(self) -> None:
        """Let changes go on."""
        with self._gate:
            self._frozen -= 1
            self._gate.notify_all()

    def _enter(self) -> Lane | None:
        with self._gate:
            while self._frozen:
                self._gate.wait()
            self._changing += 1
            return self._lane

    def _leave(self) -> None:
        with self._gate:
            self._changing -= 1
            if self._frozen:
                self._gate.notify_all()

    # -- the store --------------------------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        return self.inner.size_bytes

    @property
    def blocking(self) -> bool:
        """A pair may keep a write waiting at any time, so all go to the threads."""
        return True

    @property
    def read_only(self) -> bool:
        return self.inner.read_only

    @property
    def thin(self) -> bool:
        return self.inner.thin

    @property
    def anchors(self) -> bool:
        """Anchored space cannot be told to the secondary, so none is offered."""
        return False

    @property
    def granularity_bytes(self) -> int:
        return self.inner.granularity_bytes

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        return self.inner.read(offset, length)

    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        lane = self._enter()
        try:
            if lane is None or not len(data):
                self.inner.write(offset, data, durable=durable)
            else:
                lane.write(self.inner, offset, data, durable=durable)
        finally:
            self._leave()

    def flush(self) -> None:
        lane = self._lane
        if lane is None:
            self.inner.flush()
        else:
            lane.flush(self.inner)

    def discard(self, offset: int, length: int) -> None:
        lane = self._enter()
        try:
            if lane is None or not length:
                self.inner.discard(offset, length)
            else:
                lane.discard(self.inner, offset, length)
        finally:
            self._leave()

    def anchor(self, offset: int, length: int) -> None:
        """Not offered (:attr:`anchors`); what asks all the same gets zeros."""
        self.discard(offset, length)

    def space(self) -> Space | None:
        return self.inner.space()

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self.inner.extents(offset, length)

    def close(self) -> None:
        self.inner.close()
