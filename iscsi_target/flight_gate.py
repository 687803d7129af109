# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of a connection whose unacknowledged bytes live in reserved memory. Sans-IO.

Stream positions count bytes since the connection began. ``acknowledged <= handed_over <= written`` always holds, and
``written - acknowledged``, the bytes that live in the ring, never exceeds the capacity; it exceeds the limit only
after the limit was lowered below what was already there.
"""

from __future__ import annotations

from dataclasses import dataclass

_REFILL_BYTES = 4 * 1448
_REFILL_SHARE = 16


@dataclass(frozen=True, slots=True)
class TcpStatistics:
    """Counters of one connection, in bytes."""

    written_bytes: int
    acknowledged_bytes: int
    in_flight_bytes: int
    """Written and not acknowledged, whether or not the kernel has taken them."""
    max_in_flight_bytes: int
    limit_bytes: int
    capacity_bytes: int
    waits: int
    """How often a writer had to wait for room."""
    waited_ns: int = 0
    """How long writers have waited for room."""


class FlightGate:
    """A ring's positions. `capacity` bytes of memory, of which at most `limit` may be occupied."""

    def __init__(self, capacity_bytes: int) -> None:
        if capacity_bytes <= 0:
            raise ValueError("a connection needs at least one byte of memory")
        self.capacity = capacity_bytes
        self.limit = capacity_bytes
        self.written = 0
        self.handed_over = 0
        self.acknowledged = 0
        self.max_in_flight = 0
        self.waits = 0
        self.waited_ns = 0

    @property
    def in_flight(self) -> int:
        """Bytes that live in the ring."""
        return self.written - self.acknowledged

    @property
    def room(self) -> int:
        """Bytes that may be written now."""
        return max(0, self.limit - self.in_flight)

    def refill(self, waiting_bytes: int) -> int:
        """Room that is worth a wait, for a writer with `waiting_bytes` more: four full segments, less where the memory
        is small. Memory that waits to be refilled is not in flight, so this much of it, and what is acknowledged
        between two polls, is lost to the channel: at most a sixteenth."""
        return min(waiting_bytes, _REFILL_BYTES, max(1, self.limit // _REFILL_SHARE))

    def set_limit(self, limit_bytes: int) -> None:
        """Occupy at most `limit_bytes` from now on; what is in flight above it has to drain first."""
        if limit_bytes <= 0:
            raise ValueError("the limit has to be positive")
        self.limit = min(limit_bytes, self.capacity)

    def replace_memory(self, capacity_bytes: int) -> None:
        """Other memory from now on. Only while nothing is in flight."""
        if self.in_flight:
            raise ValueError("bytes are in flight in the old memory")
        if capacity_bytes <= 0:
            raise ValueError("a connection needs at least one byte of memory")
        self.capacity = self.limit = capacity_bytes

    def place(self, size_bytes: int) -> int:
        """Take `size_bytes` of the room; returns the stream position of the first."""
        if not 0 < size_bytes <= self.room:
            raise ValueError(f"{size_bytes} bytes do not fit the room of {self.room}")
        position = self.written
        self.written += size_bytes
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        return position

    def hand_over(self, size_bytes: int) -> None:
        """The kernel took `size_bytes` more."""
        if self.handed_over + size_bytes > self.written:
            raise ValueError("the kernel cannot take what was not written")
        self.handed_over += size_bytes

    def kernel_holds(self, outstanding_bytes: int) -> int:
        """The kernel says that `outstanding_bytes` are unacknowledged (SIOCOUTQ); returns the bytes freed."""
        acknowledged = self.handed_over - outstanding_bytes
        freed = max(0, acknowledged - self.acknowledged)
        self.acknowledged += freed
        return freed

    def statistics(self) -> TcpStatistics:
        """A snapshot."""
        return TcpStatistics(
            self.written,
            self.acknowledged,
            self.in_flight,
            self.max_in_flight,
            self.limit,
            self.capacity,
            self.waits,
            self.waited_ns,
        )
