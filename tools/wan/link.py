"""One direction of a channel as a sans-IO core: rate, propagation delay, a queue with tail drop, and loss by chance.

A packet that arrives is serialised after everything already waiting, at ``rate_bps``, then travels for
``delay_ns``. The serialisation clock needs no token refill: ``free = max(now, free) + bits / rate``, in
integer nanoseconds with the remainder carried, so that the rate is exact over any number of packets.
Only bytes that wait for the serialiser count against the queue limit; bytes that are travelling do not.

Sizes are wire sizes: a GSO super-packet counts as the segments that a network card would make of it
(:mod:`tools.wan.vnet`), and is queued, lost, dropped and delivered as a whole. A packet is lost before it is queued, as
in netem, so that it takes no time on the link.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from tools.wan.errors import BadSetting

NS_PER_S = 1_000_000_000
RATE_LIMIT_BPS = 100 * NS_PER_S
"""The highest rate that is accepted (100 Gbit/s)."""
DELAY_LIMIT_NS = 10 * NS_PER_S
"""The longest one-way delay that is accepted (10 s)."""
PPM = 1_000_000
"""The whole, in parts per million: so a share of 1 % is 10,000."""
HELD_LIMIT_BYTES = 1 << 30
"""The most that one direction holds, waiting and travelling together: a bound on memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """What one direction does to packets.

    ``rate_bps`` bits per second of IP packets (plus ``overhead_bytes`` per segment), 1 … 100 Gbit/s;
    ``delay_ns`` one way, 0 … 10 s; ``queue_bytes`` how much may wait for the serialiser, at least 1 (one packet
    is always taken by an idle link, whatever its size); ``loss_ppm`` how many of a million packets are lost, 0 … all.
    Raises :class:`BadSetting`.
    """

    rate_bps: int
    delay_ns: int
    queue_bytes: int
    overhead_bytes: int = 0
    loss_ppm: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.rate_bps <= RATE_LIMIT_BPS:
            raise BadSetting(f"the rate is {self.rate_bps} bit/s, but must be 1 to {RATE_LIMIT_BPS}")
        if not 0 <= self.delay_ns <= DELAY_LIMIT_NS:
            raise BadSetting(f"the one-way delay is {self.delay_ns} ns, but must be 0 to {DELAY_LIMIT_NS}")
        if not 1 <= self.queue_bytes <= HELD_LIMIT_BYTES:
            raise BadSetting(f"the queue is {self.queue_bytes} bytes, but must be 1 to {HELD_LIMIT_BYTES}")
        if not 0 <= self.overhead_bytes <= 256:
            raise BadSetting(f"the overhead is {self.overhead_bytes} bytes, but must be 0 to 256")
        if not 0 <= self.loss_ppm <= PPM:
            raise BadSetting(f"the loss is {self.loss_ppm} in a million, but must be 0 to {PPM}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatistics:
    """Counters of one direction; bytes are wire bytes (with overhead), packets are wire segments.

    received = lost + dropped + waiting + travelling + delivered, for packets and for bytes.
    """

    received_packets: int
    received_bytes: int
    lost_packets: int
    lost_bytes: int
    dropped_packets: int
    dropped_bytes: int
    delivered_packets: int
    delivered_bytes: int
    held_packets: int
    held_bytes: int
    queue_bytes: int
    queue_bytes_max: int


@dataclass(slots=True)
class _Held:
    """A packet inside: when its last bit leaves the serialiser, when it arrives at the far end."""

    departure: int
    due: int
    size_bytes: int
    segments: int
    packet: bytes


class Chance(Protocol):
    """What :class:`random.Random` has."""

    def randrange(self, stop: int, /) -> int:
        """A number from 0 to ``stop`` - 1."""
        ...


class Link:
    """One direction. Time is handed in as integer nanoseconds that never go back; ``chance`` decides what is lost."""

    __slots__ = (
        "_chance",
        "_delivered_bytes",
        "_delivered_packets",
        "_dropped_bytes",
        "_dropped_packets",
        "_free",
        "_held",
        "_held_bytes",
        "_held_packets",
        "_lost_bytes",
        "_lost_packets",
        "_pass",
        "_queue_max",
        "_remainder",
        "_settings",
    )

    def __init__(self, settings: LinkSettings, chance: Chance | None = None) -> None:
        self._settings = settings
        self._chance = chance
        self._held: deque[_Held] = deque()
        self._free = 0  # when the serialiser has sent all that waits
        self._remainder = 0  # the fraction of a nanosecond owed, in 1/rate
        self._held_bytes = 0
        self._held_packets = 0
        self._pass: int | None = None  # how many more may arrive while the link is held; None: it is not
        self._queue_max = 0
        self._lost_packets = self._lost_bytes = 0
        self._dropped_packets = self._dropped_bytes = 0
        self._delivered_packets = self._delivered_bytes = 0

    @property
    def settings(self) -> LinkSettings:
        """The settings in force."""
        return self._settings

    def _lose(self, loss_ppm: int) -> bool:
        if self._chance is None:
            raise BadSetting("a link that loses packets has to be given a chance")
        return self._chance.randrange(PPM) < loss_ppm

    def queue_bytes(self, now: int) -> int:
        """Bytes that wait for the serialiser at ``now``, counting the unsent part of the packet being sent."""
        waiting_ns = self._free - now
        if waiting_ns <= 0:
            return 0
        return -(-waiting_ns * self._settings.rate_bps // (8 * NS_PER_S))

    def receive(self, packet: bytes, size_bytes: int, segments: int, now: int) -> bool:
        """Take a packet of ``segments`` wire segments and ``size_bytes`` wire bytes in all (without overhead).

        False says it is gone: lost by chance, or dropped since the queue is full (tail drop). A link whose serialiser
        is idle takes a packet of any size, so that a queue smaller than one packet still passes traffic.
        """
        settings = self._settings
        size_bytes += settings.overhead_bytes * segments
        if settings.loss_ppm and self._lose(settings.loss_ppm):
            self._lost_packets += segments
            self._lost_bytes += size_bytes
            return False
        waiting = self.queue_bytes(now)
        if (waiting and waiting + size_bytes > settings.queue_bytes) or (
            self._held_bytes + size_bytes > HELD_LIMIT_BYTES
        ):
            self._dropped_packets += segments
            self._dropped_bytes += size_bytes
            return False
        self._queue_max = max(self._queue_max, waiting + size_bytes)
        if now > self._free:
            self._free = now
            self._remainder = 0
        elapsed, self._remainder = divmod(size_bytes * 8 * NS_PER_S + self._remainder, settings.rate_bps)
        self._free += elapsed
        due = self._free + settings.delay_ns
        self._held.append(_Held(self._free, due, size_bytes, segments, packet))
        self._held_bytes += size_bytes
        self._held_packets += segments
        return True

    def hold(self, held: bool) -> None:
        """Let nothing arrive at the far end any more (what was let pass before counts no more), or everything again."""
        self._pass = 0 if held else None

    def let_pass(self, packets: int) -> None:
        """Let so many packets arrive though the link is held: those that wait, else the next ones."""
        if self._pass is not None:
            self._pass += packets

    def next_deadline(self) -> int | None:
        """When the next packet arrives at the far end; None while nothing is inside, or nothing may."""
        return self._held[0].due if self._held and self._pass != 0 else None

    def packets_due(self, now: int) -> list[bytes]:
        """The packets that have arrived at the far end by ``now``, in the order in which they came in.

        Only the head is looked at: after a cut of the delay, what follows it waits for it instead of overtaking it.
        """
        held = self._held
        due: list[bytes] = []
        while held and held[0].due <= now and self._pass != 0:
            if self._pass is not None:
                self._pass -= 1
            entry = held.popleft()
            self._held_bytes -= entry.size_bytes
            self._held_packets -= entry.segments
            self._delivered_bytes += entry.size_bytes
            self._delivered_packets += entry.segments
            due.append(entry.packet)
        return due

    def set(self, settings: LinkSettings, now: int) -> None:
        """Change the settings from ``now`` on.

        What waits leaves at the new rate (the backlog in bytes stays) and travels with the new delay; what is
        already travelling arrives when it would have. Nothing is reordered and nothing that was taken is dropped.
        """
        old, self._settings = self._settings, settings

        def rescaled(moment: int) -> int:
            return now + -(-(moment - now) * old.rate_bps // settings.rate_bps)

        if self._free > now:
            self._free = rescaled(self._free)
            self._remainder = 0
        for entry in self._held:
            if entry.departure > now:
                entry.departure = rescaled(entry.departure)
                entry.due = entry.departure + settings.delay_ns

    def statistics(self, now: int) -> LinkStatistics:
        """A snapshot of the counters at ``now``."""
        return LinkStatistics(
            received_packets=self._lost_packets
            + self._dropped_packets
            + self._held_packets
            + self._delivered_packets,
            received_bytes=self._lost_bytes + self._dropped_bytes + self._held_bytes + self._delivered_bytes,
            lost_packets=self._lost_packets,
            lost_bytes=self._lost_bytes,
            dropped_packets=self._dropped_packets,
            dropped_bytes=self._dropped_bytes,
            delivered_packets=self._delivered_packets,
            delivered_bytes=self._delivered_bytes,
            held_packets=self._held_packets,
            held_bytes=self._held_bytes,
            queue_bytes=self.queue_bytes(now),
            queue_bytes_max=self._queue_max,
        )
