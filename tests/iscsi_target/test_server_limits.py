"""Every limit of the target: it holds, and what is refused leaves exactly one log line with peer, reason and limit."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from iscsi_target.admission import OpenConnection, refusal
from iscsi_target.executor import ScsiCommand, ScsiResult
from iscsi_target.initiator import Initiator
from iscsi_target.server import Portal, Target, TargetServer
from iscsi_target.session.limits import Limits
from iscsi_target.session.parameters import Parameters
from iscsi_target.session.target_connection import TargetConnection
from iscsi_target.session.target_output import Phase
from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.opcodes import LoginStatus, RejectReason
from iscsi_target.wire.requests import (
    DataOut,
    NopOut,
    ScsiCommandPdu,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from iscsi_target.wire.responses import R2T, LoginResponse, NopIn, Reject, ScsiResponse
from iscsi_target.wire.text import encode_text
from tests.iscsi_target.imaginary_wire import (
    BLOCK,
    HOST,
    ISID,
    TARGET,
    TEST_UNIT_READY,
    Conversation,
    RamDisk,
    accept,
    read_16,
    write_16,
)

SECOND = 1_000_000_000
PEER = "192.0.2.9:40000"
NAMES = [("InitiatorName", HOST), ("TargetName", TARGET)]


class Rig:
    """A server that is not started: real limits, real log lines, an imaginary wire and clock."""

    def __init__(self, caplog: pytest.LogCaptureFixture, disk: RamDisk | None = None, **limits: Any) -> None:
        parameters = Parameters(error_recovery_level=2, max_connections=2)
        target = Target(name=TARGET, logical_units=disk or RamDisk(), parameters=parameters)
        self.server = TargetServer([target], limits=Limits(**limits))
        self.node = self.server.node
        self.node.portals = (Portal("192.0.2.1", 3260, 1),)
        self._caplog = caplog
        caplog.set_level(logging.INFO)

    def talk(self, *keys: tuple[str, str], **options: Any) -> Conversation:
        """A conversation that is logged in."""
        conversation = Conversation(self.node, **options)
        conversation.log_in(*keys)
        return conversation

    def warnings(self) -> list[str]:
        """The warnings so far."""
        self.server.report_events()
        return [record.getMessage() for record in self._caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def rig(caplog: pytest.LogCaptureFixture) -> Callable[..., Rig]:
    def make(**options: Any) -> Rig:
        return Rig(caplog, **options)

    return make


MakeRig = Callable[..., Rig]


def ping(conversation: Conversation, data: bytes = b"") -> NopOut:
    return NopOut(immediate=True, initiator_task_tag=5, cmd_sn=conversation.cmd_sn, exp_stat_sn=0, data=data)


# -- time --------------------------------------------------------------------------------------------------------------


def test_one_byte_a_second_does_not_keep_a_login_open(rig: MakeRig) -> None:
    world = rig(login_timeout_ns=15 * SECOND)
    conversation = Conversation(world.node)
    stream = encode_pdu(conversation.login_request(NAMES))
    for second in range(16):
        conversation.target.receive(stream[second : second + 1], second * SECOND)
        if conversation.target.next_deadline() <= second * SECOND:
            conversation.target.handle_timer(second * SECOND)
    assert conversation.target.phase is Phase.CLOSING
    assert world.warnings() == [f"connection of {PEER} ends: no login within 15 s"]


def test_one_byte_a_second_does_not_keep_a_pdu_open_for_ever(rig: MakeRig) -> None:
    world = rig(pdu_timeout_ns=60 * SECOND)
    conversation = world.talk()
    stream = encode_pdu(ping(conversation, bytes(100)))
    for second in range(61):
        conversation.target.receive(stream[second : second + 1], second * SECOND)
        if conversation.target.next_deadline() <= second * SECOND:
            conversation.target.handle_timer(second * SECOND)
    assert conversation.target.phase is Phase.CLOSING
    assert world.warnings() == [
        f"connection of {PEER} ends: a PDU was not complete 60 s after its first byte"
    ]


def test_a_slow_connection_on_which_pdus_do_end_lives(rig: MakeRig) -> None:
    world = rig(pdu_timeout_ns=60 * SECOND)
    conversation = world.talk()
    stream = encode_pdu(ping(conversation)) * 20
    for second in range(len(stream)):  # every 48 seconds one PDU
        conversation.target.receive(stream[second : second + 1], second * SECOND)
        if conversation.target.next_deadline() <= second * SECOND:
            conversation.target.handle_timer(second * SECOND)
    assert conversation.target.phase is Phase.FULL_FEATURE
    assert world.warnings() == []


def test_a_pdu_is_not_too_slow_while_the_target_itself_does_not_read(rig: MakeRig) -> None:
    world = rig(pdu_timeout_ns=60 * SECOND)
    conversation = world.talk()
    conversation.target.receive(encode_pdu(ping(conversation))[:20], 0)
    assert conversation.target.next_deadline() == 20 * SECOND  # the ping comes first
    conversation.target.sent(59 * SECOND)
    assert conversation.target.next_deadline() == 60 * SECOND
    conversation.target.reading_resumed(59 * SECOND)
    conversation.target.handle_timer(61 * SECOND)
    assert conversation.target.phase is Phase.FULL_FEATURE


def test_a_silent_initiator_is_pinged_and_given_up_with_one_line(rig: MakeRig) -> None:
    world = rig(idle_ping_ns=20 * SECOND, ping_timeout_ns=5 * SECOND)
    conversation = world.talk()
    conversation.target.handle_timer(19 * SECOND)
    assert conversation.answers() == []
    conversation.target.handle_timer(20 * SECOND)
    (asked,) = conversation.answers()
    assert isinstance(asked, NopIn)
    conversation.target.handle_timer(25 * SECOND)
    assert conversation.target.phase is Phase.CLOSING
    assert world.warnings() == [f"connection of {PEER} ends: no answer to a NOP-In ping within 5 s"]


def test_an_idle_initiator_that_answers_pings_is_kept(rig: MakeRig) -> None:
    world = rig(idle_ping_ns=20 * SECOND, ping_timeout_ns=5 * SECOND)
    conversation = world.talk()
    for turn in range(1, 50):
        now_ns = turn * 20 * SECOND
        conversation.now_ns = now_ns
        conversation.target.handle_timer(now_ns)
        (asked,) = conversation.answers()
        assert isinstance(asked, NopIn)
        answer = NopOut(
            immediate=True,
            target_transfer_tag=asked.target_transfer_tag,
            cmd_sn=conversation.cmd_sn,
            exp_stat_sn=0,
        )
        assert conversation.send(answer) == []
    assert world.warnings() == []


def test_a_reader_so_slow_that_the_ping_waits_behind_its_data_is_not_given_up(rig: MakeRig) -> None:
    world = rig(idle_ping_ns=20 * SECOND, ping_timeout_ns=5 * SECOND)
    conversation = world.talk()
    conversation.target.handle_timer(20 * SECOND)
    for second in range(21, 120):
        conversation.target.sent(second * SECOND)
        conversation.target.handle_timer(second * SECOND)
    assert conversation.target.phase is Phase.FULL_FEATURE
    conversation.target.handle_timer(130 * SECOND)
    assert len(world.warnings()) == 1


# -- how many ----------------------------------------------------------------------------------------------------------

LIMITS = Limits(
    connections=8, connections_per_address=4, login_connections=5, login_connections_per_address=3
)


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ([("a", False)] * 3 + [("b", False)] * 4, None),
        ([("a", False)] * 8, "8 connections are open, no more than 8 may"),
        ([("b", True)] * 5, "5 connections have not finished their login, no more than 5 may"),
        ([("a", False)] * 4, "4 connections are open from this address, no more than 4 may"),
        (
            [("a", True)] * 3,
            "3 connections from this address have not finished their login, no more than 3 may",
        ),
        ([("b", True)] * 3, None),
    ],
)
def test_who_may_connect(there: list[tuple[str, bool]], words: str | None) -> None:
    assert refusal(LIMITS, "a", [OpenConnection(*one) for one in there]) == words


def serve(body: Callable[[TargetServer], Any], disk: RamDisk | None = None, **limits: Any) -> None:
    async def main() -> None:
        target = Target(name=TARGET, logical_units=disk or RamDisk())
        async with TargetServer([target], limits=Limits(**limits)) as server:
            await asyncio.wait_for(body(server), 90)

    asyncio.run(main())


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


async def connected(server: TargetServer) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.portals[0].port))
    return sock


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"connections": 2}, "2 connections are open, no more than 2 may"),
        ({"login_connections": 2}, "2 connections have not finished their login, no more than 2 may"),
        ({"connections_per_address": 2}, "2 connections are open from this address, no more than 2 may"),
        (
            {"login_connections_per_address": 2},
            "2 connections from this address have not finished their login, no more than 2 may",
        ),
    ],
)
def test_one_connection_too_many_is_closed_with_one_line(
    limits: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(server: TargetServer) -> None:
        loop = asyncio.get_running_loop()
        socks = [await connected(server) for _ in range(3)]
        peer = socks[2].getsockname()
        assert await loop.sock_recv(socks[2], 1) == b""
        assert warnings_of(caplog) == [f"refused the connection of 127.0.0.1:{peer[1]}: {words}"]
        socks[0].close()
        await until(lambda: len(server._connections) == 1)
        socks.append(await connected(server))  # there is room again
        await until(lambda: len(server._connections) == 2)
        for sock in socks:
            sock.close()

    serve(body, **limits)
    assert len(warnings_of(caplog)) == 1


def test_running_out_of_descriptors_is_one_line_a_second_and_not_a_busy_loop(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause_s = 3600.0
    monkeypatch.setattr("iscsi_target.server._ACCEPT_PAUSE_S", pause_s)
    attempts = 0

    class Full:
        def __init__(self, listener: socket.socket) -> None:
            self._listener = listener

        def fileno(self) -> int:
            return self._listener.fileno()

        def close(self) -> None:
            self._listener.close()

        def accept(self) -> Any:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                raise OSError(errno.EMFILE, "too many open files")
            return self._listener.accept()

    async def body(server: TargetServer) -> None:
        loop = asyncio.get_running_loop()
        call_later, paused = loop.call_later, []

        def call_later_or_when_told(delay: float, callback: Callable[..., Any], *arguments: Any) -> Any:
            if delay == pause_s:
                paused.append(callback)
            return call_later(delay, callback, *arguments)

        monkeypatch.setattr(loop, "call_later", call_later_or_when_told)
        ((listener, portal),) = server._listeners
        full: Any = Full(listener)
        server._listeners[:] = [(full, portal)]
        loop.remove_reader(listener.fileno())
        loop.add_reader(listener.fileno(), server._accept, full, portal)
        sock = await connected(server)
        await until(lambda: attempts == 1)
        for _ in range(20):  # turns of the loop
            await asyncio.sleep(0)
        assert attempts == 1, "it was tried again at once"
        (again,) = paused
        again()
        await until(lambda: len(server._connections) == 1)
        sock.close()

    serve(body)
    (line,) = warnings_of(caplog)
    assert line.startswith("cannot accept connections at 127.0.0.1:")
    assert line.endswith("Too many open files")


def test_one_session_too_many_is_refused_with_one_line(rig: MakeRig) -> None:
    world = rig(sessions=1)
    world.talk()
    other = Conversation(world.node, isid=bytes(6))
    (answer,) = other.send(other.login_request(NAMES))
    assert isinstance(answer, LoginResponse)
    assert answer.status_class << 8 | answer.status_detail == LoginStatus.OUT_OF_RESOURCES
    assert world.warnings() == [f"refused the login of {PEER}: all 1 sessions are in use (status 0x0302)"]


def test_one_connection_too_many_in_a_session_is_refused_with_one_line(rig: MakeRig) -> None:
    world = rig()
    first = world.talk(("MaxConnections", "9"))
    Conversation(world.node, cid=1, tsih=first.tsih).log_in()
    third = Conversation(world.node, cid=2, tsih=first.tsih)
    (answer,) = third.send(third.login_request(NAMES))
    assert isinstance(answer, LoginResponse)
    assert answer.status_class << 8 | answer.status_detail == LoginStatus.TOO_MANY_CONNECTIONS
    assert world.warnings() == [
        "refused the login of 192.0.2.9:40002: the session has its 2 connections already (status 0x0206)"
    ]


# -- how large ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logged_in", [False, True])
def test_a_data_segment_above_the_declared_length_ends_the_connection_with_one_line(
    logged_in: bool, rig: MakeRig
) -> None:
    world = rig()
    declared = 262144 if logged_in else 8192
    conversation = world.talk() if logged_in else Conversation(world.node)
    header = bytearray(encode_pdu(ping(conversation)))
    header[5:8] = (declared + 1).to_bytes(3, "big")
    conversation.send_bytes(bytes(header))
    assert conversation.target.phase is Phase.CLOSING
    assert world.warnings() == [
        f"connection of {PEER} ends: a data segment of {declared + 1} bytes, more than the {declared} we declared"
    ]


@pytest.mark.parametrize("logged_in", [False, True])
def test_additional_headers_above_the_limit_end_the_connection_with_one_line(
    logged_in: bool, rig: MakeRig
) -> None:
    world = rig()
    conversation = world.talk() if logged_in else Conversation(world.node)
    header = bytearray(encode_pdu(ping(conversation)))
    header[4] = 81
    conversation.send_bytes(bytes(header))
    assert conversation.target.phase is Phase.CLOSING
    assert world.warnings() == [f"connection of {PEER} ends: additional headers of 324 bytes, more than 320"]


def test_the_text_of_a_login_is_bounded_over_all_its_continued_requests(rig: MakeRig) -> None:
    world = rig(login_text_bytes=10_000)
    conversation = Conversation(world.node)
    request = conversation.login_request([], transit=False, nsg=0, continue_=True, data=b"x" * 4000)
    assert len(conversation.send(request, request)) == 2
    (answer,) = conversation.send(request)
    assert isinstance(answer, LoginResponse)
    assert answer.status_class == 2
    assert world.warnings() == [
        f"refused the login of {PEER}: more than 10000 bytes of login text (status 0x0200)"
    ]


def test_the_requests_of_a_login_are_bounded(rig: MakeRig) -> None:
    world = rig(login_exchanges=5)
    conversation = Conversation(world.node)
    request = conversation.login_request([], transit=False, nsg=0, continue_=True)
    for _ in range(6):
        conversation.send(request)
    assert conversation.target.phase is Phase.CLOSING
    assert world.warnings() == [f"refused the login of {PEER}: no end after 5 Login Requests (status 0x0200)"]


def test_the_text_of_a_text_request_is_bounded_over_all_its_parts(rig: MakeRig) -> None:
    world = rig(login_text_bytes=10_000)
    conversation = world.talk()
    fields: dict[str, Any] = {"final": False, "continue_": True, "initiator_task_tag": 9, "exp_stat_sn": 0}
    (answer,) = conversation.send(TextRequest(cmd_sn=conversation.next_cmd_sn(), data=b"x" * 8000, **fields))
    tag = answer.target_transfer_tag  # type: ignore[union-attr]
    request = TextRequest(
        cmd_sn=conversation.next_cmd_sn(), target_transfer_tag=tag, data=b"x" * 8000, **fields
    )
    (answer,) = conversation.send(request)
    assert isinstance(answer, Reject)
    assert world.warnings() == [f"rejected a PDU of {PEER}: more than 10000 bytes of text (reason 0x04)"]
    conversation.assert_alive()


def test_the_keys_of_a_text_are_bounded_in_a_login(rig: MakeRig) -> None:
    world = rig(text_keys=64)
    conversation = Conversation(world.node)
    unknown = [(f"X-{number}", "1") for number in range(63)]
    (answer,) = conversation.send(conversation.login_request([*NAMES, *unknown]))
    assert isinstance(answer, LoginResponse)
    assert answer.status_class == 2
    assert world.warnings() == [f"refused the login of {PEER}: more than 64 keys in one text (status 0x0200)"]


def test_the_longest_answer_to_a_login_text_fits_the_default_data_segment(rig: MakeRig) -> None:
    conversation = Conversation(rig().node)
    unknown = [(f"X-{number:061}", "1") for number in range(62)]
    (answer,) = conversation.send(conversation.login_request([*NAMES, *unknown]))
    assert isinstance(answer, LoginResponse)
    assert answer.status_class == 0
    assert len(answer.data) <= 8192


def test_the_keys_of_a_text_are_bounded_in_full_feature_phase(rig: MakeRig) -> None:
    world = rig(text_keys=64)
    conversation = world.talk()
    text = encode_text([(f"X-{number}", "1") for number in range(65)])
    request = TextRequest(initiator_task_tag=9, cmd_sn=conversation.next_cmd_sn(), exp_stat_sn=0, data=text)
    (answer,) = conversation.send(request)
    assert isinstance(answer, Reject)
    assert world.warnings() == [f"rejected a PDU of {PEER}: more than 64 keys in one text (reason 0x04)"]


def test_no_more_data_are_taken_than_an_r2t_asked_for(rig: MakeRig) -> None:
    conversation = rig().talk()
    command = conversation.command(write_16(0, 8), tag=1, write=True, expected_data_transfer_length=8 * BLOCK)
    (r2t,) = conversation.send(command)
    assert isinstance(r2t, R2T)
    (session,) = conversation.node.sessions.values()
    flood = [
        DataOut(
            final=False,
            initiator_task_tag=1,
            target_transfer_tag=r2t.target_transfer_tag,
            exp_stat_sn=0,
            data_sn=number,
            buffer_offset=number * 4 * BLOCK,
            data=bytes(4 * BLOCK),
        )
        for number in range(50)
    ]
    answers = conversation.send(*flood)
    (answer,) = [answer for answer in answers if isinstance(answer, ScsiResponse)]
    assert answer.status == 2
    assert answers == [answer]
    assert not session.tasks
    assert session.solicited_bytes == 0
    conversation.assert_alive()


def test_data_out_full_of_holes_ends_the_task_before_the_list_of_holes_grows(rig: MakeRig) -> None:
    conversation = rig().talk(("ErrorRecoveryLevel", "1"))
    command = conversation.command(
        write_16(0, 256), tag=1, write=True, expected_data_transfer_length=256 * BLOCK
    )
    (r2t,) = conversation.send(command)
    assert isinstance(r2t, R2T)
    (session,) = conversation.node.sessions.values()
    answers = []
    for number in range(500):
        data = DataOut(
            final=False,
            initiator_task_tag=1,
            target_transfer_tag=r2t.target_transfer_tag,
            exp_stat_sn=0,
            data_sn=number,
            buffer_offset=number * 8 + 4,
            data=bytes(4),
        )
        answers += conversation.send(data)
    (answer,) = answers
    assert isinstance(answer, ScsiResponse)
    assert answer.status == 2
    assert not session.tasks


# -- floods ------------------------------------------------------------------------------------------------------------


def unit_ready(conversation: Conversation, tag: int, **fields: Any) -> ScsiCommandPdu:
    return conversation.command(bytes((TEST_UNIT_READY,)), tag=tag, **fields)


def test_commands_beyond_the_window_are_ignored_in_silence_as_the_standard_wants(rig: MakeRig) -> None:
    world = rig(queued_commands=4)
    conversation = world.talk()
    (session,) = world.node.sessions.values()
    for tag in range(20):
        conversation.send(unit_ready(conversation, tag), execute=False)
    assert len(session.tasks) == 4
    assert session.ignored_pdus == 16
    assert world.warnings() == []


def test_immediate_commands_are_bounded_and_a_flood_of_them_is_one_line(rig: MakeRig) -> None:
    world = rig(queued_commands=4)
    conversation = world.talk()
    (session,) = world.node.sessions.values()
    flood = [unit_ready(conversation, tag, immediate=True, cmd_sn=conversation.cmd_sn) for tag in range(50)]
    answers = conversation.send(*flood, execute=False)
    assert len(session.tasks) == 4
    assert {answer.reason for answer in answers if isinstance(answer, Reject)} == {
        RejectReason.TOO_MANY_IMMEDIATE_COMMANDS
    }
    assert world.warnings() == [
        f"rejected a PDU of {PEER}: too many immediate commands (reason 0x06), 46 times"
    ]


def test_a_refused_immediate_command_makes_no_room_for_another(rig: MakeRig) -> None:
    conversation = rig(queued_commands=4).talk()
    (session,) = conversation.node.sessions.values()
    for turn in range(50):
        first = unit_ready(conversation, 0, immediate=True, cmd_sn=conversation.cmd_sn)  # its tag is in use
        other = unit_ready(conversation, turn, immediate=True, cmd_sn=conversation.cmd_sn)
        conversation.send(first, other, execute=False)
    assert len(session.tasks) == 4


def test_a_bad_additional_header_costs_no_place_in_the_window(rig: MakeRig) -> None:
    conversation = rig(queued_commands=4).talk()
    (session,) = conversation.node.sessions.values()
    for tag in range(20):
        (answer,) = conversation.send(unit_ready(conversation, tag, ahs=b"\xff\xff\x01\x00"))
        assert isinstance(answer, Reject)
    assert (session.max_cmd_sn - session.exp_cmd_sn) & 0xFFFFFFFF == 3
    assert len(conversation.send(unit_ready(conversation, 99))) == 1


def test_one_read_full_of_snacks_does_not_queue_everything_kept_for_each_of_them(rig: MakeRig) -> None:
    conversation = rig(send_queue_bytes=64 * 1024).talk(("ErrorRecoveryLevel", "1"))
    conversation.send(
        conversation.command(read_16(0, 128), tag=1, read=True, expected_data_transfer_length=1 << 16)
    )
    snack = SnackRequest(type_=0, initiator_task_tag=1, exp_stat_sn=0, beg_run=0, run_length=0)
    conversation.target.receive(encode_pdu(snack) * 4000, 0)
    assert conversation.target.output_bytes < 1 << 20


def test_one_read_full_of_text_requests_does_not_queue_an_answer_to_each(rig: MakeRig) -> None:
    world = rig(send_queue_bytes=64 * 1024)
    world.node.portals = tuple(Portal("192.0.2.1", port, 1) for port in range(1, 200))
    conversation = world.talk()
    request = TextRequest(
        immediate=True, initiator_task_tag=9, cmd_sn=1, exp_stat_sn=0, data=encode_text([("SendTargets", "")])
    )
    conversation.target.receive(encode_pdu(request) * 4000, 0)
    assert conversation.target.output_bytes < 1 << 20


def test_what_was_sent_is_kept_within_its_bound_whatever_it_is(rig: MakeRig) -> None:
    conversation = rig(retained_bytes=100_000).talk(
        ("ErrorRecoveryLevel", "1"), ("MaxRecvDataSegmentLength", "65536")
    )
    retention = conversation.target.retention
    assert retention is not None
    for _ in range(20):
        conversation.send(ping(conversation, bytes(30_000)))
        assert sum(sent.size for sent, _ in retention._statuses.values()) <= retention.kept_bytes <= 100_000
    conversation.send(NopOut(immediate=True, cmd_sn=1, exp_stat_sn=conversation.target._stat_sn))
    assert retention.kept_bytes == 0


def test_connections_lost_one_after_the_other_are_not_all_waited_for(rig: MakeRig) -> None:
    world = rig()
    first = world.talk(("ErrorRecoveryLevel", "2"), ("MaxConnections", "2"))
    (session,) = world.node.sessions.values()
    for cid in range(1, 100):
        lost = Conversation(world.node, cid=cid, tsih=first.tsih)
        lost.log_in()
        lost.cmd_sn = session.exp_cmd_sn
        lost.send(unit_ready(lost, cid), execute=False)
        lost.target.eof()
    assert len(session.allegiance.suspended) == 2
    assert len(session.tasks) == 2


def test_answers_of_lost_connections_are_forgotten_with_them(rig: MakeRig) -> None:
    world = rig()
    first = world.talk(("ErrorRecoveryLevel", "2"), ("MaxConnections", "2"))
    (session,) = world.node.sessions.values()
    for turn in range(50):
        lost = Conversation(world.node, cid=1, tsih=first.tsih)
        lost.log_in()
        lost.cmd_sn = session.exp_cmd_sn
        lost.send(unit_ready(lost, turn))
        lost.target.eof()
    assert len(session.allegiance.answered) == 50  # all of them may still be asked for
    world.node.handle_timer(0)
    world.node.handle_timer(3600 * SECOND)
    assert session.allegiance.answered == {}
    first.assert_alive()


def test_writes_aborted_while_they_wait_for_the_budget_leave_nothing(rig: MakeRig) -> None:
    conversation = rig(solicited_bytes=8 * BLOCK).talk()
    (session,) = conversation.node.sessions.values()
    for tag in range(3):
        command = conversation.command(
            write_16(0, 8), tag=tag, write=True, expected_data_transfer_length=8 * BLOCK
        )
        conversation.send(command)
    for turn in range(50):
        tag = 100 + turn
        command = conversation.command(
            write_16(0, 8), tag=tag, write=True, expected_data_transfer_length=8 * BLOCK
        )
        abort = TaskManagementRequest(
            immediate=True,
            function=1,
            initiator_task_tag=9999,
            referenced_task_tag=tag,
            cmd_sn=conversation.cmd_sn,
            exp_stat_sn=0,
        )
        conversation.send(command, abort)
    assert len(session.tasks) == 3
    assert len(session.waiting_for_budget) == 2


class HungDisk(RamDisk):
    """Commands do not come back until `open` is set."""

    def __init__(self) -> None:
        super().__init__(threads=True)
        self.open = threading.Event()

    def execute(self, command: ScsiCommand) -> ScsiResult:
        self.open.wait(100)
        return super().execute(command)


@pytest.mark.parametrize("limits", [{"queued_commands": 8}, {"executing_commands": 8}])
def test_aborting_and_sending_again_does_not_queue_commands_at_a_hung_disk_without_end(
    limits: dict[str, int],
) -> None:
    disk = HungDisk()

    async def body(server: TargetServer) -> None:
        loop = asyncio.get_running_loop()
        sock = await connected(server)
        conversation = Conversation(server.node)
        await loop.sock_sendall(sock, encode_pdu(conversation.login_request(NAMES)))
        for tag in range(100):
            await loop.sock_sendall(sock, encode_pdu(unit_ready(conversation, tag)))
            await until(lambda: sum(info.commands for info in server.sessions()) > tag)  # noqa: B023 - used at once
            abort = TaskManagementRequest(
                immediate=True,
                function=1,
                initiator_task_tag=1000 + tag,
                referenced_task_tag=tag,
                cmd_sn=conversation.cmd_sn,
                exp_stat_sn=0,
            )
            await loop.sock_sendall(sock, encode_pdu(abort))
        await asyncio.sleep(0.05)
        running = server._running
        disk.open.set()
        assert running == 8
        await until(lambda: not server._running)
        async with await Initiator.login("127.0.0.1", server.portals[0].port, TARGET) as session:
            assert bytes(await session.read(0, 0, 1)) == bytes(BLOCK)
        sock.close()

    try:
        serve(body, disk, **limits)
    finally:
        disk.open.set()


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def half_open(world: Rig, number: int) -> TargetConnection:
    """The most that one who has not logged in can have kept: long text, and nearly a whole further request."""
    connection = accept(world.node, seed=number)
    conversation = Conversation(world.node)
    long = encode_pdu(conversation.login_request([], transit=False, nsg=0, continue_=True, data=b"x" * 8188))
    connection.receive(long, 0)
    connection.take_output()
    connection.receive(long[:-1], 0)
    connection.take_output()
    assert connection.phase is Phase.LOGIN
    return connection


def test_memory_before_authentication_is_bounded(rig: MakeRig, traced: None) -> None:
    world = rig()
    connections = [half_open(world, 0)]  # whatever is allocated once, is
    before = tracemalloc.get_traced_memory()[0]
    connections += [half_open(world, number) for number in range(1, 101)]
    each = (tracemalloc.get_traced_memory()[0] - before) / 100
    assert each < 2 * world.node.limits.login_text_bytes, f"{each:.0f} bytes for each"
    print(f"{each:.0f} bytes for each of {len(connections)} half-open logins")
    for connection in connections:
        connection.eof()


def test_a_peer_that_never_reads_is_read_no_more_and_then_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def body(server: TargetServer) -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", server.portals[0].port))
        conversation = Conversation(server.node)
        await loop.sock_sendall(sock, encode_pdu(conversation.login_request(NAMES)))
        await until(lambda: bool(server.sessions()))
        (shell,) = server._connections.values()
        shell._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        flood = encode_pdu(ping(conversation, bytes(4096))) * 16
        sending = asyncio.create_task(loop.sock_sendall(sock, flood * 1000))
        worst = 0

        def waiting() -> bool:
            nonlocal worst
            worst = max(worst, shell._unsent_bytes)
            return not shell._reading

        await until(waiting)
        assert not sending.done()
        assert worst <= 64 * 1024 + 256 * 1024 * 2
        # Only now, so that nothing before it can take too long.
        server.node.limits = replace(
            server.node.limits, idle_ping_ns=SECOND // 2, ping_timeout_ns=SECOND // 2
        )
        shell.core._deadline_ns = 0
        await until(lambda: not server._connections)
        await asyncio.gather(sending, return_exceptions=True)
        sock.close()

    serve(body, send_queue_bytes=64 * 1024)
    (line,) = warnings_of(caplog)
    assert line.startswith("connection of 127.0.0.1:")
    assert line.endswith("ends: no answer to a NOP-In ping within 0.5 s")


@pytest.mark.parametrize("logged_in", [False, True])
def test_half_a_close_is_a_whole_one_and_leaves_nothing(
    logged_in: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(server: TargetServer) -> None:
        loop = asyncio.get_running_loop()
        sock = await connected(server)
        conversation = Conversation(server.node)
        request = encode_pdu(conversation.login_request(NAMES))
        await loop.sock_sendall(sock, request if logged_in else request[:30])
        await until(lambda: bool(server._connections) and bool(server.sessions()) == logged_in)
        sock.shutdown(socket.SHUT_WR)
        while await loop.sock_recv(sock, 65536):
            pass
        await until(lambda: not server._connections and not server.sessions())
        sock.close()

    serve(body)
    lines = warnings_of(caplog)
    assert [line.partition(" ends: ")[2] for line in lines] == [
        "the initiator closed the connection"
    ] * logged_in


def test_session_reinstatement_in_a_loop_leaves_one_session(rig: MakeRig) -> None:
    world = rig(sessions=2)
    for _ in range(30):
        conversation = Conversation(world.node, isid=ISID)
        conversation.log_in()
    assert len(world.node.sessions) == 1
