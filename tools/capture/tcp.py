"""TCP segments in captured packets: just the fields that an analysis of sequence numbers needs.

RFC 9293 section 3.1 (header), 3.2 (options), RFC 791, RFC 8200. Cut packets are fine as long as the TCP header is
whole: lengths come from the IP header, or from the packet's original length where a super-packet is too long for it.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from iscsi_target.trace.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW
from tools.capture.pcapng import (
    LINKTYPE_IPV4,
    LINKTYPE_IPV6,
    LINKTYPE_LINUX_SLL,
    LINKTYPE_NULL,
    CapturedPacket,
)

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
_IPPROTO_TCP = 6
_ETHERTYPES_IP = (0x0800, 0x86DD)
_ETHERTYPES_VLAN = (0x8100, 0x88A8)
_NETWORK_AT = {LINKTYPE_RAW: 0, LINKTYPE_IPV4: 0, LINKTYPE_IPV6: 0, LINKTYPE_NULL: 4, LINKTYPE_LINUX_SLL: 16}

_U16 = struct.Struct("!H")
_PORTS_SEQUENCES = struct.Struct("!HHIIBB")
_OPTION_MSS = 2


class Segment(NamedTuple):
    """One TCP segment (or super-segment): ``source`` and ``destination`` are packed address + port, for use as keys."""

    source: bytes
    destination: bytes
    sequence: int
    acknowledgement: int
    flags: int
    payload_bytes: int
    mss_bytes: int | None


def endpoint(packed: bytes) -> tuple[str, int]:
    """Address and port of :attr:`Segment.source` or ``destination`` for people."""
    family = socket.AF_INET if len(packed) == 6 else socket.AF_INET6
    return socket.inet_ntop(family, packed[:-2]), int.from_bytes(packed[-2:], "big")


def _network_offset(packet: CapturedPacket) -> int | None:
    """Where the IP header starts; None where there is none."""
    if packet.link_type != LINKTYPE_ETHERNET:
        return _NETWORK_AT.get(packet.link_type)
    data, at = packet.data, 12
    while at + 2 <= len(data):
        (ethertype,) = _U16.unpack_from(data, at)
        if ethertype in _ETHERTYPES_IP:
            return at + 2
        if ethertype not in _ETHERTYPES_VLAN:
            return None
        at += 4
    return None


def decode_segment(packet: CapturedPacket) -> Segment | None:
    """The TCP segment in a packet; None where it has none (other protocol, later fragment, cut within the headers)."""
    at = _network_offset(packet)
    data = packet.data
    if at is None or len(data) < at + 40:
        return None
    version = data[at] >> 4
    if version == 4:
        transport = at + 4 * (data[at] & 0xF)
        total = _U16.unpack_from(data, at + 2)[0]
        if data[at + 9] != _IPPROTO_TCP or _U16.unpack_from(data, at + 6)[0] & 0x1FFF:
            return None
        source, destination = data[at + 12 : at + 16], data[at + 16 : at + 20]
    elif version == 6:
        transport = at + 40
        total = _U16.unpack_from(data, at + 4)[0]
        total += 40 if total else 0
        if data[at + 6] != _IPPROTO_TCP:
            return None
        source, destination = data[at + 8 : at + 24], data[at + 24 : at + 40]
    else:
        return None
    if len(data) < transport + 20:
        return None
    end = at + total if total else packet.original_bytes  # 0: longer than 16 bits can say (BIG TCP)
    source_port = data[transport : transport + 2]
    destination_port = data[transport + 2 : transport + 4]
    _s, _d, sequence, acknowledgement, offset, flags = _PORTS_SEQUENCES.unpack_from(data, transport)
    header_bytes = 4 * (offset >> 4)
    mss_bytes = _mss(data[transport + 20 : transport + header_bytes]) if flags & SYN else None
    return Segment(
        source + source_port,
        destination + destination_port,
        sequence,
        acknowledgement,
        flags,
        max(0, end - transport - header_bytes),
        mss_bytes,
    )


def _mss(options: bytes) -> int | None:
    """The maximum segment size option (RFC 9293 section 3.7.1)."""
    at = 0
    while at < len(options):
        kind = options[at]
        if kind == 0:
            return None
        if kind == 1:
            at += 1
            continue
        if at + 2 > len(options) or options[at + 1] < 2:
            return None
        if kind == _OPTION_MSS and at + 4 <= len(options):
            return int(_U16.unpack_from(options, at + 2)[0])
        at += options[at + 1]
    return None
