"""The remote side of a measurement (sans-IO): send echoes back, time packet trains, report on them.

What strangers can make it hold is bounded: :data:`MAX_MEASUREMENTS` measurements, the newest train of each, at
most :data:`MAX_TRAIN` packets in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from mgmt.channel.dispersion import Arrival, NotMeasurable, train_bandwidth_bps
from mgmt.channel.wire import Kind, Packet, decode, encode

MAX_MEASUREMENTS = 16
MAX_TRAIN = 1024


@dataclass(slots=True)
class _Train:
    number: int
    arrivals: list[Arrival] = field(default_factory=list)


class Responder:
    """Answers the packets of any number of measurers; knows them by address and nonce."""

    def __init__(self) -> None:
        self._trains: OrderedDict[tuple[Hashable, int], _Train] = OrderedDict()

    def receive(
        self, data: bytes, peer: Hashable, ip_header_bytes: int, arrival_ns: int, now_ns: int
    ) -> bytes | None:
        """One datagram from ``peer``; returns the datagram to send back, if any.

        ``ip_header_bytes`` is what IP and UDP added to ``data`` on its way; ``arrival_ns`` is when it arrived and
        ``now_ns`` the present moment of the same clock.
        """
        packet = decode(data)
        if packet is None:
            return None
        if packet.kind is Kind.ECHO:
            return _reply(packet, Kind.ECHO_REPLY, hold_ns=max(0, now_ns - arrival_ns))
        if packet.kind is Kind.TRAIN:
            self._note(packet, peer, Arrival(packet.sequence, arrival_ns, len(data) + ip_header_bytes))
        elif packet.kind is Kind.REPORT_REQUEST:
            train = self._trains.get((peer, packet.nonce))
            arrivals = train.arrivals if train is not None and train.number == packet.train else []
            return _reply(packet, Kind.REPORT, arrived=len(arrivals), bandwidth_bps=_estimate(arrivals))
        return None

    def _note(self, packet: Packet, peer: Hashable, arrival: Arrival) -> None:
        key = (peer, packet.nonce)
        train = self._trains.get(key)
        if train is None or packet.train > train.number:
            train = self._trains[key] = _Train(packet.train)
        if packet.train == train.number and len(train.arrivals) < MAX_TRAIN:
            train.arrivals.append(arrival)
        self._trains.move_to_end(key)
        while len(self._trains) > MAX_MEASUREMENTS:
            self._trains.popitem(last=False)


def _estimate(arrivals: list[Arrival]) -> int:
    try:
        return train_bandwidth_bps(arrivals)
    except NotMeasurable:
        return 0


def _reply(asked: Packet, kind: Kind, *, arrived: int = 0, hold_ns: int = 0, bandwidth_bps: int = 0) -> bytes:
    return encode(
        Packet(
            kind,
            asked.nonce,
            train=asked.train,
            sequence=asked.sequence,
            arrived=arrived,
            sent_ns=asked.sent_ns,
            hold_ns=hold_ns,
            bandwidth_bps=bandwidth_bps,
        )
    )
