"""A STAMP session that does not end (sans-IO): what is sent when, what came back, what did not."""

from __future__ import annotations

from collections import OrderedDict

from mgmt.channel.monitor import RoundTrip
from mgmt.channel.stamp import SenderPacket, decode_reflector, encode_sender

#: More packets than this are never waited for at once.
MOST_UNDER_WAY = 4096


class StampStream:
    """A Session-Sender (RFC 8762 clause 4.2) with a packet every ``spacing_ns``.

    Packets that take longer than ``patience_ns`` count as lost. ``utc_offset_ns`` is what ``now_ns`` lacks of UTC.
    """

    def __init__(
        self,
        ssid: int,
        *,
        spacing_ns: int = 50_000_000,
        patience_ns: int = 3_000_000_000,
        utc_offset_ns: int = 0,
        key: bytes | None = None,
    ) -> None:
        self._ssid = ssid
        self._spacing_ns = spacing_ns
        self._patience_ns = patience_ns
        self._utc_offset_ns = utc_offset_ns
        self._key = key
        self._sequence = 0
        self._next_ns: int | None = None
        self._under_way: OrderedDict[int, int] = OrderedDict()

    def datagrams_to_send(self, now_ns: int) -> list[bytes]:
        """What has to leave now: at most one packet, however late this is called."""
        if self._next_ns is not None and now_ns < self._next_ns:
            return []
        self._next_ns = now_ns + self._spacing_ns
        sequence, self._sequence = self._sequence, (self._sequence + 1) & 0xFFFFFFFF
        self._under_way[sequence] = now_ns
        packet = SenderPacket(sequence, now_ns + self._utc_offset_ns, self._ssid)
        return [encode_sender(packet, self._key)]

    def next_deadline(self) -> int | None:
        """When the next packet is due; None: at once."""
        return self._next_ns

    def receive(self, data: bytes, arrival_ns: int) -> RoundTrip | None:
        """What a datagram tells, None when it is not the first answer to a packet of this stream."""
        packet = decode_reflector(data, arrival_ns + self._utc_offset_ns, self._key)
        if packet is None or packet.ssid != self._ssid:
            return None
        sent_ns = self._under_way.get(packet.sender_sequence)
        if sent_ns is None or packet.sender_sent_utc_ns != sent_ns + self._utc_offset_ns:
            return None
        del self._under_way[packet.sender_sequence]
        held_ns = packet.sent_utc_ns - packet.received_utc_ns
        return RoundTrip(
            rtt_ns=arrival_ns - sent_ns - held_ns,
            there_ns=packet.received_utc_ns - packet.sender_sent_utc_ns,
            back_ns=arrival_ns + self._utc_offset_ns - packet.sent_utc_ns,
        )

    def lost(self, now_ns: int) -> int:
        """How many packets did not come back in time since the last call."""
        count = 0
        while self._under_way:
            sequence, sent_ns = next(iter(self._under_way.items()))
            if now_ns - sent_ns <= self._patience_ns and len(self._under_way) <= MOST_UNDER_WAY:
                break
            del self._under_way[sequence]
            count += 1
        return count
