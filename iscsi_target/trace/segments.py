# SPDX-License-Identifier: Apache-2.0
"""IP packets with TCP segments, as the bytes of a connection would have looked on a wire (RFC 791, 8200, 9293)."""

from __future__ import annotations

import socket
import struct

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
LARGEST_PAYLOAD_BYTES = 65_000
"""Fits an IP packet of either version with its TCP header."""

_IPPROTO_TCP = 6
_TCP = struct.Struct("!HHIIBBHHH")
_WINDOW = 65_535
_MASK = 0xFFFFFFFF


def _checksum(*parts: bytes) -> int:
    """The Internet checksum (RFC 1071) over parts of even length, the last one padded; not for nothing but zeros."""
    total = 0
    for part in parts:
        total += int.from_bytes(part if len(part) % 2 == 0 else part + b"\0", "big")
    return (0xFFFF - total % 0xFFFF) % 0xFFFF


class Endpoint:
    """An address and port. A host that is no IP address (a test's) stands as 0.0.0.0."""

    __slots__ = ("packed", "port", "version")

    def __init__(self, host: str, port: int) -> None:
        self.port = port
        host = host.partition("%")[0]
        self.version = 6 if ":" in host else 4
        try:
            self.packed = socket.inet_pton(socket.AF_INET6 if self.version == 6 else socket.AF_INET, host)
        except OSError:
            self.packed = bytes(16 if self.version == 6 else 4)


def tcp_packet(
    source: Endpoint,
    destination: Endpoint,
    sequence: int,
    acknowledgement: int,
    flags: int,
    payload: bytes = b"",
) -> bytes:
    """One IP packet (no link layer) with one segment, its checksums right."""
    header = _TCP.pack(
        source.port,
        destination.port,
        sequence & _MASK,
        acknowledgement & _MASK,
        5 << 4,
        flags,
        _WINDOW,
        0,
        0,
    )
    size = len(header) + len(payload)
    if source.version == 4:
        pseudo = source.packed + destination.packed + struct.pack("!BBH", 0, _IPPROTO_TCP, size)
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 0, 0x4000, 64, _IPPROTO_TCP, 0)
        ip += source.packed + destination.packed
        ip = ip[:10] + _checksum(ip).to_bytes(2, "big") + ip[12:]
    else:
        pseudo = source.packed + destination.packed + struct.pack("!II", size, _IPPROTO_TCP)
        ip = struct.pack("!IHBB", 6 << 28, size, _IPPROTO_TCP, 64) + source.packed + destination.packed
    checksum = _checksum(pseudo, header, payload)
    return ip + header[:16] + checksum.to_bytes(2, "big") + header[18:] + payload
