"""What the initiator does by itself: asynchronous messages, lost connections and sessions, moved targets, discovery."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from iscsi_target.discovery import discover, discover_at
from iscsi_target.errors import ConnectionLost, LoginFailed, NegotiationError, TaskAborted
from iscsi_target.initiator import AttentionReport, Initiator, Reconnection
from iscsi_target.scsi.logical_unit import LogicalUnit, derive_identity
from iscsi_target.scsi.stores.memory import MemoryStore
from iscsi_target.scsi.target_device import TargetDevice
from iscsi_target.server import Portal, Target, TargetServer
from iscsi_target.session.initiator_events import TaskGone
from iscsi_target.session.parameters import Parameters
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import AsyncEvent, LoginStatus, TaskFunction
from iscsi_target.wire.requests import TaskManagementRequest
from iscsi_target.wire.target_address import TargetAddress, parse_target_address
from tests.iscsi_target.imaginary_wire import BLOCK, TARGET, Pair2Ends, RamDisk, make_node, write_16
from tests.iscsi_target.test_initiator_session import LEVEL_2, log_in, port, run, serving

QUICK = Reconnection(sessions=True, first_delay_s=0.01, longest_delay_s=0.05)
NO_WAIT = Parameters(default_time2wait=0, max_connections=4)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


# -- asynchronous messages (section 11.9.1) ----------------------------------------------------------------------


def test_a_requested_logout_is_made_in_time() -> None:
    async def body() -> None:
        async with serving() as server:
            session = await log_in(server)
            await session.nop()
            assert server.request_logout(session.tsih, 4)
            await until(lambda: not server.sessions())
            await until(lambda: session.lost is not None)
            assert session.lost == "the target asked for the logout"
            await session.logout()

    run(body)


def test_every_connection_that_is_asked_to_leaves() -> None:
    async def body() -> None:
        async with serving() as server:
            session = await log_in(server, max_connections=3)
            await session.add_connection(1)
            await session.add_connection(2)
            connection = server.node.sessions[session.tsih].connections[1]
            connection.send_async(AsyncEvent.LOGOUT_REQUESTED, parameters=(0, 0, 4))
            server.serve_touched()
            await until(lambda: session.connections == (0, 2))
            assert server.request_logout(session.tsih, 4)
            await until(lambda: not server.sessions())
            await session.logout()

    run(body)


def test_commands_under_way_end_before_the_requested_logout() -> None:
    async def body() -> None:
        disk = RamDisk(threads=True)
        async with serving(disk) as server:
            session = await log_in(server)
            data = os.urandom(64 * BLOCK)
            writes = [asyncio.ensure_future(session.write(0, 64 * number, data)) for number in range(16)]
            await asyncio.sleep(0)
            server.request_logout(session.tsih, 10)
            await asyncio.gather(*writes)
            await until(lambda: not server.sessions())
            await session.logout()
        assert disk.content[: 16 * len(data)] == data * 16

    run(body)


def test_a_dropped_session_says_so_or_is_made_anew_by_policy() -> None:
    async def body() -> None:
        async with serving(parameters=NO_WAIT) as server:
            plain = await log_in(server, parameters=NO_WAIT)
            stubborn = await log_in(server, parameters=NO_WAIT, reconnection=QUICK)
            old = stubborn.tsih
            server.drop_session(plain.tsih)
            server.drop_session(old)
            await until(lambda: plain.lost is not None)
            assert plain.lost == "the target dropped the session"
            assert await stubborn.nop(b"here again") == b"here again"
            assert stubborn.tsih != old
            await plain.logout()
            await stubborn.logout()

    run(body)


def test_a_dropped_connection_is_recovered_at_level_2() -> None:
    async def body() -> None:
        async with serving(parameters=LEVEL_2) as server:
            session = await log_in(server, parameters=LEVEL_2)
            await session.add_connection(1)
            assert server.drop_connection(session.tsih, 1)
            assert not server.drop_connection(session.tsih, 7)
            assert await session.nop(b"x", connection=1) == b"x"
            assert len(server.sessions()) == 1
            await session.logout()

    run(body)


def test_a_requested_negotiation_is_held() -> None:
    async def body() -> None:
        async with serving() as server:
            session = await log_in(server)
            assert server.request_negotiation(session.tsih)
            await until(lambda: bool(session.async_messages))
            assert await session.nop(b"after") == b"after"
            await session.logout()

    run(body)


def test_another_segment_length_holds_from_its_declaration_on() -> None:
    async def body() -> None:
        disk = RamDisk()
        disk.content[:] = os.urandom(len(disk.content))
        async with serving(disk) as server, await log_in(server) as session:
            for length in (512, 65536):
                await session.declare_segment_length(length)
                connection = server.node.sessions[session.tsih].connections[0]
                assert connection.max_send == length
                assert await session.read(0, 0, 256) == disk.content[: 256 * BLOCK]
            with pytest.raises(ValueError, match="512"):
                await session.declare_segment_length(100)

    run(body)


def test_tasks_that_another_initiator_ended_end_here_and_the_message_is_acknowledged() -> None:
    parameters = Parameters(task_reporting=("FastAbort",), immediate_data=False, initial_r2t=True)
    node = make_node(parameters=parameters)
    one, two = (Pair2Ends(node, parameters=parameters, isid=bytes((0x80, 0, 0, 0, 0, n))) for n in (1, 2))
    one.connect()
    two.connect()
    initiator, target = two.links[0]
    tag = two.submit(write_16(0, 8), data_out=bytes(8 * BLOCK))
    target.receive(
        b"".join(bytes(buffer) for buffer in initiator.take_output()), 0
    )  # and its R2T stays on the way
    one.links[0][0].request(
        TaskManagementRequest, immediate=True, function=TaskFunction.LOGICAL_UNIT_RESET, lun=lun_to_bytes(0)
    )
    one.transfer()
    down = b"".join(bytes(buffer) for buffer in target.take_output())
    initiator.receive(down)
    up = b"".join(bytes(buffer) for buffer in initiator.take_output())
    assert [event.initiator_task_tag for event in two.session.events if isinstance(event, TaskGone)] == [tag]
    assert not two.session.tasks
    data_out, acknowledgement = up[:-48], up[-48:]
    assert acknowledgement[:2] == b"\x40\x80"
    assert acknowledgement[8:20] == lun_to_bytes(0) + b"\xff\xff\xff\xff"
    assert len(data_out) >= 8 * BLOCK, "the R2T came first"


# -- task management ----------------------------------------------------------------------------------------------


def test_commands_that_a_reset_ended_are_not_waited_for() -> None:
    async def body() -> None:
        disk = RamDisk()
        async with serving(disk) as server, await log_in(server) as session:
            connection = server.node.sessions[session.tsih].connections[0]
            hung = asyncio.ensure_future(session.test_unit_ready(0))
            await until(lambda: bool(disk.executed))
            await hung
            ready = connection.ready
            server.execute = lambda *_: None  # type: ignore[method-assign]  # commands are taken and forgotten
            hung = asyncio.ensure_future(session.test_unit_ready(0))
            await until(lambda: bool(server.node.sessions[session.tsih].tasks))
            assert await session.task_management(TaskFunction.LOGICAL_UNIT_RESET) == 0
            with pytest.raises(TaskAborted, match="task management"):
                await hung
            assert not ready

    run(body)


@pytest.mark.parametrize("reporting", ["RFC3720", "FastAbort"])
def test_data_are_sent_after_the_request_only_where_fast_abort_was_not_agreed(reporting: str) -> None:
    parameters = Parameters(task_reporting=(reporting,), immediate_data=False, initial_r2t=True)
    ends = Pair2Ends(make_node(parameters=parameters), parameters=parameters)
    ends.connect()
    initiator, target = ends.links[0]
    ends.submit(write_16(0, 8), data_out=bytes(8 * BLOCK))
    target.receive(b"".join(bytes(buffer) for buffer in initiator.take_output()), 0)
    r2t = b"".join(bytes(buffer) for buffer in target.take_output())
    initiator.request(
        TaskManagementRequest, immediate=True, function=TaskFunction.ABORT_TASK_SET, lun=lun_to_bytes(0)
    )
    initiator.receive(r2t)
    sent = b"".join(bytes(buffer) for buffer in initiator.take_output())
    assert (len(sent) > 8 * BLOCK) == (reporting == "RFC3720")
    target.receive(sent, 0)
    initiator.receive(b"".join(bytes(buffer) for buffer in target.take_output()))
    assert [type(event).__name__ for event in ends.session.events][-2:] == ["TaskGone", "Answered"]


def test_a_unit_attention_can_be_asked_for_without_clearing_it() -> None:
    async def body() -> None:
        device = TargetDevice(TARGET, {0: LogicalUnit(MemoryStore(1 << 20), derive_identity(TARGET, 0))})
        target = Target(name=TARGET, logical_units=device)
        async with (
            TargetServer([target]) as server,
            await Initiator.login("127.0.0.1", port(server), TARGET) as session,
        ):
            for _ in range(2):
                assert await session.query_asynchronous_event() == AttentionReport(1, 6, 0x29, 0)
            await session.test_unit_ready(0)
            assert await session.query_asynchronous_event() is None
            with pytest.raises(TaskAborted, match="response 2"):
                await session.query_asynchronous_event(9)
        device.close()

    run(body)


# -- lost connections and sessions ------------------------------------------------------------------------------


def test_a_session_is_made_anew_with_all_its_connections_when_the_policy_says_so() -> None:
    async def body() -> None:
        async with serving(parameters=NO_WAIT) as server:
            session = await log_in(server, parameters=NO_WAIT, reconnection=QUICK)
            await session.add_connection(1)
            old = session.tsih
            for connection in list(server._connections.values()):
                connection._lost("cut by the test")
            await until(
                lambda: session.tsih not in (0, old)
            )  # what was under way meanwhile would have failed
            assert await session.nop(b"again") == b"again"
            await until(lambda: session.connections == (0, 1))
            assert len(server.sessions()) == 1
            await session.logout()

    run(body)


@pytest.mark.parametrize("retry", [False, True])
def test_commands_under_way_fail_or_are_sent_again_as_the_policy_says(retry: bool) -> None:
    async def body() -> None:
        disk = RamDisk(threads=True)
        async with serving(disk, parameters=NO_WAIT) as server:
            policy = dataclasses.replace(QUICK, retry_commands=retry)
            session = await log_in(server, parameters=NO_WAIT, reconnection=policy)
            await session.nop()
            data = os.urandom(64 * BLOCK)
            writes = [asyncio.ensure_future(session.write(0, 64 * number, data)) for number in range(8)]
            await asyncio.sleep(0)
            for connection in list(server._connections.values()):
                connection._lost("cut by the test")
            results = await asyncio.gather(*writes, return_exceptions=True)
            lost = [result for result in results if isinstance(result, ConnectionLost)]
            assert len(lost) == (0 if retry else 8)
            assert await session.nop(b"x") == b"x"
            await session.logout()
        if retry:
            assert disk.content[: 8 * len(data)] == data * 8

    run(body)


def test_a_session_that_cannot_be_made_anew_is_given_up_after_so_many_attempts() -> None:
    async def body() -> None:
        async with serving(parameters=NO_WAIT) as server:
            policy = dataclasses.replace(QUICK, attempts=2)
            session = await log_in(server, parameters=NO_WAIT, reconnection=policy)
            await server.stop()
            with pytest.raises(ConnectionLost):
                await session.nop()
            await until(lambda: session.lost is not None)
            assert "no new session" in str(session.lost)
            await session.logout()

    run(body)


def test_at_level_2_tasks_go_on_upon_a_connection_that_is_left() -> None:
    async def body() -> None:
        disk, data = RamDisk(threads=True), os.urandom(2048 * BLOCK)
        async with serving(disk, parameters=LEVEL_2) as server:
            policy = Reconnection(to_another=True)
            session = await log_in(server, parameters=LEVEL_2, reconnection=policy)
            await session.add_connection(1)
            await session.add_connection(2)
            async with asyncio.TaskGroup() as group:
                for number in range(32):
                    piece = data[number * 64 * BLOCK : (number + 1) * 64 * BLOCK]
                    group.create_task(session.write(0, number * 64, piece, connection=number % 3))
                await asyncio.sleep(0.003)
                broken = server.node.sessions[session.tsih].connections[1]
                server._connections[broken]._lost("cut by the test")
            assert disk.content[: len(data)] == data
            await until(lambda: session.connections == (0, 2))
            assert await session.nop(b"x") == b"x"
            await session.logout()

    run(body)


@pytest.mark.parametrize("knobs", [{"attempts": 0}, {"first_delay_s": 0}, {"longest_delay_s": 0.01}])
def test_a_policy_that_makes_no_sense_is_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="attempt"):
        Reconnection(**knobs)


def test_pauses_double_up_to_the_longest() -> None:
    pauses = Reconnection(first_delay_s=1, longest_delay_s=5).delays()
    assert [next(pauses) for _ in range(5)] == [1, 2, 4, 5, 5]


# -- moved targets ------------------------------------------------------------------------------------------------


def moving(to: str) -> TargetServer:
    return TargetServer([Target(name=TARGET, logical_units=RamDisk(), moved_to=to)])


def test_a_target_that_has_moved_is_followed() -> None:
    async def body() -> None:
        async with (
            serving() as there,
            moving(f"127.0.0.1:{port(there)}") as between,
            moving(f"127.0.0.1:{port(between)},1") as here,
        ):
            session = await log_in(here)
            assert await session.nop(b"found") == b"found"
            assert len(there.sessions()) == 1
            await session.logout()
            with pytest.raises(LoginFailed) as refused:
                await log_in(here, redirects=1)
            assert refused.value.status == LoginStatus.TARGET_MOVED_TEMPORARILY
            assert refused.value.target_addresses == (f"127.0.0.1:{port(there)}",)

    run(body)


def test_targets_that_send_to_each_other_are_not_followed_for_ever() -> None:
    async def body() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            free = taken.getsockname()[1]
        target = Target(name=TARGET, logical_units=RamDisk(), moved_to=f"127.0.0.1:{free}")
        async with TargetServer([target], [Portal("127.0.0.1", free)]) as server:
            with pytest.raises(LoginFailed, match="moved temporarily"):
                await log_in(server)

    run(body)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1", TargetAddress("10.0.0.1")),
        ("10.0.0.1:5003", TargetAddress("10.0.0.1", 5003)),
        ("10.0.0.1:5003,1", TargetAddress("10.0.0.1", 5003, 1)),
        ("[1080:0:0:0:8:800:200C:417A],65", TargetAddress("1080:0:0:0:8:800:200C:417A", 3260, 65)),
        ("[::1]:3261", TargetAddress("::1", 3261)),
        ("example.com:5000", TargetAddress("example.com", 5000)),
    ],
)
def test_target_addresses_are_read_in_all_the_forms_of_the_standard(
    text: str, address: TargetAddress
) -> None:
    assert parse_target_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":3260", "host:0", "host:65536", "host:1,70000", "a b", "[::1", "h:1:2"]
)
def test_what_is_no_target_address_is_refused(text: str) -> None:
    with pytest.raises(NegotiationError):
        parse_target_address(text)


# -- discovery ------------------------------------------------------------------------------------------------------


def test_several_portals_are_asked_and_what_they_say_is_put_together() -> None:
    async def body() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            nobody = taken.getsockname()[1]
            other = Target(name=TARGET + ".2", logical_units=RamDisk())
            target = Target(name=TARGET, logical_units=RamDisk())
            portals = [Portal("127.0.0.1", 0, 1), Portal("127.0.0.1", 0, 2)]
            async with TargetServer([target], portals) as one, TargetServer([target, other]) as two:
                where = [("127.0.0.1", number) for number in (nobody, port(one), port(two), port(one))]
                found = await discover_at(where)
                assert [target.name for target in found] == [TARGET, TARGET + ".2"]
                assert found[0].portals == tuple(
                    TargetAddress("127.0.0.1", portal.port, portal.portal_group_tag)
                    for portal in (*one.portals, *two.portals)
                )
                assert len(await discover("127.0.0.1", port(one))) == 1
            with pytest.raises(ConnectionLost, match=str(nobody)):
                await discover_at([("127.0.0.1", nobody)])

    run(body)


def test_a_connection_may_lead_to_another_portal_of_the_group() -> None:
    async def body() -> None:
        target = Target(name=TARGET, logical_units=RamDisk())
        async with TargetServer([target], [Portal("127.0.0.1", 0), Portal("127.0.0.1", 0)]) as server:
            session = await log_in(server, max_connections=2)
            await session.add_connection(1, portal=("127.0.0.1", server.portals[1].port))
            (info,) = server.sessions()
            assert {connection.local_port for connection in info.connections} == {
                portal.port for portal in server.portals
            }
            await session.logout()

    run(body)


def test_a_connection_through_another_portal_group_is_refused() -> None:
    async def body() -> None:
        target = Target(name=TARGET, logical_units=RamDisk())
        async with TargetServer([target], [Portal("127.0.0.1", 0, 1), Portal("127.0.0.1", 0, 2)]) as server:
            session = await log_in(server, max_connections=2)
            with pytest.raises(LoginFailed) as refused:
                await session.add_connection(1, portal=("127.0.0.1", server.portals[1].port))
            assert refused.value.status == LoginStatus.CANNOT_INCLUDE_IN_SESSION
            assert await session.nop(b"alive") == b"alive"
            await session.logout()

    run(body)
