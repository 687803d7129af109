# SPDX-License-Identifier: Apache-2.0
"""The kernel's own buffers of a TCP connection, kept from deciding what the reservation decides (Linux, tcp(7)).

Both grow by themselves as far as the system allows (``net.ipv4.tcp_wmem``, ``tcp_rmem``), which on a long fast channel
is less than what is reserved. With CAP_NET_ADMIN they may be set beyond the system's limits, without it up to
``net.core.wmem_max`` and ``rmem_max``.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_TCP_WMEM = Path("/proc/sys/net/ipv4/tcp_wmem")
_WMEM_MAX = Path("/proc/sys/net/core/wmem_max")


def widen_send_buffer(sock: socket.socket, size_bytes: int) -> None:
    """Let the kernel hold ``size_bytes`` of this connection, where it would not grow that far by itself.

    What it counts are its own structures, at most twice the bytes; setting a size also doubles it. A size that would
    come out smaller than what the kernel grows to is not set.
    """
    grows_to, allowed = _last_number(_TCP_WMEM), _last_number(_WMEM_MAX)
    if grows_to is None or allowed is None or 2 * size_bytes <= grows_to:
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size_bytes)
    except OSError:  # no privilege: as far as everybody may
        if 2 * min(size_bytes, allowed) > grows_to:
            with contextlib.suppress(OSError):  # the connection has gone; who writes finds out
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size_bytes)


def bound_receive_window(sock: socket.socket, size_bytes: int) -> None:
    """Let the peer have at most ``size_bytes`` under way, and that much: receive buffer and window clamp.

    Raises OSError where the connection has gone.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size_bytes)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)
    clamp_receive_window(sock, size_bytes)


def clamp_receive_window(sock: socket.socket, size_bytes: int) -> None:
    """The window clamp alone. The kernel puts it back to what the receive buffer allows, twice the size, when it learns
    how large the peer's segments are: so it is said again as data come in. Raises OSError."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, size_bytes)


def _last_number(file: Path) -> int | None:
    """The largest of the values that the kernel keeps in ``file``; None where it has no such file."""
    try:
        return int(file.read_text().split()[-1])
    except (OSError, ValueError, IndexError):
        return None
