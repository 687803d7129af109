"""From the commands of a capture to their completion times over another channel (pure).

A command's time is the way there and back, the device's own time, and the time its data take. The device's own time is
what the captured command needed before its first answer, less the captured round trip; it stays the same. The data are
sent over a :class:`~tools.capture.whatif.pipes.Pipe`, all of one direction one after the other. Commands begin when
they began: a host that would have waited for its answers longer is not slowed down, so that what does not fit piles up,
and shows. What a target does after the last byte of a write came cannot be seen in a capture; a tenth of the writes are
taken to have needed nothing more, and what those needed is given to all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tools.capture.replay.verdict import latencies
from tools.capture.whatif.pipes import Carried, Pipe, Transfer

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Arrival:
    """A captured command. Times in ns: ``before_data_ns`` from its start to its first answer (a READ) or to the
    permission to send (a solicited WRITE), 0 for a WRITE whose data came with it."""

    start_ns: int
    ect_ns: int
    before_data_ns: int
    read_bytes: int
    write_bytes: int
    solicited: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a channel makes of the commands. ``rate_bps`` counts data in both directions over the whole time."""

    ect_ns: dict[str, int] | None
    rate_bps: int
    stalls: int
    stalled_ns: int


class WhatIf:
    """The commands of one pair of ports. ``captured``: the channel that they were captured on, one pipe each way; the
    first from the initiator. ``seen_rtt_ns``: what of the round trip the captured times contain: all of it where the
    capture was taken at the initiator, nothing where it was at the target."""

    def __init__(self, arrivals: Sequence[Arrival], captured: tuple[Pipe, Pipe], seen_rtt_ns: int) -> None:
        self.arrivals = sorted(arrivals, key=lambda arrival: arrival.start_ns)
        self._seen_rtt_ns = seen_rtt_ns
        self._unseen_ns = max(0, captured[0].one_way_ns + captured[1].one_way_ns - seen_rtt_ns)
        self._after_write_ns = 0
        self._after_write_ns = self._tail_of_writes(captured)

    @property
    def unseen_ns(self) -> int:
        """What of the round trip the captured times do not contain."""
        return self._unseen_ns

    @property
    def after_write_ns(self) -> int:
        """What the target is taken to need after the last byte of a write."""
        return self._after_write_ns

    def measured(self) -> dict[str, int] | None:
        """Completion times as captured, with the way to the initiator that the capture did not see."""
        return latencies([arrival.ect_ns + self._unseen_ns for arrival in self.arrivals])

    def predict(self, pipes: tuple[Pipe, Pipe]) -> Prediction:
        """Completion times over other pipes."""
        there, back = pipes
        rtt_ns = there.one_way_ns + back.one_way_ns
        reads = [(number, one) for number, one in enumerate(self.arrivals) if one.read_bytes]
        writes = [(number, one) for number, one in enumerate(self.arrivals) if one.write_bytes]
        ends = [one.start_ns + max(0, one.ect_ns - self._seen_rtt_ns) + rtt_ns for one in self.arrivals]
        stalls = stalled_ns = 0
        for pipe, members, release, tail_ns in (
            (back, reads, lambda one: self._served_at(one, there.one_way_ns), 0),
            (there, writes, lambda one: self._sent_at(one, rtt_ns), back.one_way_ns + self._after_write_ns),
        ):
            carried, order = _carry(pipe, members, release)
            for (number, _), delivered_ns in zip(order, carried.delivered_ns, strict=True):
                ends[number] = delivered_ns + tail_ns
            stalls += carried.stalls
            stalled_ns += carried.stalled_ns
        found = [end - one.start_ns for end, one in zip(ends, self.arrivals, strict=True)]
        moved = sum(one.read_bytes + one.write_bytes for one in self.arrivals)
        span_ns = max(ends) - self.arrivals[0].start_ns if ends else 0
        return Prediction(latencies(found), moved * 8 * _NS // span_ns if span_ns else 0, stalls, stalled_ns)

    def _served_at(self, one: Arrival, there_ns: int) -> int:
        """When the target has the data of a READ."""
        return one.start_ns + there_ns + max(0, one.before_data_ns - self._seen_rtt_ns)

    def _sent_at(self, one: Arrival, rtt_ns: int) -> int:
        """When the initiator has leave to send the data of a WRITE."""
        if not one.solicited:
            return one.start_ns
        return one.start_ns + rtt_ns + max(0, one.before_data_ns - self._seen_rtt_ns)

    def _tail_of_writes(self, captured: tuple[Pipe, Pipe]) -> int:
        """What the quickest tenth of the writes needed after their data had come."""
        writes = [(number, one) for number, one in enumerate(self.arrivals) if one.write_bytes]
        if not writes:
            return 0
        rtt_ns = captured[0].one_way_ns + captured[1].one_way_ns
        carried, order = _carry(captured[0], writes, lambda one: self._sent_at(one, rtt_ns))
        rests = sorted(
            max(0, one.start_ns + one.ect_ns + self._unseen_ns - delivered_ns - captured[1].one_way_ns)
            for (_, one), delivered_ns in zip(order, carried.delivered_ns, strict=True)
        )
        return rests[len(rests) // 10]


def _carry(
    pipe: Pipe, members: list[tuple[int, Arrival]], release: Callable[[Arrival], int]
) -> tuple[Carried, list[tuple[int, Arrival]]]:
    """Carry the data of the members in the order in which they become ready."""
    order = sorted(members, key=lambda member: release(member[1]))
    transfers = [Transfer(release(one), one.read_bytes or one.write_bytes) for _, one in order]
    return pipe.carry(transfers), order


def knee(values: Sequence[tuple[int, int]], *, within: float = 0.02) -> int | None:
    """The smallest setting whose figure (less is better) is as good as the best, but for a small part."""
    if not values:
        return None
    best = min(figure for _, figure in values)
    return min(setting for setting, figure in values if figure <= best * (1 + within))
