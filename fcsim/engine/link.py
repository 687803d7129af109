"""One link, simulated frame by frame in exact time, in blocks of bounded memory."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fcsim.clock import LAST_TICK, TICKS_PER_METRE, TICKS_PER_SECOND, ticks_per_byte
from fcsim.engine import link_kernel
from fcsim.errors import InvalidScenario
from fcsim.speeds import FRAME_OVERHEAD_BYTES, IDLE_BYTES, MAX_DISTANCE_M, MAX_PAYLOAD_BYTES, Speed

#: An R_RDY is one word; it takes the place of an idle.
R_RDY_BYTES = 4
BLOCK_FRAMES = 65_536
PAGED_FROM_FRAMES = 4096
_FRESH_PAGES = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
OUT_OF_TIME = "simulated time is from 0 to 47 days; split the run"


@dataclass(frozen=True, slots=True)
class LinkScenario:
    """A link of one speed and length, with ``bb_credit`` credits at the sender.

    ``drain_ticks``: what the receiver takes for each frame before its buffer is free, one after the other.
    ``r_rdy_bytes``: line time of an R_RDY; the published formulas leave it out.
    Raises :class:`~fcsim.errors.InvalidScenario` where the numbers make no link.
    """

    speed: Speed
    distance_m: int
    bb_credit: int
    drain_ticks: int = 0
    r_rdy_bytes: int = R_RDY_BYTES

    def __post_init__(self) -> None:
        if not 1 <= self.bb_credit <= 65_535:
            raise InvalidScenario(f"bb_credit is 1 to 65535, not {self.bb_credit}")
        if not 0 <= self.distance_m <= MAX_DISTANCE_M:
            raise InvalidScenario(f"distance_m is 0 to {MAX_DISTANCE_M}, not {self.distance_m}")
        if not 0 <= self.r_rdy_bytes <= 64:
            raise InvalidScenario(f"r_rdy_bytes is 0 to 64, not {self.r_rdy_bytes}")
        if not 0 <= self.drain_ticks <= TICKS_PER_SECOND:
            raise InvalidScenario(
                f"drain_ticks is 0 to {TICKS_PER_SECOND} (a second), not {self.drain_ticks}"
            )


def _two_series(count: int) -> tuple[memoryview, memoryview]:
    """Room for two series of so many ticks.

    Large ones are pages that the kernel hands over at once: clearing memory that is written anyway, and meeting its
    pages one by one, takes twice as long as the recurrence itself.
    """
    size = 2 * 8 * count
    room: bytearray | mmap.mmap
    room = bytearray(size) if count < PAGED_FROM_FRAMES else mmap.mmap(-1, size, flags=_FRESH_PAGES)
    both = memoryview(room).cast("q")
    return both[:count], both[count:]


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive frames: when each was ready, began to leave, and had its buffer freed, in ticks.

    ``sent`` and ``drained`` are memoryviews of 64-bit integers; empty where nothing was recorded.
    """

    ready: array[int]
    sent: Sequence[int]
    drained: Sequence[int]


@dataclass(frozen=True, slots=True)
class LinkTotals:
    """A run so far. ``stalled_ticks``: frames stood ready before a free line without credit."""

    frames: int
    payload_bytes: int
    busy_ticks: int
    end_ticks: int
    stalls: int
    stalled_ticks: int

    @property
    def payload_bytes_per_second(self) -> int:
        """Over the whole run, until the last buffer was free; rounded down."""
        return self.payload_bytes * TICKS_PER_SECOND // self.end_ticks if self.end_ticks else 0


class LinkRun:
    """A link on which frames are sent one after the other; ask `send` as often as you like."""

    def __init__(self, scenario: LinkScenario) -> None:
        self.scenario = scenario
        self._byte = ticks_per_byte(scenario.speed)
        self._propagation = scenario.distance_m * TICKS_PER_METRE
        self._ring = array("q", bytes(8 * scenario.bb_credit))
        self._state = array("q", bytes(8 * link_kernel.STATE_SIZE))
        self._frames = self._end = 0

    def send(self, frames: Iterable[tuple[int, int]], *, record: bool = False) -> Iterator[Block]:
        """Send frames given as ``(ready tick, payload bytes)``, in the order of their ready ticks.

        Yields a block for every 65,536 frames, empty ones without ``record``: take them all, or nothing happens.
        Raises InvalidScenario for a payload or a time out of range.
        """
        ready, payload = array("q"), array("q")
        for when, size in frames:
            ready.append(when)
            payload.append(size)
            if len(ready) == BLOCK_FRAMES:
                yield self.send_block(ready, payload, record=record)
                ready, payload = array("q"), array("q")
        if ready:
            yield self.send_block(ready, payload, record=record)

    def send_block(self, ready: array[int], payload: array[int], *, record: bool = True) -> Block:
        """Send as many frames as ``ready`` has; see :meth:`send`."""
        if len(ready) != len(payload):
            raise InvalidScenario(f"{len(ready)} ready times for {len(payload)} payloads")
        if not ready:
            return Block(ready, *_two_series(0))
        if self._end > LAST_TICK:
            raise InvalidScenario(OUT_OF_TIME)
        before = self._ring[:]
        sent, drained = _two_series(len(ready) if record else 0)
        try:
            end = link_kernel.run_block(
                ready,
                payload,
                sent,
                drained,
                self._ring,
                self._state,
                len(ready),
                self._byte,
                FRAME_OVERHEAD_BYTES + IDLE_BYTES,
                self._propagation,
                self.scenario.drain_ticks,
                self.scenario.r_rdy_bytes * self._byte,
                MAX_PAYLOAD_BYTES,
                LAST_TICK,
            )
        except (OverflowError, ValueError):  # the plain kernel meets it where the compiled one wraps around
            end = -1
        if end < 0:
            self._ring = before
            bad = link_kernel.first_bad(ready, payload, len(ready), MAX_PAYLOAD_BYTES, LAST_TICK)
            if not 0 <= payload[bad] <= MAX_PAYLOAD_BYTES:
                raise InvalidScenario(f"a payload is 0 to {MAX_PAYLOAD_BYTES} bytes, not {payload[bad]}")
            raise InvalidScenario(OUT_OF_TIME)
        self._end = end
        self._frames += len(ready)
        return Block(ready, sent, drained)

    def totals(self) -> LinkTotals:
        """The run so far."""
        return LinkTotals(
            self._frames,
            self._state[link_kernel.PAYLOAD],
            self._state[link_kernel.BUSY],
            self._end,
            self._state[link_kernel.STALLS],
            self._state[link_kernel.STALLED],
        )
