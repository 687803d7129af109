"""The kernel's own buffers never decide what a reservation decides: real sockets on loopback."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from iscsi_target.tcp_buffers import bound_receive_window, clamp_receive_window, widen_send_buffer

GROWS_TO = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[-1])
ALLOWED = int(Path("/proc/sys/net/core/wmem_max").read_text())


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far:
        yield near, far


def offered_window(sock: socket.socket) -> int:
    """tcpi_snd_wnd: what the peer lets be under way."""
    return int(struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 228)[0])


def send_buffer(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def test_a_reservation_that_the_kernel_grows_to_by_itself_changes_nothing(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    before = send_buffer(pair[0])
    widen_send_buffer(pair[0], GROWS_TO // 2)
    assert send_buffer(pair[0]) == before


@pytest.mark.skipif(os.geteuid() != 0 and 2 * ALLOWED <= GROWS_TO, reason="wmem_max allows no more here")
def test_a_larger_one_fits_into_the_kernels_own_buffer(pair: tuple[socket.socket, socket.socket]) -> None:
    wanted = GROWS_TO + 1
    widen_send_buffer(pair[0], wanted)
    assert send_buffer(pair[0]) >= 2 * min(wanted, max(ALLOWED, GROWS_TO // 2))


def test_a_limit_that_would_make_the_buffer_smaller_is_not_set(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Debian's wmem_max is 208 KiB: who asked for more without a privilege would get that, and keep it."""
    (tmp_path / "wmem_max").write_text("212992\n")
    monkeypatch.setattr("iscsi_target.tcp_buffers._WMEM_MAX", tmp_path / "wmem_max")
    monkeypatch.setattr(
        "iscsi_target.tcp_buffers._SO_SNDBUFFORCE", -1
    )  # as it is refused without a privilege
    before = send_buffer(pair[0])
    widen_send_buffer(pair[0], 2 * GROWS_TO)
    assert send_buffer(pair[0]) == before


@pytest.mark.parametrize("size_bytes", [128 << 10, 1 << 20])
def test_a_peer_is_offered_at_most_the_bound_also_when_the_kernel_has_learnt_its_segments(
    pair: tuple[socket.socket, socket.socket], size_bytes: int
) -> None:
    near, far = pair
    bound_receive_window(far, size_bytes)
    for _ in range(64):
        near.sendall(bytes(32 << 10))
        left = 32 << 10
        while left:
            left -= len(far.recv(left))
        clamp_receive_window(far, size_bytes)
    near.sendall(bytes(1))
    far.recv(1)
    assert size_bytes // 4 < offered_window(near) <= size_bytes
