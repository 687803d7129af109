"""From what measuring devices saw to a bandwidth and a round-trip time (sans-IO).

Bandwidth by the dispersion of packet trains: packets sent faster than the channel carries them leave it one
serialisation time apart. The estimate of a train is the median of the rates over all its half-train windows, so
a stall of a receiver, a late first packet or a shaper's initial burst moves it little; lost packets are simply
not counted, since those that did arrive left the bottleneck back to back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low

#: Fewer arrivals than this say nothing about a channel.
MIN_ARRIVALS = 8


class NotMeasurable(ValueError):
    """What arrived does not determine the value; the text says why."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One packet of a train: its number in it, when it arrived, and its length with the IP header in bytes."""

    sequence: int
    arrival_ns: int
    ip_bytes: int


def train_bandwidth_bps(arrivals: Sequence[Arrival]) -> int:
    """The bandwidth that one train saw, in bits of IP packets per second.

    Packets may be missing or out of order; a number that occurs twice counts once. Raises
    :class:`NotMeasurable`: too few packets, or no time passed between them.
    """
    first_seen: dict[int, Arrival] = {}
    for arrival in sorted(arrivals, key=lambda arrival: arrival.arrival_ns):
        first_seen.setdefault(arrival.sequence, arrival)
    train = tuple(first_seen.values())
    if len(train) < MIN_ARRIVALS:
        raise NotMeasurable(f"{len(train)} packets of a train arrived, {MIN_ARRIVALS} are needed")
    carried_bits = [0]
    for arrival in train[1:]:
        carried_bits.append(carried_bits[-1] + 8 * arrival.ip_bytes)
    half = len(train) // 2
    rates = []
    for start in range(len(train) - half):
        span_ns = train[start + half].arrival_ns - train[start].arrival_ns
        bits = carried_bits[start + half] - carried_bits[start]
        rates.append(bits * 1_000_000_000 // span_ns if span_ns > 0 else math.inf)
    middle = median_low(rates)
    if not 1 <= middle < math.inf:
        raise NotMeasurable("the packets of a train arrived at the same moment")
    return int(middle)


def channel_bandwidth_bps(train_estimates: Iterable[int]) -> int:
    """The bandwidth of the channel: the median of its trains. :class:`NotMeasurable`: there is none."""
    valid = [estimate for estimate in train_estimates if estimate > 0]
    if not valid:
        raise NotMeasurable("no packet train came through")
    return median_low(valid)


def round_trip_ns(samples: Iterable[int]) -> int:
    """The round-trip time: the smallest of the echoes, as queues only ever add to it.

    A sample of 0 or less comes from a clock that was set meanwhile and is left out. :class:`NotMeasurable`: no
    valid sample is left.
    """
    valid = [sample for sample in samples if sample > 0]
    if not valid:
        raise NotMeasurable("no echo came back")
    return min(valid)


def jitter_ns(round_trips_ns: Sequence[int]) -> int:
    """The mean difference of neighbouring samples, in the order they were sent (IPDV, RFC 3393 clause 4.5)."""
    differences = [abs(after - before) for before, after in pairwise(round_trips_ns)]
    return sum(differences) // len(differences) if differences else 0


def check_measured(bandwidth_bps: float, rtt_ns: float) -> None:
    """Refuse figures that nothing may be computed from: 0, negative, infinite, not a number (GAP-11)."""
    for name, value in (("bandwidth", bandwidth_bps), ("round-trip time", rtt_ns)):
        if not math.isfinite(value) or value <= 0:
            raise NotMeasurable(f"a {name} of {value} is not a measured value")
