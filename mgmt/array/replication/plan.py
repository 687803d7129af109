"""Which extents of a volume are still to be copied, are under way on a connection, or are acknowledged.

Sans-IO. Every extent is in exactly one place: *untouched + given back + outstanding + acknowledged = all*. The
connections of a copy share one queue: each takes the next extent when it has room, so a slow connection takes
fewer; what a lost connection had outstanding goes back to the queue and is taken first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of a volume: where it begins and how long it is, both in bytes."""

    offset_bytes: int
    length_bytes: int


class ExtentQueue:
    """The work queue that the connections of one copy share.

    ``total_bytes`` is the volume's length and ``extent_bytes`` the length of every extent but the last.
    Memory grows with the extents under way, not with the volume.
    """

    def __init__(self, total_bytes: int, extent_bytes: int) -> None:
        if total_bytes < 0 or extent_bytes <= 0:
            raise ValueError(f"a volume of {total_bytes} bytes cannot be cut into extents of {extent_bytes}")
        self.total_bytes = total_bytes
        self.acknowledged_bytes = 0
        self.outstanding_bytes = 0
        self._extent_bytes = extent_bytes
        self._next_offset = 0
        self._given_back: deque[Extent] = deque()
        self._outstanding: dict[Hashable, set[Extent]] = {}

    @property
    def complete(self) -> bool:
        """Every extent is acknowledged."""
        return self.acknowledged_bytes == self.total_bytes

    def take(self, connection: Hashable) -> Extent | None:
        """The next extent, now outstanding on ``connection``; ``None`` while there is none to take."""
        if self._given_back:
            extent = self._given_back.popleft()
        elif self._next_offset < self.total_bytes:
            length = min(self._extent_bytes, self.total_bytes - self._next_offset)
            extent = Extent(self._next_offset, length)
            self._next_offset += length
        else:
            return None
        self._outstanding.setdefault(connection, set()).add(extent)
        self.outstanding_bytes += extent.length_bytes
        return extent

    def acknowledge(self, connection: Hashable, extent: Extent) -> None:
        """The remote array has ``extent``. :class:`KeyError`: it was not outstanding on ``connection``."""
        self._outstanding.get(connection, set()).remove(extent)
        self.outstanding_bytes -= extent.length_bytes
        self.acknowledged_bytes += extent.length_bytes

    def give_back(self, connection: Hashable) -> int:
        """``connection`` is lost: what it had outstanding is to be taken again. Returns the number of extents."""
        lost = sorted(self._outstanding.pop(connection, set()), key=lambda extent: extent.offset_bytes)
        self._given_back.extend(lost)
        self.outstanding_bytes -= sum(extent.length_bytes for extent in lost)
        return len(lost)
