"""The seam of the server to whoever changes bytes on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from iscsi_target.buffers import ConnectionInfo
from iscsi_target.errors import ConnectionLost
from iscsi_target.executor import Buffer
from iscsi_target.initiator import Initiator
from iscsi_target.server import Target, TargetServer
from iscsi_target.session.target_connection import TargetConnection
from iscsi_target.wire_filter import Closing
from tests.iscsi_target.imaginary_wire import BLOCK, TARGET, RamDisk
from tests.iscsi_target.test_server_shell import CountedBuffers, run, until


class Filter:
    """Passes everything on; may hold back either direction for a while, or end the connection."""

    def __init__(self, *, delay_in_ns: int = 0, delay_out_ns: int = 0) -> None:
        self.closing: Closing | None = None
        self.delay_in_ns = delay_in_ns
        self.delay_out_ns = delay_out_ns
        self.received = self.sent = 0
        self.swallow = self.over = False
        self._incoming: list[tuple[int, bytes]] = []
        self._outgoing: list[tuple[int, list[Buffer]]] = []
        self._now_ns = 0

    def incoming(self, chunk: bytes, now_ns: int) -> bytes:
        self.received += len(chunk)
        if not self.delay_in_ns:
            return chunk
        self._incoming.append((now_ns + self.delay_in_ns, chunk))
        return b""

    def outgoing(self, buffers: list[Buffer], now_ns: int) -> list[Buffer]:
        self.sent += sum(map(len, buffers))
        if self.swallow:
            return []
        if not self.delay_out_ns:
            return buffers
        self._outgoing.append((now_ns + self.delay_out_ns, buffers))
        return []

    def next_deadline(self) -> int | None:
        held = [due for due, _ in self._incoming] + [due for due, _ in self._outgoing]
        return min(held) if held else None

    def handle_timer(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def take_incoming(self) -> bytes:
        due = b"".join(chunk for due_ns, chunk in self._incoming if due_ns <= self._now_ns)
        self._incoming = [entry for entry in self._incoming if entry[0] > self._now_ns]
        return due

    def take_outgoing(self) -> list[Buffer]:
        due = [buffer for due_ns, buffers in self._outgoing if due_ns <= self._now_ns for buffer in buffers]
        self._outgoing = [entry for entry in self._outgoing if entry[0] > self._now_ns]
        return due

    def ended(self, now_ns: int) -> None:
        assert not self.over
        self.over = True


class Filters:
    """One filter for every connection, all alike."""

    def __init__(self, **delays: int) -> None:
        self.delays = delays
        self.made: list[Filter] = []

    def __call__(self, info: ConnectionInfo, core: TargetConnection) -> Filter:
        assert info.peer_port
        assert core.session is None
        self.made.append(Filter(**self.delays))
        return self.made[-1]


def serving(filters: Filters, **options: Any) -> TargetServer:
    return TargetServer([Target(name=TARGET, logical_units=RamDisk())], wire_filter=filters, **options)


async def log_in(server: TargetServer, **options: Any) -> Initiator:
    return await Initiator.login("127.0.0.1", server.portals[0].port, TARGET, **options)


@pytest.mark.parametrize(
    "delays", [{}, {"delay_in_ns": 3_000_000}, {"delay_out_ns": 3_000_000}], ids=["none", "in", "out"]
)
def test_a_filter_sees_every_byte_and_may_hold_it_back(delays: dict[str, int]) -> None:
    async def body() -> None:
        filters = Filters(**delays)
        buffers = CountedBuffers(1 << 20)
        async with serving(filters, buffers=buffers) as server, await log_in(server) as session:
            await session.write(0, 0, b"x" * 64 * BLOCK)
            begin = time.monotonic_ns()
            assert bytes(await session.read(0, 0, 64)) == b"x" * 64 * BLOCK
            assert time.monotonic_ns() - begin >= sum(delays.values())
            (filter_,) = filters.made
            assert filter_.received > 64 * BLOCK
            assert filter_.sent > 64 * BLOCK
        assert buffers.free == buffers.size

    run(body)


def test_bytes_that_a_filter_drops_are_not_charged_for_ever() -> None:
    async def body() -> None:
        filters = Filters()
        buffers = CountedBuffers(1 << 20)
        async with serving(filters, buffers=buffers) as server:
            session = await log_in(server)
            filters.made[0].swallow = True
            reading = asyncio.create_task(session.read(0, 0, 64))
            await until(lambda: filters.made[0].sent > 64 * BLOCK)
            await until(lambda: buffers.free == buffers.size)
            filters.made[0].closing = "reset"
            filters.made[0].swallow = False
            with contextlib.suppress(ConnectionLost):  # its answer may come before the reset
                await session.nop()
            with pytest.raises(ConnectionLost):
                await reading
            await session.abort()

    run(body)


@pytest.mark.parametrize("closing", ["close", "half-close", "reset"])
def test_a_filter_ends_a_connection_after_its_output(closing: Closing) -> None:
    async def body() -> None:
        filters = Filters()
        async with serving(filters) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.portals[0].port)
            await until(lambda: bool(filters.made))
            filters.made[0].closing = closing
            writer.write(
                bytes((0x40,)) + bytes(47)
            )  # a NOP-Out has no place in the login: it is answered, then the end
            answer = b""
            try:
                answer = await reader.read()
            except ConnectionResetError:
                assert closing == "reset"
            if closing != "reset":
                assert answer[0] & 0x3F == 0x23  # Login Response
            writer.close()
            await until(lambda: not server.statistics().connections)

    run(body)
