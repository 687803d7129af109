"""Our initiator against our target, over loopback sockets and over the imaginary wire."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_target.discovery import DiscoveredTarget, discover
from iscsi_target.errors import CommandFailed, ConnectionLost, LoginFailed
from iscsi_target.executor import ScsiResult
from iscsi_target.initiator import Initiator
from iscsi_target.plain_connection import PlainConnection
from iscsi_target.server import Target, TargetServer
from iscsi_target.session.chap import Chap, Credentials
from iscsi_target.session.initiator_events import CommandEnded
from iscsi_target.session.limits import Limits
from iscsi_target.session.parameters import Parameters
from iscsi_target.tcp import ReservedTcpConnection, connect_socket
from iscsi_target.wire.opcodes import LoginStatus, LogoutResponseCode, TaskFunction
from tests.iscsi_target.imaginary_wire import BLOCK, TARGET, Pair2Ends, RamDisk, make_node, read_16, write_16


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 90))


@asynccontextmanager
async def serving(disk: RamDisk | None = None, **options: Any) -> AsyncIterator[TargetServer]:
    limits = options.pop("limits", None)
    target = Target(name=TARGET, logical_units=disk or RamDisk(), **options)
    async with TargetServer([target], limits=limits) as server:
        yield server


def port(server: TargetServer) -> int:
    return server.portals[0].port


async def log_in(server: TargetServer, **options: Any) -> Initiator:
    return await Initiator.login("127.0.0.1", port(server), TARGET, **options)


def test_discovery_names_the_target_and_where_it_is() -> None:
    async def body() -> None:
        async with serving() as server:
            found = await discover("127.0.0.1", port(server))
            assert found == [DiscoveredTarget(TARGET, (f"127.0.0.1:{port(server)},1",))]

    run(body)


def test_what_is_written_is_read_back() -> None:
    async def body() -> None:
        disk, data = RamDisk(), os.urandom(2000 * BLOCK)
        async with serving(disk) as server, await log_in(server) as session:
            await session.write(0, 3, data)
            assert disk.content[3 * BLOCK : 2003 * BLOCK] == data
            assert await session.read(0, 3, 2000) == data

    run(body)


def test_many_writes_are_outstanding_on_several_connections_of_one_session() -> None:
    async def body() -> None:
        disk, data = RamDisk(threads=True), os.urandom(4096 * BLOCK)
        parameters = Parameters(max_connections=3, max_burst_length=65536, first_burst_length=8192)
        async with serving(disk, limits=Limits(queued_commands=8)) as server:
            async with await log_in(server, parameters=parameters) as session:
                await session.add_connection(1)
                await session.add_connection(2)
                async with asyncio.TaskGroup() as group:
                    for number in range(64):
                        piece = data[number * 64 * BLOCK : (number + 1) * 64 * BLOCK]
                        group.create_task(session.write(0, number * 64, piece, connection=number % 3))
                (info,) = server.sessions()
                assert len(info.connections) == 3
                assert info.written_bytes == len(data)
            assert disk.content == data
            assert server.sessions() == []

    run(body)


@pytest.mark.parametrize("immediate", [True, False])
@pytest.mark.parametrize("initial_r2t", [True, False])
@pytest.mark.parametrize("digest", ["None", "CRC32C"])
def test_every_way_of_sending_data_brings_the_same_bytes(
    immediate: bool, initial_r2t: bool, digest: str
) -> None:
    parameters = Parameters(
        immediate_data=immediate,
        initial_r2t=initial_r2t,
        header_digest=(digest,),
        data_digest=(digest,),
        max_recv_data_segment_length=1024,
        first_burst_length=3000,
        max_burst_length=5000,
        max_outstanding_r2t=2,
    )
    disk = RamDisk()
    ends = Pair2Ends(make_node(disk, parameters=parameters), parameters=parameters)
    ends.connect()
    data = random.Random(5).randbytes(40 * BLOCK)
    ends.submit(write_16(7, 40), data_out=data)
    ends.transfer()
    ends.submit(read_16(7, 40), data_in=40 * BLOCK)
    ends.transfer()
    ended = [event for event in ends.session.events if isinstance(event, CommandEnded)]
    assert [event.status for event in ended] == [0, 0]
    assert disk.content[7 * BLOCK : 47 * BLOCK] == data
    assert ended[1].data_in == data


_lengths = st.sampled_from([512, 1000, 4096, 70_000])


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1 << 16),
    segment=_lengths,
    burst=_lengths,
    first=_lengths,
    r2ts=st.integers(1, 4),
    digest=st.booleans(),
)
def test_two_real_ends_move_data_however_the_stream_is_cut(
    seed: int, segment: int, burst: int, first: int, r2ts: int, digest: bool
) -> None:
    rng = random.Random(seed)
    parameters = Parameters(
        max_connections=3,
        max_recv_data_segment_length=segment,
        max_burst_length=max(burst, first),
        first_burst_length=first,
        max_outstanding_r2t=r2ts,
        initial_r2t=rng.random() < 0.5,
        immediate_data=rng.random() < 0.5,
        header_digest=("CRC32C" if digest else "None",),
        data_digest=("CRC32C" if digest else "None",),
    )
    disk = RamDisk(256)
    node = make_node(disk, parameters=parameters, limits=Limits(queued_commands=4))
    ends = Pair2Ends(node, parameters=parameters, chunk=lambda: rng.randint(1, 3000))
    for cid in range(3):
        ends.connect(cid)
    model = bytearray(disk.content)
    for number in range(12):
        start, blocks = rng.randrange(200), rng.randint(1, 50)
        piece = rng.randbytes(blocks * BLOCK)
        model[start * BLOCK : (start + blocks) * BLOCK] = piece
        ends.submit(write_16(start, blocks), cid=number % 3, data_out=piece)
        ends.transfer()
    reads = [
        ends.submit(read_16(16 * number, 16), cid=number % 3, data_in=16 * BLOCK) for number in range(16)
    ]
    ends.transfer()
    answers = {
        e.initiator_task_tag: bytes(e.data_in) for e in ends.session.events if isinstance(e, CommandEnded)
    }
    assert disk.content == model
    assert b"".join(answers[tag] for tag in reads) == model
    assert not ends.session.tasks
    (session,) = node.sessions.values()
    assert not session.tasks
    assert session.solicited_bytes == 0
    assert (session.max_cmd_sn - session.exp_cmd_sn + 1) & 0xFFFFFFFF == 4, "the window is fully open again"


def test_a_failed_command_raises_its_status_and_sense() -> None:
    async def body() -> None:
        async with serving() as server, await log_in(server) as session:
            with pytest.raises(CommandFailed) as failed:
                await session.read(0, 1 << 40, 1)
            assert failed.value.status == 2
            assert failed.value.sense[2] == 5
            assert await session.nop(b"alive") == b"alive"

    run(body)


def test_a_device_server_that_breaks_does_not_leave_the_initiator_waiting() -> None:
    async def body() -> None:
        disk = RamDisk(threads=True)
        disk.fail = RuntimeError("a defect")
        async with serving(disk) as server, await log_in(server) as session:
            with pytest.raises(CommandFailed, match="4/44/00"):
                await session.read(0, 0, 1)

    run(body)


def test_a_refused_login_raises_its_status() -> None:
    async def body() -> None:
        async with serving() as server:
            with pytest.raises(LoginFailed) as refused:
                await Initiator.login("127.0.0.1", port(server), TARGET + "x")
            assert refused.value.status == LoginStatus.NOT_FOUND

    run(body)


def test_chap_both_ways_over_sockets() -> None:
    async def body() -> None:
        host, disk = Credentials("host", b"one secret"), Credentials("disk", b"another secret")
        async with serving(chap=Chap(accepted=(host,), own=disk)) as server:
            async with await log_in(server, chap=Chap(own=host, accepted=(disk,))) as session:
                await session.test_unit_ready(0)
            with pytest.raises(LoginFailed) as refused:
                await log_in(server, chap=Chap(own=Credentials("host", b"wrong")))
            assert refused.value.status == LoginStatus.AUTHENTICATION_FAILURE
            assert "secret" not in repr(host)

    run(body)


def test_a_connection_over_reserved_memory_serves_a_session() -> None:
    async def body() -> None:
        made: list[ReservedTcpConnection] = []

        async def connect(host: str, port: int) -> ReservedTcpConnection:
            made.append(
                ReservedTcpConnection(await connect_socket(host, port), [memoryview(bytearray(30_000))])
            )
            return made[-1]

        disk, data = RamDisk(), os.urandom(4096 * BLOCK)
        async with (
            serving(disk) as server,
            await log_in(server, connect=connect, max_connections=2) as session,
        ):
            await session.add_connection(1, connect=connect)
            await asyncio.gather(
                *(
                    session.write(0, lba, data[lba * BLOCK : (lba + 512) * BLOCK], connection=lba // 512 % 2)
                    for lba in range(0, 4096, 512)
                )
            )
            for connection in made:
                await connection.drained()
                statistics = connection.statistics()
                assert statistics.max_in_flight_bytes <= 30_000
                assert statistics.acknowledged_bytes > len(data) // 2
        assert disk.content == data

    run(body)


def test_connections_leave_one_by_one() -> None:
    async def body() -> None:
        async with serving() as server, await log_in(server, max_connections=3) as session:
            await session.add_connection(1)
            await session.add_connection(2)
            assert await session.logout_connection(2, through=0) == LogoutResponseCode.SUCCESS
            assert await session.logout_connection(0) == LogoutResponseCode.SUCCESS
            assert session.connections == (1,)
            await session.test_unit_ready(0)
            with pytest.raises(ValueError, match="no connection 2"):
                await session.nop(connection=2)

    run(body)


def test_more_connections_than_agreed_are_refused_and_the_session_lives() -> None:
    async def body() -> None:
        async with serving() as server, await log_in(server, max_connections=1) as session:
            with pytest.raises(LoginFailed) as refused:
                await session.add_connection(1)
            assert refused.value.status == LoginStatus.TOO_MANY_CONNECTIONS
            await session.test_unit_ready(0)

    run(body)


def test_when_the_target_goes_every_call_says_so() -> None:
    async def body() -> None:
        async with serving() as server:
            session = await log_in(server)
            await server.stop()
            with pytest.raises(ConnectionLost):
                await session.nop()
            assert session.lost
            with pytest.raises(ConnectionLost):
                await session.read(0, 0, 1)
            await session.logout()

    run(body)


def test_a_login_to_something_that_does_not_answer_times_out() -> None:
    async def body() -> None:
        silent = socket.create_server(("127.0.0.1", 0))
        with silent, pytest.raises(ConnectionLost, match="within"):
            await Initiator.login("127.0.0.1", silent.getsockname()[1], TARGET, timeout_s=0.1)

    run(body)


def test_a_command_that_takes_too_long_is_aborted_at_the_target() -> None:
    async def body() -> None:
        disk = RamDisk(threads=True)

        gate = threading.Event()
        execute = disk.execute
        disk.execute = lambda command: (gate.wait(60), execute(command))[1]  # type: ignore[method-assign]
        async with serving(disk) as server, await log_in(server) as session:
            with pytest.raises(TimeoutError):
                await session.execute(0, bytes(6), timeout_s=0.05)
            gate.set()
            assert await session.nop(b"alive") == b"alive"
            await session.test_unit_ready(0)

    run(body)


def test_task_management_reaches_the_device_server() -> None:
    async def body() -> None:
        disk = RamDisk()
        async with serving(disk) as server, await log_in(server) as session:
            assert await session.task_management(TaskFunction.LOGICAL_UNIT_RESET) == 0
            assert len(disk.resets) == 1

    run(body)


def test_a_slow_host_reads_no_faster_than_it_says() -> None:
    async def body() -> None:
        async with serving() as server:

            async def connect(host: str, port: int) -> PlainConnection:
                return await PlainConnection.open(
                    host, port, receive_buffer_bytes=8192, receive_rate_bps=8_000_000
                )

            async with await log_in(server, connect=connect) as session:
                loop = asyncio.get_running_loop()
                start = loop.time()
                await session.read(0, 0, 400)
                assert loop.time() - start > 0.1, "204800 bytes at a million bytes a second"

    run(body)


LEVEL_2 = Parameters(
    error_recovery_level=2,
    max_connections=3,
    default_time2wait=0,
    default_time2retain=60,
    max_burst_length=65536,
    first_burst_length=4096,
)


def test_at_level_2_connections_that_break_are_made_anew_and_nothing_is_lost() -> None:
    async def body() -> None:
        disk, data = RamDisk(threads=True), os.urandom(4096 * BLOCK)
        async with (
            serving(disk, parameters=LEVEL_2) as server,
            await log_in(server, parameters=LEVEL_2) as session,
        ):
            await session.add_connection(1)
            await session.add_connection(2)
            async with asyncio.TaskGroup() as group:
                for number in range(64):
                    piece = data[number * 64 * BLOCK : (number + 1) * 64 * BLOCK]
                    group.create_task(session.write(0, number * 64, piece, connection=number % 3))
                for _ in range(5):
                    await asyncio.sleep(0.003)
                    for broken in list(server._connections.values())[:2]:
                        broken._lost("cut by the test")
            assert disk.content == data
            assert await session.read(0, 0, 4096) == data
            assert len(server.sessions()) == 1

    run(body)


def test_at_level_2_a_target_that_stays_away_is_given_up() -> None:
    async def body() -> None:
        parameters = dataclasses.replace(LEVEL_2, default_time2retain=0)
        async with serving(parameters=parameters) as server:
            session = await log_in(server, parameters=parameters)
            await server.stop()
            with pytest.raises(ConnectionLost):
                await session.nop()
            await session.logout()

    run(body)


def test_a_result_that_comes_after_the_session_ended_is_dropped() -> None:
    ends = Pair2Ends(make_node())
    ends.connect()
    initiator, target = ends.links[0]
    ends.submit(bytes(6))
    target.receive(b"".join(bytes(buffer) for buffer in initiator.take_output()), 0)
    task = target.ready.popleft()
    session = target.session
    assert session is not None
    session.end("a test")
    session.complete(task, ScsiResult(0))
    assert target.take_output() == []
