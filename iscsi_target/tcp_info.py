# SPDX-License-Identifier: Apache-2.0
"""What the kernel knows of a TCP connection: TCP_INFO and SIOCOUTQ (Linux, tcp(7))."""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass

SIOCOUTQ = 0x5411
"""ioctl: bytes written and not yet acknowledged (write_seq - snd_una), byte exact."""

_WORDS = struct.Struct("=8B24I")
_RATES = struct.Struct("=QQQQIIIIIIQQQQ")
_RATES_OFFSET = 104
_LENGTH = 256


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """Selected fields of struct tcp_info, in the kernel's names; times converted to nanoseconds."""

    state: int
    snd_mss: int
    rtt_ns: int
    min_rtt_ns: int
    snd_cwnd: int
    total_retrans: int
    bytes_acked: int
    notsent_bytes: int
    delivery_rate_bytes_per_s: int
    app_limited: bool
    busy_time_ns: int
    rwnd_limited_ns: int
    sndbuf_limited_ns: int


def outstanding_bytes(sock: socket.socket) -> int:
    """Bytes handed to the kernel that the peer's TCP has not acknowledged. Raises OSError."""
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), SIOCOUTQ, b"\0\0\0\0"))[0])


def read_tcp_info(sock: socket.socket) -> TcpInfo:
    """Read TCP_INFO. Raises OSError."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LENGTH).ljust(_LENGTH, b"\0")
    words = _WORDS.unpack_from(raw)
    rates = _RATES.unpack_from(raw, _RATES_OFFSET)
    minimum = rates[7]
    return TcpInfo(
        state=words[0],
        snd_mss=words[8 + 2],
        rtt_ns=words[8 + 15] * 1000,
        min_rtt_ns=0 if minimum == 0xFFFFFFFF else minimum * 1000,
        snd_cwnd=words[8 + 18],
        total_retrans=words[8 + 23],
        bytes_acked=rates[2],
        notsent_bytes=rates[6],
        delivery_rate_bytes_per_s=rates[10],
        app_limited=bool(words[7] & 1),
        busy_time_ns=rates[11] * 1000,
        rwnd_limited_ns=rates[12] * 1000,
        sndbuf_limited_ns=rates[13] * 1000,
    )
