"""What remote copy asks of the protocol below it.

A transport belongs to one copy: it knows which connections make up a session. :class:`LinkLost` concerns one
connection, others may go on; :class:`RemoteRefused` is the remote array's word on the data, which no other
connection can mend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from credits.allocation import Allocation
from mgmt.array.replication.job import Slot

Buffer = bytes | bytearray | memoryview


class LinkLost(Exception):
    """A connection cannot be made or is gone; the text is one line."""


class RemoteRefused(Exception):
    """The remote array answered, and the answer was no; the text is one line."""


@dataclass(frozen=True, slots=True)
class ScsiOutcome:
    """How a command ended: SCSI status, Data-In, sense data."""

    status: int
    data_in: Buffer
    sense: bytes


@dataclass(frozen=True, slots=True)
class LinkTraffic:
    """What one connection has under way: bytes handed to the network and not yet acknowledged by the peer."""

    in_flight_bytes: int
    max_in_flight_bytes: int
    sent_bytes: int
    limited_by: str = ""
    """What keeps it from being faster, of the last second or so: sndbuf-, rwnd-, network- or application-limited."""
    hint: str = ""
    """The same in a sentence."""
    limit_bytes: int = 0
    """What the gate lets be under way: the reservation's share of this connection."""
    snd_cwnd_bytes: int | None = None
    """The kernel's congestion window of the last second or so; None where there is none, or it is not known yet."""
    rtt_ns: int | None = None
    """The round trip as the kernel smooths it, likewise."""
    busy_percent: int | None = None
    """Of the last second or so, how much of it there was something to send or to be acknowledged."""
    reservation_percent: int | None = None
    """How much of it writers waited for room in the reservation."""
    peer_percent: int | None = None
    """How much of it the peer's receive window was what held the kernel back."""
    retransmitted_segments: int | None = None
    """Segments that TCP has sent again since the connection began."""


class CopyLink(Protocol):
    """One connection of a copy, ready to take data."""

    @property
    def capacity_bytes(self) -> int:
        """Size of the remote logical unit."""
        ...

    @property
    def outstanding_limit(self) -> int:
        """How many writes are worth having under way at once."""
        ...

    async def execute(
        self, lun: int, cdb: bytes, *, data_out: Sequence[Buffer] = (), data_in_length: int = 0
    ) -> ScsiOutcome:
        """Any SCSI command to any logical unit of the target, whatever its status. LinkLost."""
        ...

    async def write(self, offset_bytes: int, data: Sequence[Buffer]) -> None:
        """Write ``data``; returns when the remote array has answered GOOD. LinkLost, RemoteRefused."""
        ...

    async def flush(self) -> None:
        """What was written over any connection is on the remote disk when this returns. LinkLost, RemoteRefused."""
        ...

    @property
    def lost(self) -> str | None:
        """Why the connection is gone, found out without a command; None while nothing says so."""
        ...

    @property
    def allocation(self) -> Allocation:
        """The units that its bytes live in."""
        ...

    async def resize(self, units: int) -> None:
        """Have ``units`` units from now on (paragraph 97).

        Fewer: no more than they hold is in flight at once, and the others go back when what they hold is
        acknowledged (GAP-3). More: from the list that the present ones came from; :class:`Refused` when it has
        none. LinkLost.
        """
        ...

    def traffic(self) -> LinkTraffic:
        """The connection's bytes as they stand; also after it was closed."""
        ...

    async def close(self) -> None:
        """End the connection, politely where possible, and return its units to the list they came from.

        Takes bounded time, never raises for what the peer did, and may be called twice.
        """
        ...


class CopyTransport(Protocol):
    """The connections of one copy."""

    async def connect(self, slot: Slot, allocation: Allocation) -> CopyLink:
        """Connect ``slot``; the bytes it sends live in ``allocation``, which it owns from here on, also when this
        raises: LinkLost, RemoteRefused.
        """
        ...
