"""The virtio-net header that Linux puts before a packet on a TUN device with ``IFF_VNET_HDR``.

Virtio 1.2 clause 5.1.6 (``struct virtio_net_hdr``, 10 bytes, host byte order on a TUN device): flags u8, gso_type u8,
hdr_len u16, gso_size u16, csum_start u16, csum_offset u16. With segmentation offload a TUN device hands over
TCP super-packets of up to 64 KiB; what they weigh on a wire is told by this header.
"""

from __future__ import annotations

import struct

HEADER_BYTES = 10
PACKET_LIMIT_BYTES = HEADER_BYTES + 65535 + 1
"""The largest read from such a device."""

_HEADER = struct.Struct("=BBHHHH")
_GSO_TCPV4 = 1
_GSO_TCPV6 = 4
_GSO_ECN = 0x80


def wire_size(packet: bytes) -> tuple[int, int]:
    """What a packet (with its virtio-net header) weighs on a wire: (segments, bytes of IP in all of them).

    A TCP super-packet counts once per segment, headers included. Whatever carries no valid segmentation
    request counts as one packet of its own length.
    """
    length = len(packet) - HEADER_BYTES
    if length < 0:
        return 1, 0
    _flags, gso_type, _header_length, gso_size, transport, _checksum = _HEADER.unpack_from(packet)
    if gso_type & ~_GSO_ECN not in (_GSO_TCPV4, _GSO_TCPV6) or gso_size == 0 or transport + 20 > length:
        return 1, length
    headers = transport + 4 * (packet[HEADER_BYTES + transport + 12] >> 4)
    segments = -(-(length - headers) // gso_size)
    if segments <= 1:
        return 1, length
    return segments, length + (segments - 1) * headers
