# SPDX-License-Identifier: Apache-2.0
"""Link time against wall time: link time runs ``time_scale`` times slower, so that the machine keeps up."""

from __future__ import annotations

from dataclasses import dataclass

from fcsim.speeds import MAX_PAYLOAD_BYTES, PROPAGATION_PS_PER_METRE, Speed

__all__ = ["Lateness", "LinkClock", "choose_time_scale", "keeps_promises"]

PS_PER_NS = 1000
#: Ends whose flight time takes at least so long on the wall wait for each other's promises; with less they would spend
#: their time on promises.
PROMISE_NS = 250_000
#: Event loops wake up to a millisecond late; a record sent that late is still there before its moment.
WAKE_UP_NS = 3_000_000


@dataclass(frozen=True, slots=True)
class LinkClock:
    """Link time 0 is ``epoch_ns`` of the wall's monotonic clock. Integers: no rounding ever adds up."""

    epoch_ns: int
    time_scale: int

    def link_ps(self, wall_ns: int) -> int:
        """Link time at a moment of wall time; negative before the epoch."""
        return (wall_ns - self.epoch_ns) * PS_PER_NS // self.time_scale

    def wall_ns(self, link_ps: int) -> int:
        """The first nanosecond of wall time at which link time has reached ``link_ps``."""
        return self.epoch_ns - (-link_ps * self.time_scale // PS_PER_NS)


def keeps_promises(distance_m: int, time_scale: int) -> bool:
    """Whether the ends of such a link go no further than the other's promise, so that nothing is ever displaced."""
    return distance_m * PROPAGATION_PS_PER_METRE * time_scale >= PROMISE_NS * PS_PER_NS


@dataclass(slots=True)
class Lateness:
    """How well the machine keeps up.

    A *late* record was handled when link time had passed its moment by more than ``patience_ps``; its effects still
    have their exact link time. A *displaced* one came after this end had gone on without it: it took effect at a later
    link time than its own, and the run is not exact.
    """

    patience_ps: int = 1 << 62
    records: int = 0
    late: int = 0
    worst_late_ps: int = 0
    displaced: int = 0
    worst_displaced_ps: int = 0

    @property
    def exact(self) -> bool:
        """True while everything happened at its exact moment in link time."""
        return not self.displaced

    def seen(self, late_ps: int) -> None:
        """A record was handled when link time was ``late_ps`` past its moment."""
        self.records += 1
        if late_ps > self.patience_ps:
            self.late += 1
            self.worst_late_ps = max(self.worst_late_ps, late_ps)

    def moved(self, by_ps: int) -> None:
        """A record took effect ``by_ps`` of link time after its moment."""
        self.displaced += 1
        self.worst_displaced_ps = max(self.worst_displaced_ps, by_ps)

    def __str__(self) -> str:
        if self.displaced:
            return (
                f"late: {self.displaced} of {self.records} records took effect up to {self.worst_displaced_ps} ps "
                "of link time late; choose a larger time scale"
            )
        if self.late:
            return (
                f"exact in link time, but late: {self.late} of {self.records} records were handled up to "
                f"{self.worst_late_ps} ps of link time after their moment"
            )
        return f"exact in link time; all {self.records} records were handled in time"


def choose_time_scale(speed: Speed, distance_m: int, frame_cost_ns: int) -> int:
    """The smallest whole time scale with which the machine keeps up with a saturated link.

    ``frame_cost_ns``: what one frame, in and out, costs this end (measure it). Half of the time is left free, both
    directions may be full, and a record travels for longer than an event loop takes to wake up, as far as a scale of
    10^5 can bring that about.
    """
    frame_ps = speed.frame_ps(MAX_PAYLOAD_BYTES)
    by_work = -(-frame_cost_ns * PS_PER_NS * 4 // frame_ps)
    flight_ps = frame_ps + distance_m * PROPAGATION_PS_PER_METRE
    by_wake_up = min(-(-WAKE_UP_NS * PS_PER_NS // flight_ps), 100_000)
    return max(by_work, by_wake_up, 1)
