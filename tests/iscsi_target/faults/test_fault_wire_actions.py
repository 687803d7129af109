"""Every action on PDUs, seen from the other end of the wire."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from iscsi_target.errors import ConnectionLost, LoginFailed, TaskAborted
from iscsi_target.faults import (
    Async,
    Close,
    Corrupt,
    Delay,
    Drop,
    Duplicate,
    Fixed,
    Part,
    Redirect,
    Reject,
    Renumber,
    Reorder,
    Truncate,
    Window,
)
from iscsi_target.initiator import Initiator
from iscsi_target.running import RunningTarget, serve
from iscsi_target.session.parameters import Parameters
from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.framing import HeaderDigestError
from iscsi_target.wire.opcodes import AsyncEvent, RejectReason
from iscsi_target.wire.requests import DataOut, NopOut
from iscsi_target.wire.responses import (
    R2T,
    AsyncMessage,
    DataIn,
    LoginResponse,
    NopIn,
    ScsiResponse,
)
from iscsi_target.wire.responses import Reject as RejectPdu
from tests.iscsi_target.faults.raw_initiator import ConnectionOver, RawInitiator

DIGESTS = {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}
MS = 1_000_000


def answered(raw: RawInitiator, data: bytes = b"") -> NopIn:
    pdu = raw.receive()
    assert isinstance(pdu, NopIn)
    assert pdu.data == data or not data
    return pdu


def test_a_dropped_answer_never_comes_and_the_next_one_does(target: RunningTarget, raw: RawInitiator) -> None:
    rule = target.faults.add(Drop(), opcode="nop-in", nth=1)
    raw.ping(b"first")
    raw.ping(b"second")
    pdu = answered(raw, b"second")
    lost = target.log.first(rule=rule.name)
    assert not lost.on_wire
    assert lost.fate == "dropped"
    assert pdu.stat_sn == (lost.field("stat_sn") or 0) + 1
    assert (rule.matched, rule.fired) == (2, 1)


def test_a_dropped_request_is_never_seen_by_the_target(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Drop(), opcode="nop-out", nth=1)
    raw.ping(b"lost", immediate=True)
    raw.ping(b"arrives", immediate=True)
    answered(raw, b"arrives")


def test_a_lost_r2t_is_recovered_by_our_initiator_at_recovery_level_1(target: RunningTarget, session) -> None:
    """RFC 7143 section 7.2.1: the target asks again after a silence; here the data arrive because R2T 0 is repeated."""
    rule = target.faults.add(Drop(), opcode="data-in", command="read", nth=2)
    data = bytes(range(256)) * 1024

    async def use(initiator: Initiator) -> None:
        await initiator.write(0, 0, data)
        assert bytes(await initiator.read(0, 0, 512)) == data

    session(use, parameters=Parameters(error_recovery_level=1, max_recv_data_segment_length=65536))
    assert rule.fired == 1
    assert target.log.count(opcode="snack-request") >= 1


def test_a_duplicate_comes_twice_with_the_same_numbers(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Duplicate(), opcode="nop-in", nth=1)
    raw.ping(b"once")
    first, second = answered(raw, b"once"), answered(raw, b"once")
    assert first == second
    raw.ping(b"after")
    assert answered(raw, b"after").stat_sn == first.stat_sn + 1


def test_a_duplicated_request_is_ignored_as_its_cmd_sn_was_seen(
    target: RunningTarget, raw: RawInitiator
) -> None:
    """RFC 7143 section 4.2.2.1."""
    target.faults.add(Duplicate(copies=3), opcode="nop-out")
    raw.ping(b"a")
    raw.ping(b"b")
    assert [answered(raw).data, answered(raw).data] == [b"a", b"b"]


def test_a_delayed_pdu_holds_up_those_behind_it(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Delay(Fixed(80 * MS)), opcode="nop-in", nth=1)
    raw.ping(b"slow")
    raw.ping(b"fast")
    assert [answered(raw).data, answered(raw).data] == [b"slow", b"fast"]
    asked = target.log.first(opcode="nop-out")
    slow, fast = target.log.records(opcode="nop-in")
    assert slow.fate == "delayed 80ms"
    assert 80 * MS <= slow.time_ns - asked.time_ns <= fast.time_ns - asked.time_ns


def test_a_delayed_pdu_may_be_overtaken(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Delay(Fixed(80 * MS), overtake=True), opcode="nop-in", nth=1)
    raw.ping(b"slow")
    raw.ping(b"fast")
    assert [answered(raw).data, answered(raw).data] == [b"fast", b"slow"]


def test_a_delayed_request_is_served_later_and_in_order(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Delay(Fixed(50 * MS)), opcode="nop-out", nth=1)
    raw.ping(b"slow")
    raw.ping(b"next")
    assert [answered(raw).data, answered(raw).data] == [b"slow", b"next"]
    asked, answer = target.log.first(opcode="nop-out"), target.log.first(opcode="nop-in")
    assert answer.time_ns - asked.time_ns >= 50 * MS


def test_a_reordered_pdu_comes_behind_the_next_ones(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Reorder(behind=2), opcode="nop-in", nth=1)
    for data in (b"a", b"b", b"c", b"d"):
        raw.ping(data)
    assert [answered(raw).data for _ in range(4)] == [b"b", b"c", b"a", b"d"]


def test_a_reordered_pdu_comes_alone_when_nothing_follows(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Reorder(behind=5, within_ns=40 * MS), opcode="nop-in")
    raw.ping(b"alone")
    answered(raw, b"alone")


def test_reordered_commands_are_served_in_the_order_of_their_numbers(
    target: RunningTarget, raw: RawInitiator
) -> None:
    """RFC 7143 section 4.2.2.1: a command ahead of a gap waits."""
    target.faults.add(Reorder(behind=1), opcode="nop-out", nth=1)
    raw.ping(b"a")
    raw.ping(b"b")
    assert [answered(raw).data, answered(raw).data] == [b"a", b"b"]


def test_a_truncated_data_segment_is_a_shorter_one(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Truncate(keep_bytes=3), opcode="nop-in", nth=1)
    raw.ping(b"abcdef")
    answered(raw, b"abc")
    raw.ping(b"whole again")
    answered(raw, b"whole again")


def test_a_truncated_stream_runs_on_into_the_next_pdu(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Truncate(keep_bytes=48, adjust=False), opcode="nop-in", nth=1)
    raw.ping(b"x" * 48)
    raw.ping(b"")
    pdu = answered(raw)
    assert len(pdu.data) == 48
    assert pdu.data[0] & 0x3F == 0x20  # the header of the second NOP-In


@pytest.mark.parametrize("recompute", [False, True])
def test_corrupted_data_are_found_by_the_digest_unless_it_is_made_to_match(
    target: RunningTarget, recompute: bool
) -> None:
    target.faults.add(Corrupt(Part.DATA, bits=(0,), recompute=recompute), opcode="nop-in", nth=1)
    with RawInitiator(target.host, target.port, target.iqn, **DIGESTS) as raw:
        raw.ping(b"\x00 hello")
        frame = raw.frame()
        assert bytes(frame.data) == b"\x80 hello"
        assert frame.data_digest_ok is recompute
        raw.ping(b"unharmed")
        frame = raw.frame()
        assert bytes(frame.data) == b"unharmed"
        assert frame.data_digest_ok


@pytest.mark.parametrize(
    ("action", "survives"),
    [
        (Corrupt(Part.HEADER, bits=(8 * 16,)), False),
        (Corrupt(Part.HEADER_DIGEST), False),
        (Corrupt(Part.HEADER, bits=(8 * 16,), recompute=True), True),
    ],
)
def test_a_corrupted_header_ends_trust_in_the_stream(
    target: RunningTarget, action: Corrupt, survives: bool
) -> None:
    """RFC 7143 section 7.7."""
    rule = target.faults.add(action, opcode="nop-in", nth=1)
    with RawInitiator(target.host, target.port, target.iqn, **DIGESTS) as raw:
        raw.ping()
        if survives:
            pdu = answered(raw)
            assert pdu.initiator_task_tag == raw.tag ^ 0x80000000
        else:
            with pytest.raises(HeaderDigestError):
                raw.frame()
    assert rule.fired == 1


def test_a_corrupted_data_digest_comes_with_good_data(target: RunningTarget) -> None:
    target.faults.add(Corrupt(Part.DATA_DIGEST), opcode="nop-in", nth=1)
    with RawInitiator(target.host, target.port, target.iqn, **DIGESTS) as raw:
        raw.ping(b"good")
        frame = raw.frame()
        assert bytes(frame.data) == b"good"
        assert not frame.data_digest_ok


def test_a_digest_rule_leaves_a_connection_without_digests_alone(
    target: RunningTarget, raw: RawInitiator
) -> None:
    rule = target.faults.add(Corrupt(Part.DATA_DIGEST), opcode="nop-in")
    raw.ping(b"good")
    answered(raw, b"good")
    assert (rule.matched, rule.fired) == (0, 0)


def test_a_request_that_is_corrupted_on_its_way_in_is_rejected_by_the_target(target: RunningTarget) -> None:
    """RFC 7143 section 7.8: a data digest error is answered with Reject, and the CmdSN stays open for a retry."""
    target.faults.add(Corrupt(Part.DATA), opcode="nop-out", nth=1)
    with RawInitiator(target.host, target.port, target.iqn, **DIGESTS) as raw:
        sent = raw.ping(b"to be corrupted")
        pdu = raw.receive()
        assert isinstance(pdu, RejectPdu)
        assert pdu.reason == RejectReason.DATA_DIGEST_ERROR
        assert pdu.exp_cmd_sn == sent.cmd_sn
        raw.send(sent)
        answered(raw, b"to be corrupted")


def test_our_initiator_survives_corrupted_data_at_recovery_level_1(target: RunningTarget, session) -> None:
    rule = target.faults.add(Corrupt(Part.DATA), opcode="data-in", command="read", count=2, every=2)
    data = bytes(range(256)) * 512

    async def use(initiator: Initiator) -> None:
        await initiator.write(0, 0, data)
        for _ in range(4):
            assert bytes(await initiator.read(0, 0, 256)) == data

    session(
        use,
        parameters=Parameters(
            error_recovery_level=1, data_digest=("CRC32C",), max_recv_data_segment_length=32768
        ),
    )
    assert rule.fired == 2


@pytest.mark.parametrize(
    ("field", "opcode"),
    [
        ("stat_sn", "nop-in"),
        ("exp_cmd_sn", "nop-in"),
        ("max_cmd_sn", "nop-in"),
        ("initiator_task_tag", "nop-in"),
    ],
)
def test_a_number_of_an_answer_is_wrong_once(
    target: RunningTarget, raw: RawInitiator, field: str, opcode: str
) -> None:
    raw.ping()
    right = getattr(answered(raw), field)
    target.faults.add(Renumber(field, add=5), opcode=opcode, nth=1)
    raw.ping()
    step = 1
    assert getattr(answered(raw), field) == right + step + 5


def test_a_wrong_data_sn_and_a_chosen_transfer_tag(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Renumber("data_sn", value=77), opcode="data-in", nth=1)
    target.faults.add(Renumber("target_transfer_tag", value=0xABCD), opcode="r2t", nth=1)
    target.faults.add(Renumber("r2t_sn", add=-1), opcode="r2t", nth=1)
    raw.read()
    data_in = raw.receive()
    assert isinstance(data_in, DataIn)
    assert data_in.data_sn == 77
    raw.write(bytes(512), immediate_data=False)
    r2t = raw.receive()
    assert isinstance(r2t, R2T)
    assert (r2t.target_transfer_tag, r2t.r2t_sn) == (0xABCD, 0xFFFFFFFF)


def test_a_wrong_cmd_sn_on_its_way_in_is_outside_the_window_and_ignored(
    target: RunningTarget, raw: RawInitiator
) -> None:
    target.faults.add(Renumber("cmd_sn", add=100_000), opcode="nop-out", nth=1)
    lost = raw.ping(b"lost")
    raw.cmd_sn -= 1
    raw.ping(b"served")
    assert answered(raw, b"served").exp_cmd_sn == lost.cmd_sn + 1


def test_a_number_may_be_changed_under_a_header_digest(target: RunningTarget) -> None:
    target.faults.add(Renumber("stat_sn", value=1000), opcode="nop-in", nth=1)
    with RawInitiator(target.host, target.port, target.iqn, **DIGESTS) as raw:
        raw.ping()
        assert answered(raw).stat_sn == 1000


def test_the_window_is_never_wider_than_the_rule_says(target: RunningTarget) -> None:
    target.faults.add(Window(commands=2))
    with RawInitiator(target.host, target.port, target.iqn, log_in=False) as raw:
        login = raw.login()
        assert isinstance(login, LoginResponse)
        assert login.max_cmd_sn - login.exp_cmd_sn + 1 == 2
        for _ in range(3):
            raw.ping()
            pdu = answered(raw)
            assert pdu.max_cmd_sn - pdu.exp_cmd_sn + 1 == 2


def test_a_closed_window_stops_our_initiator_until_it_opens(target: RunningTarget, session) -> None:
    async def use(initiator: Initiator) -> None:
        await initiator.read(0, 0, 1)
        for _ in range(200):
            if not initiator._shell.session.window:
                break
            await initiator.execute(0, bytes(6))
        with pytest.raises(TimeoutError):
            await initiator.execute(0, bytes(6), timeout_s=0.3)
        rule.disable()
        assert await initiator.nop(b"opens it")

    rule = target.faults.add(Window(commands=0), skip=4)
    session(use)
    granted = max(
        record.field("max_cmd_sn") or 0
        for record in target.log.records(direction="to-initiator")
        if not record.rules and record.number < target.log.last(rule=rule.name).number
    )
    assert max(record.field("cmd_sn") or 0 for record in target.log.records(opcode="scsi-command")) == granted


def test_a_rejected_request_gets_a_reject_with_the_next_stat_sn(
    target: RunningTarget, raw: RawInitiator
) -> None:
    target.faults.add(Reject(RejectReason.COMMAND_NOT_SUPPORTED), opcode="nop-out", nth=2)
    raw.ping(b"before")
    rejected = raw.ping(b"rejected")
    raw.ping(b"behind")
    before, reject, behind = answered(raw, b"before"), raw.receive(), answered(raw, b"behind")
    assert isinstance(reject, RejectPdu)
    assert reject.reason == RejectReason.COMMAND_NOT_SUPPORTED
    assert int.from_bytes(reject.data[16:20], "big") == rejected.initiator_task_tag
    assert (reject.stat_sn, behind.stat_sn) == (before.stat_sn + 1, before.stat_sn + 2)
    assert reject.exp_cmd_sn == rejected.cmd_sn + 1


def test_our_initiator_reports_a_rejected_command(target: RunningTarget, session) -> None:
    target.faults.add(Reject(RejectReason.PROTOCOL_ERROR), opcode="scsi-command", command="read", nth=1)

    async def use(initiator: Initiator) -> None:
        with pytest.raises(TaskAborted, match="reason 0x04"):
            await initiator.execute(0, bytes((0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0)), data_in_length=512)
        assert len(await initiator.read(0, 0, 1)) == 512

    session(use)


def test_a_scsi_event_carries_sense_data_and_the_lun_of_the_command(
    target: RunningTarget, raw: RawInitiator
) -> None:
    target.faults.add(Async(AsyncEvent.SCSI_EVENT, asc=0x2A, ascq=0x09), opcode="scsi-command", nth=1)
    raw.command(bytes(6), lun=bytes((0, 1)) + bytes(6))
    pdus = [raw.receive(), raw.receive()]
    (message,) = [pdu for pdu in pdus if isinstance(pdu, AsyncMessage)]
    assert message.async_event == AsyncEvent.SCSI_EVENT
    assert message.lun[1] == 1
    assert (message.data[4], message.data[14], message.data[15]) == (0x06, 0x2A, 0x09)
    stat_sns = [pdu.stat_sn for pdu in pdus]
    assert stat_sns[1] == stat_sns[0] + 1


@pytest.mark.parametrize(
    "event", [AsyncEvent.LOGOUT_REQUESTED, AsyncEvent.NEGOTIATION_REQUESTED, AsyncEvent.VENDOR_SPECIFIC]
)
def test_an_async_message_leaves_the_session_alive(
    target: RunningTarget, raw: RawInitiator, event: AsyncEvent
) -> None:
    target.faults.add(Async(event, parameters=(1, 2, 3)), opcode="nop-in", nth=1)
    raw.ping()
    nop = answered(raw)
    message = raw.receive()
    assert isinstance(message, AsyncMessage)
    assert (message.async_event, message.stat_sn) == (event, nop.stat_sn + 1)
    assert (message.parameter_1, message.parameter_2, message.parameter_3) == (1, 2, 3)
    raw.ping()
    answered(raw)


@pytest.mark.parametrize("event", [AsyncEvent.CONNECTION_DROPPED, AsyncEvent.SESSION_DROPPED])
def test_what_an_async_message_says_is_dropped_is_dropped(
    target: RunningTarget, raw: RawInitiator, event: AsyncEvent
) -> None:
    target.faults.add(Async(event), opcode="nop-out", nth=1)
    raw.ping()
    pdus = []
    with pytest.raises(ConnectionOver) as over:
        while True:
            pdus.append(raw.receive())
    assert not over.value.reset
    message = pdus[-1]
    assert isinstance(message, AsyncMessage)
    assert (message.async_event, message.parameter_2, message.parameter_3) == (event, 2, 20)


def test_terminated_tasks_are_never_answered(target: RunningTarget, raw: RawInitiator) -> None:
    raw.write(bytes(512), immediate_data=False)
    r2t = raw.receive()
    assert isinstance(r2t, R2T)
    target.faults.add(Async(AsyncEvent.TASKS_TERMINATED), opcode="nop-in", nth=1)
    raw.ping()
    answered(raw)
    message = raw.receive()
    assert isinstance(message, AsyncMessage)
    raw.send(
        DataOut(
            final=True,
            initiator_task_tag=raw.tag - 1,
            target_transfer_tag=r2t.target_transfer_tag,
            exp_stat_sn=0,
            data_sn=0,
            buffer_offset=0,
            data=bytes(512),
        )
    )
    raw.ping(b"alive")
    while not isinstance(pdu := raw.receive(), NopIn):
        assert not isinstance(pdu, ScsiResponse)


@pytest.mark.parametrize(("how", "reset"), [("close", False), ("reset", True)])
def test_a_connection_ends_where_a_request_comes(
    target: RunningTarget, raw: RawInitiator, how, reset: bool
) -> None:
    rule = target.faults.add(Close(how), opcode="nop-out", nth=1)
    raw.ping()
    with pytest.raises(ConnectionOver) as over:
        raw.receive()
    assert over.value.reset is reset
    assert target.log.count(opcode="nop-in") == 0
    assert rule.fired == 1
    target.log.wait_for(opcode="nop-out")
    while target.sessions():
        time.sleep(0.01)


def test_a_close_is_no_reset_although_more_is_on_its_way(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Close("close"), opcode="nop-out", nth=2)
    pings = [
        NopOut(
            immediate=True, initiator_task_tag=60 + number, cmd_sn=raw.cmd_sn, exp_stat_sn=0, data=b"p" * 4000
        )
        for number in range(50)
    ]
    raw.socket.sendall(b"".join(encode_pdu(ping) for ping in pings))
    with pytest.raises(ConnectionOver) as over:
        for _ in range(2):  # the first may have been answered before the second came
            raw.receive()
    assert not over.value.reset
    assert target.log.count(opcode="nop-out") == 2


def test_a_connection_ends_behind_the_answer(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Close("close", pass_first=True), opcode="nop-in", nth=1)
    raw.ping(b"last words")
    answered(raw, b"last words")
    with pytest.raises(ConnectionOver):
        raw.receive()


def test_a_half_closed_connection_still_serves_what_comes(target: RunningTarget, raw: RawInitiator) -> None:
    target.faults.add(Close("half-close", pass_first=True), opcode="nop-in", nth=1)
    raw.ping(b"last words")
    answered(raw, b"last words")
    with pytest.raises(ConnectionOver) as over:
        raw.receive()
    assert not over.value.reset
    raw.write(b"w" * 512)
    target.log.wait_for(opcode="scsi-command", command="write")
    with RawInitiator(target.host, target.port, target.iqn) as other:
        other.clear_attention()
        other.read(blocks=1)
        pdu = other.receive()
        assert isinstance(pdu, DataIn)
        assert pdu.data == b"w" * 512


def test_our_initiator_makes_a_reset_connection_anew_at_recovery_level_2(
    target: RunningTarget, session
) -> None:
    rule = target.faults.add(Close("reset"), opcode="data-in", command="read", nth=1)

    async def use(initiator: Initiator) -> None:
        await initiator.write(0, 0, b"k" * 4096)
        assert bytes(await initiator.read(0, 0, 8)) == b"k" * 4096

    session(use, parameters=Parameters(error_recovery_level=2, default_time2wait=0))
    assert rule.fired == 1


def test_our_initiator_says_that_the_connection_is_lost_at_recovery_level_0(
    target: RunningTarget, session
) -> None:
    target.faults.add(Close("reset"), opcode="scsi-command", command="read", nth=1)

    async def use(initiator: Initiator) -> None:
        with pytest.raises(ConnectionLost):
            await initiator.read(0, 0, 8)

    session(use)


@pytest.mark.parametrize("permanent", [False, True])
def test_a_login_is_sent_elsewhere(target: RunningTarget, permanent: bool) -> None:
    target.faults.add(Redirect("10.9.8.7:3260,1", permanent))
    with RawInitiator(target.host, target.port, target.iqn, log_in=False) as raw:
        answer = raw.login()
        assert isinstance(answer, LoginResponse)
        assert (answer.status_class, answer.status_detail) == (1, 2 if permanent else 1)
        assert answer.data == b"TargetAddress=10.9.8.7:3260,1\0"
        with pytest.raises(ConnectionOver):
            raw.receive()
    assert target.sessions() == []


def test_only_the_initiators_that_a_rule_names_are_sent_elsewhere(target: RunningTarget) -> None:
    import asyncio

    target.faults.add(Redirect("127.0.0.1:1,1"), initiator="iqn.*:raw")

    async def other() -> None:
        session = await Initiator.login(target.host, target.port, target.iqn)
        await session.logout()

    asyncio.run(other())
    with RawInitiator(target.host, target.port, target.iqn, log_in=False) as raw:
        assert raw.login().status_class == 1  # type: ignore[union-attr]


def test_a_login_may_fail_by_a_forged_status(target: RunningTarget) -> None:
    import asyncio

    target.faults.add(Renumber("status_class", value=3), opcode="login-response")

    async def log_in() -> None:
        with pytest.raises(LoginFailed):
            await Initiator.login(target.host, target.port, target.iqn)

    asyncio.run(log_in())


def test_rules_change_between_two_pdus_of_a_running_connection(
    target: RunningTarget, raw: RawInitiator
) -> None:
    for expected in (b"x", b"xy", b"x", b"xy"):
        raw.ping(b"xy")
        answered(raw, b"xy")
        with target.faults.add(Truncate(1), opcode="nop-in"):
            raw.ping(b"xy")
            answered(raw, b"x")
        assert expected


def test_watching_may_begin_in_the_midst_of_a_connection_that_passed_uncut() -> None:
    """Without log, rules and captures the bytes pass as they come; the boundaries are known all the same."""
    with (
        serve("4MiB", log_limit=None) as target,
        RawInitiator(target.host, target.port, target.iqn, **DIGESTS) as raw,
    ):
        assert not target.instruments.watching
        raw.clear_attention()
        for size in (0, 1, 4, 4096, 70_000):
            raw.ping(b"s" * size)
            raw.frame()
        rule = target.faults.add(Truncate(2), opcode="nop-in")
        raw.ping(b"abc")
        assert bytes(raw.frame().data) == b"ab"
        assert rule.fired == 1
        rule.remove()
        raw.ping(b"abc")
        assert bytes(raw.frame().data) == b"abc"


def test_watching_may_begin_while_half_a_pdu_has_passed() -> None:
    with (
        serve("4MiB", log_limit=None) as target,
        RawInitiator(target.host, target.port, target.iqn) as raw,
    ):
        whole = encode_pdu(
            NopOut(immediate=True, initiator_task_tag=50, cmd_sn=1, exp_stat_sn=0, data=b"\x01" * 96)
        )
        wire = target.instruments.connections[1]
        for part in (20, 100):  # within the header, and within the data
            raw.socket.sendall(whole[:part])
            while target.call(lambda: wire._in.between_pdus):
                time.sleep(0.01)
            rule = target.faults.add(Truncate(2), opcode="nop-out")
            raw.socket.sendall(whole[part:])
            assert answered(raw).data == b"\x01" * 96
            raw.ping(b"abc", immediate=True)
            assert answered(raw).data == b"ab"
            assert rule.fired == 1
            rule.remove()


def test_the_same_seed_replays_the_same_faults() -> None:
    def run(seed: int) -> list[bytes]:
        with serve("4MiB", seed=seed) as target:
            target.faults.add(Corrupt(Part.DATA, random_bits=2), opcode="nop-in", probability=0.4, name="a")
            target.faults.add(Drop(), opcode="nop-in", probability=0.2, name="b")
            with RawInitiator(target.host, target.port, target.iqn) as raw:
                for _ in range(40):
                    raw.ping(b"12345678")
                raw.ping(b"end", immediate=True)
                seen = []
                target.log.wait_for(41, opcode="nop-in")
                for record in target.log.records(opcode="nop-in", on_wire=True):
                    seen.append(bytes(raw.frame().data) + bytes(str(record.rules), "ascii"))
                return seen

    first, again, other = run(1), run(1), run(2)
    assert first == again
    assert first != other
    assert any(a != b for a, b in pairwise(first))


def test_rules_that_fire_on_one_pdu_are_all_done_in_order(target: RunningTarget, raw: RawInitiator) -> None:
    first = target.faults.add(Truncate(4), opcode="nop-in", name="cut")
    second = target.faults.add(Renumber("stat_sn", value=9), opcode="nop-in", name="number")
    third = target.faults.add(Duplicate(), opcode="nop-in", name="twice")
    raw.ping(b"12345678")
    one, two = answered(raw, b"1234"), answered(raw, b"1234")
    assert one == two
    assert one.stat_sn == 9
    assert (first.fired, second.fired, third.fired) == (1, 1, 1)
    logged = target.log.records(opcode="nop-in")
    assert [record.rules for record in logged] == [("cut", "number", "twice")] * 2
    assert logged[0].fate == "cut to 4 B of data, stat_sn changed, duplicated"
    assert logged[0].field("stat_sn") == 9


def test_what_a_rule_left_no_header_of_is_left_alone_by_the_next(
    target: RunningTarget, raw: RawInitiator
) -> None:
    target.faults.add(Truncate(0, adjust=False), opcode="nop-in", nth=1)
    target.faults.add(Renumber("stat_sn", value=9), opcode="nop-in")
    raw.ping(b"vanishes")
    raw.ping(b"comes")
    assert answered(raw, b"comes").stat_sn == 9
    assert [record.kind for record in target.log.records(rule="truncate-1")] == ["nop-in"]


def test_a_rule_may_count_in_each_task_on_its_own(target: RunningTarget, raw: RawInitiator) -> None:
    """The second Data-In of every read comes with a wrong DataSN."""
    rule = target.faults.add(Renumber("data_sn", add=50), opcode="data-in", per="task", nth=2)
    for _ in range(2):
        raw.read(blocks=64)
        seen = []
        while True:
            pdu = raw.receive()
            assert isinstance(pdu, DataIn)
            seen.append(pdu.data_sn)
            if pdu.status_present:
                break
        assert seen == [0, 51, 2, 3]
    assert rule.fired == 2
