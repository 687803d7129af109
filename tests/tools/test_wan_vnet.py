"""What a packet from a TUN device weighs on a wire."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.wan.vnet import HEADER_BYTES, wire_size

TCPV4, TCPV6, UDP, ECN = 1, 4, 3, 0x80


def packet(gso_type: int, gso_size: int, ip_bytes: int, payload: int, tcp_words: int = 8) -> bytes:
    """virtio_net_hdr, an IP header of ``ip_bytes``, a TCP header of ``tcp_words`` words, payload."""
    header = struct.pack("=BBHHHH", 1, gso_type, 0, gso_size, ip_bytes, 16)
    tcp = bytearray(4 * tcp_words)
    tcp[12] = tcp_words << 4
    return header + bytes(ip_bytes) + bytes(tcp) + bytes(payload)


def test_a_super_packet_is_its_segments_each_with_headers():
    assert wire_size(packet(TCPV4, 1448, 20, 10 * 1448)) == (10, 10 * 1500)
    assert wire_size(packet(TCPV4, 1448, 20, 10 * 1448 + 1)) == (11, 10 * 1500 + 53)
    assert wire_size(packet(TCPV4 | ECN, 1448, 20, 2 * 1448)) == (2, 3000)
    assert wire_size(packet(TCPV6, 1428, 40, 3 * 1428)) == (3, 3 * 1500)


@pytest.mark.parametrize("kind", [0, UDP, 0x7F])
def test_anything_else_is_one_packet(kind):
    assert wire_size(packet(kind, 1448, 20, 4000)) == (1, 4052)


def test_a_segmentation_request_for_what_fits_is_one_packet():
    assert wire_size(packet(TCPV4, 1448, 20, 100)) == (1, 152)
    assert wire_size(packet(TCPV4, 0, 20, 5000)) == (1, 5052)


@given(st.binary(max_size=200))
def test_no_bytes_of_a_site_can_upset_it(data):
    segments, size = wire_size(data)
    assert segments >= 1
    assert size >= max(0, len(data) - HEADER_BYTES)
