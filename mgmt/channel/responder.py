"""The remote side of a measurement (sans-IO): a STAMP Session-Reflector, which also times packet trains.

What strangers can make it hold is bounded: :data:`MAX_SESSIONS` STAMP sessions, :data:`MAX_MEASUREMENTS` measurements,
the newest train of each, at most :data:`MAX_TRAIN` packets in it. The oldest go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from mgmt.channel.dispersion import Arrival, NotMeasurable, train_bandwidth_bps
from mgmt.channel.stamp import ReflectorPacket, decode_sender, encode_reflector
from mgmt.channel.wire import Kind, Packet, decode, encode, is_ours

MAX_SESSIONS = 256
MAX_MEASUREMENTS = 16
MAX_TRAIN = 1024


@dataclass(slots=True)
class _Train:
    number: int
    arrivals: list[Arrival] = field(default_factory=list)


class Responder:
    """Answers the packets of any number of measurers; knows them by address, and by nonce or session ID.

    ``utc_offset_ns`` is what the clock of the arguments lacks of UTC. With a ``key`` only packets that carry its code
    are answered (RFC 8762 clause 4.4). The reflector is stateful (clause 4.3): it counts what it reflects, so that the
    sender can tell in which direction a packet was lost.
    """

    def __init__(self, utc_offset_ns: int = 0, key: bytes | None = None) -> None:
        self._utc_offset_ns = utc_offset_ns
        self._key = key
        self._sessions: OrderedDict[tuple[Hashable, int], int] = OrderedDict()
        self._trains: OrderedDict[tuple[Hashable, int], _Train] = OrderedDict()

    def receive(
        self, data: bytes, peer: Hashable, ip_header_bytes: int, arrival_ns: int, now_ns: int, ttl: int = 255
    ) -> bytes | None:
        """One datagram from ``peer``; returns the datagram to send back, if any.

        ``ip_header_bytes`` is what IP and UDP added to ``data`` on its way, ``ttl`` the TTL it came with;
        ``arrival_ns`` is when it arrived and ``now_ns`` the present moment of the same clock.
        """
        if not is_ours(data):
            return self._reflect(data, peer, arrival_ns, now_ns, ttl)
        packet = decode(data, self._key)
        if packet is None:
            return None
        if packet.kind is Kind.TRAIN:
            self._note(packet, peer, Arrival(packet.sequence, arrival_ns, len(data) + ip_header_bytes))
        elif packet.kind is Kind.REPORT_REQUEST:
            train = self._trains.get((peer, packet.nonce))
            arrivals = train.arrivals if train is not None and train.number == packet.train else []
            report = Packet(
                Kind.REPORT,
                packet.nonce,
                train=packet.train,
                arrived=len(arrivals),
                bandwidth_bps=_estimate(arrivals),
            )
            return encode(report, key=self._key)
        return None

    def _reflect(self, data: bytes, peer: Hashable, arrival_ns: int, now_ns: int, ttl: int) -> bytes | None:
        asked = decode_sender(data, now_ns + self._utc_offset_ns, self._key)
        if asked is None:
            return None
        session = (peer, asked.ssid)
        count = self._sessions.get(session, 0)
        self._sessions[session] = (count + 1) & 0xFFFFFFFF
        self._sessions.move_to_end(session)
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        answer = ReflectorPacket(
            sequence=count,
            sent_utc_ns=max(arrival_ns, now_ns) + self._utc_offset_ns,
            received_utc_ns=arrival_ns + self._utc_offset_ns,
            sender_sequence=asked.sequence,
            sender_sent_utc_ns=asked.sent_utc_ns,
            sender_ttl=ttl,
            ssid=asked.ssid,
        )
        return encode_reflector(answer, self._key, length=len(data))

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
