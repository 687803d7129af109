"""The server: sockets, limits, time-outs, the accounting of Data-In."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from iscsi_target.buffers import ConnectionInfo, Grant
from iscsi_target.errors import ConnectionLost
from iscsi_target.initiator import Initiator
from iscsi_target.plain_connection import PlainConnection
from iscsi_target.server import Portal, Target, TargetServer
from iscsi_target.session.initiator_connection import InitiatorConnection
from iscsi_target.session.limits import Limits
from iscsi_target.wire.responses import NopIn
from tests.iscsi_target.imaginary_wire import BLOCK, TARGET, RamDisk

LOOPS = pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


def run(body: Callable[[], Coroutine[Any, Any, None]], runner: Callable[..., Any] = asyncio.run) -> None:
    runner(asyncio.wait_for(body(), 90))


@asynccontextmanager
async def serving(disk: RamDisk | None = None, **options: Any) -> AsyncIterator[TargetServer]:
    async with TargetServer([Target(name=TARGET, logical_units=disk or RamDisk())], **options) as server:
        yield server


async def log_in(server: TargetServer, **options: Any) -> Initiator:
    return await Initiator.login("127.0.0.1", server.portals[0].port, TARGET, **options)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


class CountedBuffers:
    """So many bytes and no more."""

    def __init__(self, size_bytes: int) -> None:
        self.free = self.size = size_bytes
        self.refused = 0
        self.asked_by: set[str] = set()

    def acquire(self, connection: ConnectionInfo, size_bytes: int) -> Grant | None:
        self.asked_by.add(connection.initiator_name)
        if size_bytes > self.free:
            self.refused += 1
            return None
        self.free -= size_bytes
        return Grant(size_bytes)

    def release(self, connection: ConnectionInfo, grant: Grant) -> None:
        self.free += grant.size_bytes


def slow(rate_bps: int) -> Callable[[str, int], Coroutine[Any, Any, PlainConnection]]:
    async def connect(host: str, port: int) -> PlainConnection:
        return await PlainConnection.open(host, port, receive_buffer_bytes=4096, receive_rate_bps=rate_bps)

    return connect


@LOOPS
def test_a_session_works_on_both_event_loops(loop: Callable[..., Any]) -> None:
    async def body() -> None:
        disk = RamDisk(threads=True)
        async with serving(disk) as server, await log_in(server) as session:
            await session.write(0, 0, b"x" * 64 * BLOCK)
            assert bytes(await session.read(0, 0, 64)) == b"x" * 64 * BLOCK
            (info,) = server.sessions()
            assert (info.target_name, info.commands) == (TARGET, 2)
            assert info.connections[0].initiator_name == info.initiator_name

    run(body, loop)


def test_several_portals_and_groups_are_served_and_reported() -> None:
    async def body() -> None:
        async with serving(portals=[Portal("127.0.0.1", 0, 1), Portal("::1", 0, 2)]) as server:
            ports = [portal.port for portal in server.portals]
            assert len(set(ports)) == 2
            assert 0 not in ports
            async with await Initiator.login("::1", ports[1], TARGET) as session:
                answers = await session.text(("SendTargets", ""))
                assert ("TargetAddress", f"127.0.0.1:{ports[0]},1") in answers
                assert ("TargetAddress", f"[::1]:{ports[1]},2") in answers

    run(body)


def test_a_port_in_use_is_named_and_nothing_stays_open() -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            target = Target(name=TARGET, logical_units=RamDisk())
            server = TargetServer([target], [Portal("127.0.0.1", 0), Portal("127.0.0.1", port)])
            with pytest.raises(OSError, match=str(port)):
                await server.start()

    run(body)


def test_connections_beyond_the_limit_are_closed_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with serving(limits=Limits(connections=1)) as server, await log_in(server) as session:
            with pytest.raises(ConnectionLost), caplog.at_level(logging.WARNING):
                await log_in(server)
            await session.nop()
        assert sum("refused" in record.getMessage() for record in caplog.records) == 1

    run(body)


def test_a_peer_that_never_logs_in_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with serving(limits=Limits(login_timeout_ns=200_000_000)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.portals[0].port)
            writer.write(b"\x43")  # one byte, and then nothing
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(body)
    assert ["no login within" in record.getMessage() for record in caplog.records] == [True]


def test_a_peer_that_talks_nonsense_is_closed_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with serving() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.portals[0].port)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a browser\r\n\r\n" * 4)
            await reader.read()
            writer.close()
            await writer.wait_closed()
            async with await log_in(server) as session:
                await session.nop()

    run(body)
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1


def test_a_silent_session_is_pinged_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pings: list[NopIn] = []
    answer = InitiatorConnection._answer_ping

    def counted(self: InitiatorConnection, ping: NopIn) -> None:
        pings.append(ping)
        answer(self, ping)

    monkeypatch.setattr(InitiatorConnection, "_answer_ping", counted)

    async def body() -> None:
        limits = Limits(idle_ping_ns=1, ping_timeout_ns=60_000_000_000)
        async with serving(limits=limits) as server, await log_in(server) as session:
            await until(lambda: len(pings) >= 2)
            assert session.lost is None
            await session.nop()

    run(body)


def test_a_session_whose_host_is_gone_ends() -> None:
    async def body() -> None:
        disk = RamDisk()
        limits = Limits(idle_ping_ns=1, ping_timeout_ns=1)
        async with serving(disk, limits=limits) as server:
            session = await log_in(server)
            for link in session._shell.links.values():
                link._tasks[0].cancel()  # the host reads no more and answers no ping
            await until(lambda: not server.sessions())
            assert len(disk.lost) == 1
            await session.abort()

    run(body)


def test_stopping_waits_for_commands_in_threads_and_leaves_nothing() -> None:
    async def body() -> None:
        disk = RamDisk(threads=True)
        before = len(asyncio.all_tasks())
        server = TargetServer([Target(name=TARGET, logical_units=disk)])
        await server.start()
        session = await log_in(server)
        reads = [asyncio.create_task(session.read(0, 0, 8)) for _ in range(20)]
        await asyncio.sleep(0)
        await server.stop()
        await asyncio.gather(*reads, return_exceptions=True)
        await session.logout()
        assert len(asyncio.all_tasks()) == before

    run(body)


def test_a_defect_costs_one_connection_and_not_the_server(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with serving() as server, await log_in(server) as session:
            victim = await log_in(server, isid=bytes(6))
            (shell,) = [
                shell for shell in server._connections.values() if shell.core.session.isid == bytes(6)
            ]  # type: ignore[union-attr]

            def break_down(*_: object) -> None:
                raise RuntimeError("a defect")

            monkeypatch.setattr(shell.core, "receive", break_down)
            with pytest.raises(ConnectionLost):
                await victim.nop()
            await session.nop()
            await victim.logout()

    run(body)
    assert sum("a defect ended" in record.getMessage() for record in caplog.records) == 1


# -- accounting -------------------------------------------------------------------------------------------------------


@LOOPS
def test_units_come_back_when_the_data_are_acknowledged(loop: Callable[..., Any]) -> None:
    async def body() -> None:
        buffers = CountedBuffers(1 << 20)
        async with (
            serving(buffers=buffers) as server,
            await log_in(server, initiator_iqn="iqn.2026-11.x:h") as session,
        ):
            for _ in range(20):
                await session.read(0, 0, 256)
            await until(lambda: buffers.free == buffers.size)
            assert buffers.asked_by == {"iqn.2026-11.x:h"}

    run(body, loop)


def test_a_read_larger_than_all_units_is_served_piece_by_piece() -> None:
    async def body() -> None:
        buffers = CountedBuffers(64 * 1024)
        disk = RamDisk()
        disk.content[:] = bytes(range(256)) * (len(disk.content) // 256)
        async with serving(disk, buffers=buffers) as server, await log_in(server) as session:
            assert await session.read(0, 0, 4000) == disk.content[: 4000 * BLOCK]
            await until(lambda: buffers.free == buffers.size)

    run(body)


def test_slow_hosts_hold_the_units_and_others_wait_until_they_come_back() -> None:
    async def body() -> None:
        buffers = CountedBuffers(256 * 1024)
        async with serving(buffers=buffers) as server:
            slow_host = await log_in(server, connect=slow(400_000))
            reading = [asyncio.create_task(slow_host.read(0, 0, 512)) for _ in range(4)]
            await until(lambda: buffers.free < 16 * 1024)
            async with await log_in(server) as other:
                waiting = asyncio.create_task(other.read(0, 0, 512))
                await until(lambda: buffers.refused > 0)
                assert not waiting.done()
                counted = server.statistics()
                held = {session.tsih: session.held_buffer_bytes for session in counted.sessions}
                assert held == {slow_host.tsih: buffers.size - buffers.free, other.tsih: 0}
                assert counted.held_buffer_bytes == buffers.size - buffers.free
                assert await other.nop(b"not charged") == b"not charged"
                await other.write(0, 0, bytes(BLOCK))
                await slow_host.abort()
                assert len(await waiting) == 512 * BLOCK
            await asyncio.gather(*reading, return_exceptions=True)
            await until(lambda: buffers.free == buffers.size)

    run(body)


def test_bytes_waiting_for_a_slow_reader_are_bounded() -> None:
    async def body() -> None:
        limits = Limits(send_queue_bytes=64 * 1024, data_in_chunk_bytes=16 * 1024)
        async with serving(limits=limits) as server:
            session = await log_in(server, connect=slow(800_000))
            reads = [asyncio.create_task(session.read(0, 0, 4000)) for _ in range(64)]
            (shell,) = server._connections.values()
            await until(lambda: shell._unsent_bytes > 0)
            for _ in range(50):
                await asyncio.sleep(0.002)
                assert shell._unsent_bytes <= 2 * limits.send_queue_bytes
                held = sum(len(source.buffers) for source in shell.core._data_in)
                assert held <= 2, "reads are not executed ahead of what can be sent"
            await session.abort()
            await asyncio.gather(*reads, return_exceptions=True)

    run(body)
