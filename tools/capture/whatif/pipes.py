"""What carries data one way: a Fibre Channel link with credits, or a TCP connection with a send buffer (pure)."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fcsim.clock import TICKS_PER_METRE, TICKS_PER_NS, ticks_per_byte
from fcsim.engine.link import LinkRun, LinkScenario
from fcsim.speeds import FRAME_OVERHEAD_BYTES, MAX_PAYLOAD_BYTES, Speed

_NS = 1_000_000_000
_NS_PER_METRE = 5
#: TCP, IPv4 with timestamps and Ethernet with preamble and gap around a segment.
TCP_OVERHEAD_BYTES = 20 + 12 + 20 + 38


@dataclass(frozen=True, slots=True)
class Transfer:
    """Data that are ready to be sent at a moment (ns), as one piece."""

    ready_ns: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Carried:
    """When the last byte of each transfer was there; how often and how long the sender waited for credits or room."""

    delivered_ns: Sequence[int]
    stalls: int
    stalled_ns: int


class Pipe(Protocol):
    """One direction of a channel."""

    @property
    def one_way_ns(self) -> int:
        """Propagation, without serialisation."""
        ...

    def carry(self, transfers: Sequence[Transfer]) -> Carried:
        """Send the transfers one after the other; they are in the order of their ``ready_ns``."""
        ...


@dataclass(frozen=True, slots=True)
class FcPipe:
    """A link with ``bb_credit`` credits, whose receiver frees each buffer at once. Raises
    :class:`fcsim.errors.InvalidScenario` where the numbers make no link."""

    speed: Speed
    distance_m: int
    bb_credit: int
    payload_bytes: int = 2048

    @property
    def one_way_ns(self) -> int:
        return self.distance_m * _NS_PER_METRE

    def carry(self, transfers: Sequence[Transfer]) -> Carried:
        run = LinkRun(LinkScenario(self.speed, self.distance_m, self.bb_credit))
        most = min(self.payload_bytes, MAX_PAYLOAD_BYTES)
        byte, propagation = ticks_per_byte(self.speed), self.distance_m * TICKS_PER_METRE
        delivered = []
        first_ns = transfers[0].ready_ns if transfers else 0
        for transfer in transfers:
            frames, rest = divmod(max(1, transfer.size_bytes), most)
            sizes = array("q", [most]) * frames
            if rest:
                sizes.append(rest)
            ready = array("q", [(transfer.ready_ns - first_ns) * TICKS_PER_NS]) * len(sizes)
            block = run.send_block(ready, sizes)
            last = block.sent[len(sizes) - 1] + (sizes[-1] + FRAME_OVERHEAD_BYTES) * byte + propagation
            delivered.append(first_ns + last // TICKS_PER_NS)
        totals = run.totals()
        return Carried(delivered, totals.stalls, totals.stalled_ticks // TICKS_PER_NS)


@dataclass(frozen=True, slots=True)
class TcpPipe:
    """A connection that never has more than ``buffer_bytes`` unacknowledged on a channel of ``bandwidth_bps`` and
    ``rtt_ns``; congestion control, losses and delayed acknowledgements are left out."""

    bandwidth_bps: int
    rtt_ns: int
    buffer_bytes: int
    segment_bytes: int = 1448

    @property
    def one_way_ns(self) -> int:
        return self.rtt_ns // 2

    def carry(self, transfers: Sequence[Transfer]) -> Carried:
        if self.bandwidth_bps <= 0 or self.rtt_ns < 0 or self.buffer_bytes <= 0:
            raise ValueError("a connection has a bandwidth, a delay and a buffer")
        segment = min(self.segment_bytes, self.buffer_bytes)
        whole_ns = (segment + TCP_OVERHEAD_BYTES) * 8 * _NS // self.bandwidth_bps
        flight: deque[tuple[int, int]] = deque()
        in_flight = free_at = stalls = stalled_ns = 0
        delivered = []
        for transfer in transfers:
            left, at = max(1, transfer.size_bytes), transfer.ready_ns
            while left:
                size = min(segment, left)
                start = max(at, free_at)
                waited_from = start
                while flight and (flight[0][0] <= start or in_flight + size > self.buffer_bytes):
                    back_ns, acknowledged = flight.popleft()
                    in_flight -= acknowledged
                    start = max(start, back_ns)
                if start > waited_from:
                    stalls += 1
                    stalled_ns += start - waited_from
                takes_ns = (
                    whole_ns
                    if size == segment
                    else (size + TCP_OVERHEAD_BYTES) * 8 * _NS // self.bandwidth_bps
                )
                free_at = start + takes_ns
                flight.append((free_at + self.rtt_ns, size))
                in_flight += size
                left -= size
            delivered.append(free_at + self.rtt_ns // 2)
        return Carried(delivered, stalls, stalled_ns)
