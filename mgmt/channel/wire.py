"""The packets by which two measuring devices measure bandwidth: trains, and the reports on them, over UDP.

One layout for all kinds, in network byte order, padded with zeros to the size under test. No answer is longer
than its question, so that a forged source address gains nothing. Delay is measured with STAMP
(:mod:`mgmt.channel.stamp`) on the same port; its packets begin with a sequence number that does not read as ours.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum

from mgmt.channel.stamp import code

_MAGIC = b"SCmd"
_VERSION = 2
_LAYOUT = struct.Struct("!4sBBHQIIQ")
_CODE_BYTES = 16

#: Length of a packet without padding, in bytes of UDP payload; the last 16 authenticate it where there is a key.
PACKET_BYTES = _LAYOUT.size + _CODE_BYTES


class Kind(IntEnum):
    """What a packet is for."""

    TRAIN = 1
    REPORT_REQUEST = 2
    REPORT = 3


_KINDS = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet of a train, or about one.

    ``nonce`` names the measurement, drawn at random; ``train`` counts the packet trains in it and ``sequence`` the
    packets of a train. A report carries how many packets of the train ``arrived`` and their ``bandwidth_bps``, 0 for
    a train that says nothing.
    """

    kind: Kind
    nonce: int
    train: int = 0
    sequence: int = 0
    arrived: int = 0
    bandwidth_bps: int = 0


def is_ours(data: bytes) -> bool:
    """Whether ``data`` begins as these packets do, so that it is none of STAMP's."""
    return data.startswith(_MAGIC)


def encode(packet: Packet, payload_bytes: int = PACKET_BYTES, key: bytes | None = None) -> bytes:
    """``packet`` padded to ``payload_bytes``, authenticated with ``key``."""
    head = _LAYOUT.pack(
        _MAGIC,
        _VERSION,
        packet.kind,
        packet.train,
        packet.nonce,
        packet.sequence,
        packet.arrived,
        packet.bandwidth_bps,
    )
    seal = bytes(_CODE_BYTES) if key is None else code(head, key)
    return (head + seal).ljust(payload_bytes, b"\0")


def decode(data: bytes, key: bytes | None = None) -> Packet | None:
    """The packet in ``data``; ``None`` for anything that is not ours, as any stranger may send to a UDP port."""
    if len(data) < PACKET_BYTES:
        return None
    fields = _LAYOUT.unpack_from(data)
    magic, version, kind, train, nonce, sequence, arrived, bandwidth_bps = fields
    if magic != _MAGIC or version != _VERSION or kind not in _KINDS:
        return None
    if key is not None and not hmac.compare_digest(
        code(data[: _LAYOUT.size], key), data[_LAYOUT.size : PACKET_BYTES]
    ):
        return None
    return Packet(Kind(kind), nonce, train, sequence, arrived, bandwidth_bps)
