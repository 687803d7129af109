# SPDX-License-Identifier: Apache-2.0
"""A store that keeps its changes beside an origin: copy on write, and roll back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from iscsi_target.executor import Buffer
from iscsi_target.scsi.errors import InvalidConfiguration, StoreError
from iscsi_target.scsi.stores.snapshot_record import SnapshotRecord
from iscsi_target.scsi.stores.store import BackingStore, Extent, Space, inside, merged

GRANULE_BYTES = 64 << 10
_HERE = b"\x01"


class SnapshotStore:
    """The origin as it was, with changes in an overlay; the origin is only ever read, and must not change.

    The unit of copying is a granule of 64 KiB: the first write to a part of one copies the rest of it from the
    origin. Which granules have been copied is kept in memory (one byte each); with a `record` it is written down with
    every flush and durable write, after the overlay's data, so that the snapshot survives a restart and loses in a
    crash no more than a volatile cache does. `roll_back` returns to the origin at once. The stores and the record
    belong to the snapshot and are closed with it.
    """

    def __init__(
        self, origin: BackingStore, overlay: BackingStore, record: SnapshotRecord | None = None
    ) -> None:
        if overlay.size_bytes < origin.size_bytes:
            raise InvalidConfiguration(
                f"an overlay of {overlay.size_bytes} bytes cannot hold changes to {origin.size_bytes} bytes"
            )
        if overlay.read_only:
            raise InvalidConfiguration("a snapshot cannot keep changes in a read-only overlay")
        self._origin = origin
        self._overlay = overlay
        self._size_bytes = origin.size_bytes
        self._record = record
        self._copied = bytearray(-(-self._size_bytes // GRANULE_BYTES)) if record is None else record.load()
        self._unrecorded: set[int] = set()
        self._changing = threading.Lock()

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def blocking(self) -> bool:
        return self._origin.blocking or self._overlay.blocking

    @property
    def read_only(self) -> bool:
        return False

    @property
    def thin(self) -> bool:
        return self._overlay.thin

    @property
    def anchors(self) -> bool:
        return self._overlay.anchors

    @property
    def granularity_bytes(self) -> int:
        return GRANULE_BYTES

    def _runs(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """(offset, length, in the overlay) of runs that live in one place."""
        position, end = offset, offset + length
        last = -(-end // GRANULE_BYTES)
        while position < end:
            granule = position // GRANULE_BYTES
            here = self._copied[granule] != 0
            change = self._copied.find(b"\0" if here else _HERE, granule, last)
            stop = end if change < 0 else min(end, change * GRANULE_BYTES)
            yield position, stop - position, here
            position = stop

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        inside(self._size_bytes, offset, length)
        buffers: list[Buffer] = []
        for start, span, here in self._runs(offset, length):
            buffers.extend((self._overlay if here else self._origin).read(start, span))
        return tuple(buffers)

    def _copy_up(self, granule: int) -> None:
        """Bring a granule from the origin into the overlay."""
        start = granule * GRANULE_BYTES
        span = min(GRANULE_BYTES, self._size_bytes - start)
        for buffer in self._origin.read(start, span):
            self._overlay.write(start, buffer)
            start += len(buffer)

    def _prepare(self, offset: int, length: int) -> tuple[int, int]:
        """Copy the granules that a change covers only in part; the range of granules of the change."""
        first, last = offset // GRANULE_BYTES, -(-(offset + length) // GRANULE_BYTES)
        partly = set()
        if offset % GRANULE_BYTES:
            partly.add(first)
        if (offset + length) % GRANULE_BYTES and offset + length < self._size_bytes:
            partly.add(last - 1)
        for granule in sorted(partly):
            if not self._copied[granule]:
                self._copy_up(granule)
        return first, last

    def _change(self, offset: int, length: int, change: Callable[[], None]) -> None:
        """Change a range of the overlay, of which the granules belong to the overlay from then on."""
        with self._changing:
            first, last = self._prepare(offset, length)
            change()
            if self._record is not None:
                self._unrecorded.update(
                    granule for granule in range(first, last) if not self._copied[granule]
                )
            self._copied[first:last] = _HERE * (last - first)

    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        inside(self._size_bytes, offset, len(data))
        if not len(data):
            return
        self._change(
            offset, len(data), lambda: self._overlay.write(offset, data, durable=durable and not self._record)
        )
        if durable and self._record is not None:
            self.flush()

    def flush(self) -> None:
        with self._changing:
            granules, self._unrecorded = self._unrecorded, set()
        try:
            self._overlay.flush()
            if self._record is not None and granules:
                self._record.add(granules)
        except StoreError:
            with self._changing:
                self._unrecorded |= granules
            raise

    def discard(self, offset: int, length: int) -> None:
        inside(self._size_bytes, offset, length)
        if length:
            self._change(offset, length, lambda: self._overlay.discard(offset, length))

    def anchor(self, offset: int, length: int) -> None:
        inside(self._size_bytes, offset, length)
        if length:
            self._change(offset, length, lambda: self._overlay.anchor(offset, length))

    def space(self) -> Space | None:
        return self._overlay.space()

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        inside(self._size_bytes, offset, length)
        return merged(
            extent
            for start, span, here in self._runs(offset, length)
            for extent in (self._overlay if here else self._origin).extents(start, span)
        )

    def roll_back(self) -> None:
        """Drop every change: the store reads as its origin again, and the overlay's space is given back."""
        with self._changing:
            if self._record is not None:
                self._record.clear()  # before the overlay forgets: what is recorded is always there
            self._unrecorded = set()
            self._copied = bytearray(len(self._copied))
            self._overlay.discard(0, self._size_bytes)

    def close(self) -> None:
        """Write down what there is, and let go; StoreError when that fails, with everything closed."""
        if not self._size_bytes:
            return
        try:
            if self._record is not None:
                self.flush()
        finally:
            self._size_bytes = 0
            self._origin.close()
            self._overlay.close()
            if self._record is not None:
                self._record.close()
