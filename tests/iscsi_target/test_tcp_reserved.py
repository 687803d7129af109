"""A connection over reserved memory, on a real loopback socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from iscsi_target.errors import ConnectionLost
from iscsi_target.tcp import ReservedTcpConnection, connect_socket


def memory(*sizes: int) -> list[memoryview]:
    return [memoryview(bytearray(size)) for size in sizes]


@asynccontextmanager
async def joined(
    runs: list[memoryview], *, receive_buffer: int | None = None, stall_timeout_s: float = 30.0
) -> AsyncIterator[tuple[ReservedTcpConnection, socket.socket]]:
    """A reserved connection and the plain socket at its other end."""
    listener = socket.create_server(("127.0.0.1", 0))
    if receive_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock = await connect_socket("127.0.0.1", listener.getsockname()[1])
    peer, _ = listener.accept()
    peer.setblocking(False)
    connection = ReservedTcpConnection(sock, runs, stall_timeout_s=stall_timeout_s)
    try:
        yield connection, peer
    finally:
        connection.close()
        peer.close()
        listener.close()


async def receive(peer: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        chunk = await loop.sock_recv(peer, 65536)
        assert chunk
        data += chunk
    return data


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 90))


def test_bytes_arrive_in_order_through_a_ring_of_several_runs() -> None:
    async def body() -> None:
        data = os.urandom(1_000_003)
        async with joined(memory(1000, 1, 30_000, 7777)) as (connection, peer):
            sending = asyncio.create_task(connection.write([data[:10], data[10:]]))
            assert await receive(peer, len(data)) == data
            await sending
            await connection.drained()
            statistics = connection.statistics()
            assert statistics.written_bytes == statistics.acknowledged_bytes == len(data)
            assert statistics.max_in_flight_bytes == statistics.capacity_bytes == 38_778

    run(body)


def test_what_a_stalled_peer_leaves_unacknowledged_never_exceeds_the_memory() -> None:
    async def body() -> None:
        async with joined(memory(1 << 20), receive_buffer=4096) as (connection, peer):
            sending = asyncio.create_task(connection.write([bytes(4 << 20)]))
            for _ in range(50):
                await asyncio.sleep(0.002)
                assert connection.statistics().in_flight_bytes <= 1 << 20
            assert not sending.done()
            assert len(await receive(peer, 4 << 20)) == 4 << 20
            await sending

    run(body)


def test_a_lowered_limit_holds_once_what_was_above_it_has_drained() -> None:
    async def body() -> None:
        async with joined(memory(200_000)) as (connection, peer):
            connection.set_limit(10_000)
            sending = asyncio.create_task(connection.write([bytes(300_000)]))
            received = 0
            while received < 300_000:
                assert connection.statistics().in_flight_bytes <= 10_000
                received += len(await asyncio.get_running_loop().sock_recv(peer, 4096))
            await sending
            connection.set_limit(10**9)
            assert connection.statistics().limit_bytes == 200_000

    run(body)


def test_writers_take_turns() -> None:
    async def body() -> None:
        async with joined(memory(5000)) as (connection, peer):
            blocks = [bytes((number,)) * 20_000 for number in range(5)]
            sending = [asyncio.create_task(connection.write([block])) for block in blocks]
            assert await receive(peer, 100_000) == b"".join(blocks)
            await asyncio.gather(*sending)

    run(body)


def test_memory_can_be_replaced_while_the_connection_lives() -> None:
    async def body() -> None:
        async with joined(memory(1000)) as (connection, peer):
            first = asyncio.create_task(connection.write([b"a" * 50_000]))
            swap = asyncio.create_task(connection.replace_memory(memory(64_000)))
            await receive(peer, 50_000)
            await asyncio.gather(first, swap)
            assert connection.statistics().capacity_bytes == 64_000
            await connection.write([b"b" * 60_000])
            assert await receive(peer, 60_000) == b"b" * 60_000

    run(body)


def test_a_reset_by_the_peer_wakes_a_waiting_writer() -> None:
    async def body() -> None:
        async with joined(memory(10_000), receive_buffer=4096) as (connection, peer):
            sending = asyncio.create_task(connection.write([bytes(10 << 20)]))
            while not connection.statistics().in_flight_bytes:
                await asyncio.sleep(0.002)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()
            with pytest.raises(ConnectionLost):
                await sending
            with pytest.raises(ConnectionLost):
                await connection.write([b"more"])

    run(body)


def test_a_peer_that_acknowledges_nothing_is_given_up() -> None:
    async def body() -> None:
        async with joined(memory(4 << 20), receive_buffer=4096, stall_timeout_s=0.1) as (connection, _):
            with pytest.raises(ConnectionLost, match=r"0\.1 s"):
                await connection.write([bytes(16 << 20)])

    run(body)


def test_the_receiving_side_reads_until_the_end() -> None:
    async def body() -> None:
        async with joined(memory(10)) as (connection, peer):
            peer.send(b"hello")
            assert await connection.read() == b"hello"
            peer.shutdown(socket.SHUT_WR)
            assert await connection.read() == b""

    run(body)


def test_the_kernel_tells_the_round_trip_time() -> None:
    async def body() -> None:
        async with joined(memory(1000)) as (connection, peer):
            await connection.write([b"x" * 1000])
            await receive(peer, 1000)
            await connection.drained()
            info = connection.tcp_info()
            assert 0 < info.min_rtt_ns <= info.rtt_ns * 10
            assert info.bytes_acked >= 1000
            assert info.snd_mss > 500

    run(body)


def test_a_port_where_nobody_listens_is_named() -> None:
    async def body() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.close()
        with pytest.raises(ConnectionLost, match=f"{port}: Connection refused$"):
            await connect_socket("127.0.0.1", port)

    run(body)


def test_read_only_memory_is_refused() -> None:
    one, two = socket.socketpair()
    with one, two, pytest.raises(ValueError, match="writable"):
        ReservedTcpConnection(one, [memoryview(b"fixed")])
