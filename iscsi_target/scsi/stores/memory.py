# SPDX-License-Identifier: Apache-2.0
"""A store in memory that takes no page before it is written."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence

from iscsi_target.executor import Buffer
from iscsi_target.file_map import FileMap
from iscsi_target.scsi.errors import InvalidConfiguration, StoreError
from iscsi_target.scsi.stores.store import Extent, Space, inside

GRANULE_BYTES = mmap.PAGESIZE
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux; Python names it from 3.13 on
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
_MAPPED = b"\x01"
_UNMAPPED = b"\0"
_ZEROS = memoryview(bytes(1 << 18))
_MARKS = _MAPPED * 4096
_MOST_COUNTED = 1 << 24
_COUNTED_AT_ONCE = 1 << 20


def _anonymous(size_bytes: int) -> mmap.mmap:
    return mmap.mmap(-1, size_bytes, flags=_FLAGS)


class MemoryStore:
    """Thin memory: a map of an anonymous file, which the kernel fills page by page.

    Reads are views of the mapping, and long ones are sent from the file without a copy. A second sparse mapping with
    one byte per granule remembers which granules were written, so that a store of terabytes costs what was written to
    it and nothing else.
    """

    def __init__(self, size_bytes: int) -> None:
        if size_bytes <= 0:
            raise InvalidConfiguration(f"a memory store needs a size above 0, not {size_bytes}")
        self._size_bytes = size_bytes
        self._granules = -(-size_bytes // GRANULE_BYTES)
        try:
            self._map = FileMap(self._granules * GRANULE_BYTES)
            self._written = _anonymous(self._granules)
        except (OSError, OverflowError, ValueError) as error:
            raise InvalidConfiguration(
                f"no address space for a memory store of {size_bytes} bytes: {error}"
            ) from None
        self._view = memoryview(self._map)

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def blocking(self) -> bool:
        return False

    @property
    def read_only(self) -> bool:
        return False

    @property
    def thin(self) -> bool:
        return True

    @property
    def anchors(self) -> bool:
        return False  # to reserve pages would be to take them, for as much as a peer asks for

    @property
    def granularity_bytes(self) -> int:
        return GRANULE_BYTES

    @property
    def memory(self) -> memoryview:
        return self._view

    @property
    def marks(self) -> mmap.mmap:
        return self._written

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        inside(self._size_bytes, offset, length)
        first, after = offset // GRANULE_BYTES, -(-(offset + length) // GRANULE_BYTES)
        if self._written.find(_UNMAPPED, first, after) < 0:
            return (self._view[offset : offset + length],)
        pieces: list[Buffer] = []
        for position, size, mapped, _ in self.extents(offset, length):
            if mapped:
                pieces.append(self._view[position : position + size])
            else:  # to look at these pages would take memory for them
                pieces += [_ZEROS] * (size // len(_ZEROS))
                if size % len(_ZEROS):
                    pieces.append(_ZEROS[: size % len(_ZEROS)])
        return pieces

    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        end = offset + len(data)
        if offset < 0 or end > self._size_bytes:
            inside(self._size_bytes, offset, len(data))
        if end == offset:
            return
        self._view[offset:end] = data
        first = offset // GRANULE_BYTES
        count = (end - 1) // GRANULE_BYTES - first + 1
        if count == 1:
            self._written[first] = 1
        elif count <= len(_MARKS):
            self._written[first : first + count] = _MARKS[:count]
        else:
            self._written[first : first + count] = _MAPPED * count

    def flush(self) -> None:
        """Memory has nothing behind it."""

    def discard(self, offset: int, length: int) -> None:
        inside(self._size_bytes, offset, length)
        end = offset + length
        first = -(-offset // GRANULE_BYTES)
        last = self._granules if end == self._size_bytes else end // GRANULE_BYTES
        if first >= last:
            self._zero(offset, end)
            return
        self._zero(offset, first * GRANULE_BYTES)
        self._zero(last * GRANULE_BYTES, end)
        self._map.give_back(first * GRANULE_BYTES, (last - first) * GRANULE_BYTES)
        self._unmark(first, last)

    def _zero(self, start: int, end: int) -> None:
        """Zero bytes of granules that stay; those never written are zero already."""
        if end > start:
            self._view[start:end] = bytes(end - start)

    def _unmark(self, first: int, last: int) -> None:
        for position in range(first, last, 1 << 20):
            stop = min(last, position + (1 << 20))
            if self._written.find(_MAPPED, position, stop) >= 0:
                self._written[position:stop] = bytes(stop - position)

    def anchor(self, offset: int, length: int) -> None:
        raise StoreError("a memory store reserves no space")

    def space(self) -> Space | None:
        if self._granules > _MOST_COUNTED:
            return None  # to count them would take long
        used = GRANULE_BYTES * sum(
            self._written[start : start + _COUNTED_AT_ONCE].count(_MAPPED)
            for start in range(0, self._granules, _COUNTED_AT_ONCE)
        )
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Space(used, min(free, max(0, self._size_bytes - used)))

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        inside(self._size_bytes, offset, length)
        position, end = offset, offset + length
        last = -(-end // GRANULE_BYTES)
        while position < end:
            granule = position // GRANULE_BYTES
            mapped = self._written[granule] != 0
            change = self._written.find(_UNMAPPED if mapped else _MAPPED, granule, last)
            stop = end if change < 0 else min(end, change * GRANULE_BYTES)
            yield Extent(position, stop - position, mapped)
            position = stop

    def close(self) -> None:
        """The mappings go when the last view of them does."""
        self._size_bytes = 0
        self._view = memoryview(b"")
