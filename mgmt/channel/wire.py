"""The packets that two measuring devices exchange over UDP.

One layout for all kinds, in network byte order, padded with zeros to the size under test. No answer is longer
than its question, so that a forged source address gains nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

_MAGIC = b"SCmd"
_VERSION = 1
_LAYOUT = struct.Struct("!4sBBHQIIQQQ")

#: Length of a packet without padding, in bytes of UDP payload.
PACKET_BYTES = _LAYOUT.size


class Kind(IntEnum):
    """What a packet is for."""

    ECHO = 1
    ECHO_REPLY = 2
    TRAIN = 3
    REPORT_REQUEST = 4
    REPORT = 5


_KINDS = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Packet:
    """One probe packet.

    ``nonce`` names the measurement, drawn at random; ``train`` counts the packet trains in it and ``sequence`` the
    packets of a train or the echoes. ``sent_ns`` is the asker's clock and comes back unchanged; ``hold_ns`` is how
    long the answerer kept an echo. A report carries how many packets of the train ``arrived`` and their
    ``bandwidth_bps``, 0 for a train that says nothing.
    """

    kind: Kind
    nonce: int
    train: int = 0
    sequence: int = 0
    arrived: int = 0
    sent_ns: int = 0
    hold_ns: int = 0
    bandwidth_bps: int = 0


def encode(packet: Packet, payload_bytes: int = PACKET_BYTES) -> bytes:
    """``packet`` padded to ``payload_bytes``."""
    head = _LAYOUT.pack(
        _MAGIC,
        _VERSION,
        packet.kind,
        packet.train,
        packet.nonce,
        packet.sequence,
        packet.arrived,
        packet.sent_ns,
        packet.hold_ns,
        packet.bandwidth_bps,
    )
    return head.ljust(payload_bytes, b"\0")


def decode(data: bytes) -> Packet | None:
    """The packet in ``data``; ``None`` for anything that is not ours, as any stranger may send to a UDP port."""
    if len(data) < PACKET_BYTES:
        return None
    fields = _LAYOUT.unpack_from(data)
    magic, version, kind, train, nonce, sequence, arrived, sent_ns, hold_ns, bandwidth_bps = fields
    if magic != _MAGIC or version != _VERSION or kind not in _KINDS:
        return None
    return Packet(Kind(kind), nonce, train, sequence, arrived, sent_ns, hold_ns, bandwidth_bps)
