"""Full-feature phase at the target: the rule, the violation, and "still alive" (RFC 7143; UNH-IOL FFP list)."""

from __future__ import annotations

from typing import Any

import pytest

from iscsi_target.scsi.build import target_device
from iscsi_target.session.limits import Limits
from iscsi_target.session.parameters import Parameters
from iscsi_target.session.target_output import Phase
from iscsi_target.wire.ahs import AdditionalHeaders, encode_ahs
from iscsi_target.wire.codec import Pdu
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import RESERVED_TAG, LogoutResponseCode, RejectReason
from iscsi_target.wire.requests import (
    DataOut,
    LogoutRequest,
    NopOut,
    SnackRequest,
    TextRequest,
)
from iscsi_target.wire.responses import (
    R2T,
    AsyncMessage,
    DataIn,
    LogoutResponse,
    NopIn,
    Reject,
    ScsiResponse,
    TextResponse,
)
from iscsi_target.wire.text import decode_text, encode_text
from tests.iscsi_target.imaginary_wire import (
    BLOCK,
    HOST,
    TARGET,
    Conversation,
    RamDisk,
    make_node,
    read_16,
    run_ready,
    write_16,
)

TUR = bytes(6)


def logged_in(*keys: tuple[str, str], disk: RamDisk | None = None, **node: Any) -> Conversation:
    conversation = Conversation(make_node(disk, **node))
    conversation.log_in(*keys)
    return conversation


def sense_code(response: Pdu) -> tuple[int, int]:
    assert isinstance(response, ScsiResponse)
    sense = response.data[2:]
    return sense[2] & 0xF, sense[12] << 8 | sense[13]


# -- command numbering (sections 4.2.2.1, 4.2.2.3) --------------------------------------------------------------------


def test_the_window_opens_at_the_cmd_sn_of_the_login() -> None:
    conversation = logged_in(limits=Limits(queued_commands=32))
    (response,) = conversation.send(conversation.command(TUR, tag=1))
    assert isinstance(response, ScsiResponse)
    assert (response.exp_cmd_sn, response.max_cmd_sn) == (2, 33)


@pytest.mark.parametrize(
    "cmd_sn", [0, 0x80000000, 1 + 128, 5000], ids=["below", "far", "just above", "above"]
)
def test_a_command_outside_the_window_is_silently_ignored(cmd_sn: int) -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    assert conversation.send(conversation.command(TUR, tag=1, cmd_sn=cmd_sn)) == []
    assert disk.executed == []
    conversation.assert_alive()


def test_commands_are_delivered_in_cmd_sn_order() -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    first, second, third = (conversation.command(read_16(lba, 1), tag=lba, read=True) for lba in (1, 2, 3))
    assert conversation.send(third, second) == []
    conversation.send(first)
    assert [cdb[9] for cdb in disk.executed] == [1, 2, 3]


def test_commands_are_delivered_in_order_across_the_connections_of_the_session() -> None:
    disk = RamDisk()
    node = make_node(disk)
    one = Conversation(node)
    tsih = one.log_in(("MaxConnections", "2")).tsih
    two = Conversation(node, cid=1, tsih=tsih)
    two.log_in()
    late = two.command(read_16(2, 1), tag=2, cmd_sn=2, read=True, expected_data_transfer_length=BLOCK)
    assert two.send(late) == []
    one.send(one.command(read_16(1, 1), tag=1, cmd_sn=1, read=True, expected_data_transfer_length=BLOCK))
    answers = two.answers()
    assert [cdb[9] for cdb in disk.executed] == [1, 2]
    assert all(isinstance(pdu, DataIn) and pdu.initiator_task_tag == 2 for pdu in answers)


def test_a_duplicate_of_a_command_is_ignored() -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    second = conversation.command(TUR, tag=2, cmd_sn=2)
    conversation.send(second)
    conversation.send(second)
    assert len(conversation.send(conversation.command(TUR, tag=1, cmd_sn=1))) == 2
    assert len(disk.executed) == 2
    assert conversation.send(second) == []
    conversation.cmd_sn = 3
    conversation.assert_alive()


def test_immediate_commands_carry_and_do_not_advance_the_cmd_sn() -> None:
    conversation = logged_in()
    (response,) = conversation.send(conversation.command(TUR, tag=1, cmd_sn=1, immediate=True))
    assert isinstance(response, ScsiResponse)
    assert response.exp_cmd_sn == 1


def test_the_window_closes_while_commands_execute_and_opens_when_they_end() -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk, limits=Limits(queued_commands=2))
    commands = [conversation.command(TUR, tag=tag) for tag in (1, 2, 3)]
    assert conversation.send(*commands, execute=False) == []
    assert len(conversation.target.ready) == 2, "the third is beyond MaxCmdSN and ignored"
    answers = conversation.answers()
    assert [pdu.max_cmd_sn for pdu in answers if isinstance(pdu, ScsiResponse)] == [3, 4]


def test_too_many_immediate_commands_are_rejected() -> None:
    conversation = logged_in(limits=Limits(queued_commands=2))
    commands = [conversation.command(TUR, tag=tag, cmd_sn=1, immediate=True) for tag in (1, 2, 3)]
    (reject,) = conversation.send(*commands, execute=False)
    assert isinstance(reject, Reject)
    assert reject.reason == RejectReason.TOO_MANY_IMMEDIATE_COMMANDS
    assert len(conversation.answers()) == 2
    conversation.assert_alive()


def test_a_task_tag_in_use_is_rejected() -> None:
    conversation = logged_in()
    first, second = conversation.command(TUR, tag=1), conversation.command(TUR, tag=1)
    (reject,) = conversation.send(first, second, execute=False)
    assert isinstance(reject, Reject)
    assert reject.reason == RejectReason.TASK_IN_PROGRESS
    assert len(conversation.answers()) == 1
    conversation.assert_alive()


def test_command_numbers_wrap_to_zero() -> None:
    conversation = Conversation(make_node())
    conversation.cmd_sn = 0xFFFFFFFF
    conversation.log_in()
    (first,) = conversation.send(conversation.command(TUR, tag=1, cmd_sn=0xFFFFFFFF))
    (second,) = conversation.send(conversation.command(TUR, tag=2, cmd_sn=0))
    assert isinstance(first, ScsiResponse)
    assert isinstance(second, ScsiResponse)
    assert (first.exp_cmd_sn, second.exp_cmd_sn) == (0, 1)


# -- status numbering (section 4.2.2.2) -------------------------------------------------------------------------------


def test_stat_sn_advances_with_every_status_and_with_nothing_else() -> None:
    conversation = logged_in(("MaxRecvDataSegmentLength", "512"))
    start = 1  # the Login Response had 0
    read = conversation.command(read_16(0, 4), tag=1, read=True, expected_data_transfer_length=4 * BLOCK)
    data = conversation.send(read)
    assert [pdu.stat_sn for pdu in data if isinstance(pdu, DataIn)] == [0, 0, 0, start]
    (response,) = conversation.send(conversation.command(TUR, tag=2))
    assert isinstance(response, ScsiResponse)
    assert response.stat_sn == start + 1


# -- Data-In (section 11.7) -------------------------------------------------------------------------------------------


def test_data_in_is_cut_to_the_segment_and_burst_lengths() -> None:
    disk = RamDisk()
    disk.content[:] = bytes(range(256)) * (len(disk.content) // 256)
    conversation = logged_in(("MaxRecvDataSegmentLength", "1024"), ("MaxBurstLength", "1536"), disk=disk)
    size = 7 * BLOCK
    pdus = conversation.send(
        conversation.command(read_16(1, 7), tag=5, read=True, expected_data_transfer_length=size)
    )
    data = [pdu for pdu in pdus if isinstance(pdu, DataIn)]
    assert data == pdus
    assert [len(pdu.data) for pdu in data] == [1024, 512, 1024, 512, 512]
    assert [pdu.final for pdu in data] == [False, True, False, True, True]
    assert [pdu.data_sn for pdu in data] == [0, 1, 2, 3, 4]
    assert [pdu.buffer_offset for pdu in data] == [0, 1024, 1536, 2560, 3072]
    assert [pdu.status_present for pdu in data] == [False, False, False, False, True]
    assert b"".join(pdu.data for pdu in data) == disk.content[BLOCK : BLOCK + size]


@pytest.mark.parametrize(
    ("expected", "flags", "residual"),
    [(BLOCK, (True, False), BLOCK), (2 * BLOCK, (False, False), 0), (3 * BLOCK, (False, True), BLOCK)],
    ids=["overflow", "exact", "underflow"],
)
def test_the_residual_count_of_a_read(expected: int, flags: tuple[bool, bool], residual: int) -> None:
    conversation = logged_in()
    *_, last = conversation.send(
        conversation.command(read_16(0, 2), tag=1, read=True, expected_data_transfer_length=expected)
    )
    assert isinstance(last, DataIn)
    assert ((last.overflow, last.underflow), last.residual_count) == (flags, residual)
    assert last.buffer_offset + len(last.data) == min(expected, 2 * BLOCK)


def test_a_failed_command_has_sense_and_no_data() -> None:
    conversation = logged_in()
    command = conversation.command(read_16(1 << 40, 1), tag=1, read=True, expected_data_transfer_length=BLOCK)
    (response,) = conversation.send(command)
    assert isinstance(response, ScsiResponse)
    assert (response.status, response.underflow, response.residual_count) == (2, True, BLOCK)
    assert int.from_bytes(response.data[:2], "big") == len(response.data) - 2


# -- Data-Out (sections 4.2.5.2, 11.7, 11.8) --------------------------------------------------------------------------


def test_immediate_data_alone_can_be_all_of_a_write() -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    command = conversation.command(
        write_16(3, 2), tag=1, write=True, expected_data_transfer_length=2 * BLOCK, data=b"w" * 1024
    )
    (response,) = conversation.send(command)
    assert isinstance(response, ScsiResponse)
    assert (response.status, response.residual_count) == (0, 0)
    assert disk.content[3 * BLOCK : 5 * BLOCK] == b"w" * 1024


def test_the_rest_of_a_write_is_solicited_burst_by_burst() -> None:
    disk = RamDisk()
    conversation = logged_in(("MaxBurstLength", "1024"), ("MaxOutstandingR2T", "2"), disk=disk)
    size = 6 * BLOCK
    payload = bytes(range(256)) * (size // 256)
    command = conversation.command(
        write_16(0, 6), tag=9, write=True, expected_data_transfer_length=size, data=payload[:BLOCK]
    )
    r2ts = conversation.send(command)
    sent: list[R2T] = []
    while r2ts and isinstance(r2ts[0], R2T):
        assert len(sent) + len(r2ts) <= 3
        r2t = r2ts.pop(0)
        assert isinstance(r2t, R2T)
        sent.append(r2t)
        offset, length = r2t.buffer_offset, r2t.desired_data_transfer_length
        half = length // 2
        r2ts += conversation.send(
            _data_out(9, r2t.target_transfer_tag, 0, offset, payload[offset : offset + half], final=False),
            _data_out(9, r2t.target_transfer_tag, 1, offset + half, payload[offset + half : offset + length]),
        )
    assert [(r2t.buffer_offset, r2t.desired_data_transfer_length, r2t.r2t_sn) for r2t in sent] == [
        (512, 1024, 0),
        (1536, 1024, 1),
        (2560, 512, 2),
    ]
    (response,) = r2ts
    assert isinstance(response, ScsiResponse)
    assert response.status == 0
    assert disk.content[:size] == payload


def _data_out(tag: int, ttt: int, data_sn: int, offset: int, data: bytes, *, final: bool = True) -> DataOut:
    return DataOut(
        final=final,
        lun=lun_to_bytes(0),
        initiator_task_tag=tag,
        target_transfer_tag=ttt,
        exp_stat_sn=0,
        data_sn=data_sn,
        buffer_offset=offset,
        data=data,
    )


def test_unsolicited_data_follow_the_command_when_that_was_agreed() -> None:
    disk = RamDisk()
    conversation = logged_in(("InitialR2T", "No"), ("FirstBurstLength", "2048"), disk=disk)
    size = 8 * BLOCK
    payload = bytes(reversed(range(256))) * (size // 256)
    command = conversation.command(
        write_16(0, 8), tag=1, write=True, final=False, expected_data_transfer_length=size, data=payload[:512]
    )
    (r2t,) = conversation.send(
        command,
        _data_out(1, RESERVED_TAG, 0, 512, payload[512:1024], final=False),
        _data_out(1, RESERVED_TAG, 1, 1024, payload[1024:2048]),
    )
    assert isinstance(r2t, R2T)
    assert (r2t.buffer_offset, r2t.desired_data_transfer_length) == (2048, 2048)
    (response,) = conversation.send(_data_out(1, r2t.target_transfer_tag, 0, 2048, payload[2048:]))
    assert isinstance(response, ScsiResponse)
    assert disk.content[:size] == payload


def _open_write(conversation: Conversation, **fields: Any) -> list[Pdu]:
    return conversation.send(
        conversation.command(
            write_16(0, 4), tag=1, write=True, expected_data_transfer_length=4 * BLOCK, **fields
        )
    )


@pytest.mark.parametrize(
    "violation",
    [
        {"data_sn": 1},
        {"offset": BLOCK},
        {"data": bytes(5 * BLOCK)},
        {"data": bytes(BLOCK)},
        {"data": bytes(4 * BLOCK), "final": False},
    ],
    ids=["wrong DataSN", "wrong offset", "too much", "final too early", "no final"],
)
def test_a_wrong_solicited_sequence_fails_the_task_only(violation: dict[str, Any]) -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    (r2t,) = _open_write(conversation)
    assert isinstance(r2t, R2T)
    fields: dict[str, Any] = {"data_sn": 0, "offset": 0, "data": bytes(4 * BLOCK)} | violation
    (response,) = conversation.send(_data_out(1, r2t.target_transfer_tag, **fields))
    assert sense_code(response) == (0x0B, 0x0C0D)
    assert disk.executed == []
    conversation.assert_alive()


def test_data_with_a_transfer_tag_that_no_r2t_gave_is_rejected() -> None:
    conversation = logged_in()
    (r2t,) = _open_write(conversation)
    assert isinstance(r2t, R2T)
    (reject,) = conversation.send(_data_out(1, r2t.target_transfer_tag + 1, 0, 0, bytes(4 * BLOCK)))
    assert isinstance(reject, Reject)
    assert reject.reason == RejectReason.PROTOCOL_ERROR
    conversation.assert_alive()


def test_data_on_another_connection_than_its_command_are_rejected() -> None:
    node = make_node()
    one = Conversation(node)
    tsih = one.log_in(("MaxConnections", "2")).tsih
    two = Conversation(node, cid=1, tsih=tsih)
    two.log_in()
    (r2t,) = _open_write(one)
    assert isinstance(r2t, R2T)
    (reject,) = two.send(_data_out(1, r2t.target_transfer_tag, 0, 0, bytes(4 * BLOCK)))
    assert isinstance(reject, Reject)
    one.assert_alive()
    two.cmd_sn = one.cmd_sn
    two.assert_alive()


@pytest.mark.parametrize(
    ("keys", "fields"),
    [
        ([("ImmediateData", "No")], {"data": bytes(BLOCK)}),
        ([("InitialR2T", "Yes")], {"final": False}),
    ],
    ids=["immediate data", "unsolicited Data-Out"],
)
def test_unsolicited_data_that_was_not_agreed_fail_the_task(
    keys: list[tuple[str, str]], fields: dict[str, Any]
) -> None:
    conversation = logged_in(*keys)
    (response,) = _open_write(conversation, **fields)
    assert sense_code(response) == (0x0B, 0x0C0C)
    conversation.assert_alive()


def test_more_immediate_data_than_the_first_burst_fail_the_task() -> None:
    conversation = logged_in(("FirstBurstLength", "512"), ("InitialR2T", "No"))
    (response,) = _open_write(conversation, data=bytes(1024))
    assert sense_code(response) == (0x0B, 0x0C0D)
    conversation.assert_alive()


def test_data_for_a_task_that_is_not_there_are_ignored() -> None:
    conversation = logged_in()
    assert conversation.send(_data_out(77, 3, 0, 0, bytes(BLOCK))) == []
    conversation.assert_alive()


@pytest.mark.parametrize(
    ("expected", "flags", "residual"),
    [(BLOCK, (True, False), BLOCK), (3 * BLOCK, (False, True), BLOCK)],
    ids=["overflow", "underflow"],
)
def test_the_residual_count_of_a_write(expected: int, flags: tuple[bool, bool], residual: int) -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    command = conversation.command(
        write_16(0, 2), tag=1, write=True, expected_data_transfer_length=expected, data=b"d" * expected
    )
    (response,) = conversation.send(command)
    assert isinstance(response, ScsiResponse)
    assert ((response.overflow, response.underflow), response.residual_count) == (flags, residual)
    assert disk.content.count(b"d") == min(expected, 2 * BLOCK)


@pytest.mark.parametrize(
    ("write", "data", "flags", "residual"),
    [
        (True, bytes(256), (True, False), 256),
        (True, bytes(1024), (False, True), 512),
        (False, b"", (True, False), 512),
    ],
    ids=["half a block", "two blocks", "no data announced"],
)
def test_the_residual_count_of_a_write_same_that_is_refused(
    write: bool, data: bytes, flags: tuple[bool, bool], residual: int
) -> None:
    """It wants one block, whatever was announced (section 11.4.5.2), and fails for want of it."""
    device = target_device(TARGET, ["1MiB"])
    conversation = logged_in(disk=device)  # type: ignore[arg-type]
    conversation.send(conversation.command(bytes(6), tag=1))  # takes the unit attention
    cdb = bytes((0x93, 0)) + (8).to_bytes(8, "big") + (4).to_bytes(4, "big") + bytes(2)
    (response,) = conversation.send(
        conversation.command(cdb, tag=2, write=write, expected_data_transfer_length=len(data), data=data)
    )
    device.close()
    assert isinstance(response, ScsiResponse)
    assert response.status == 2
    assert ((response.overflow, response.underflow), response.residual_count) == (flags, residual)


def test_a_command_that_wants_no_data_executes_without_soliciting_any() -> None:
    conversation = logged_in()
    command = conversation.command(b"\xc1", tag=1, write=True, expected_data_transfer_length=1 << 30)
    (response,) = conversation.send(command)
    assert isinstance(response, ScsiResponse)
    assert (response.status, response.underflow, response.residual_count) == (2, True, 1 << 30)


def test_a_transfer_beyond_the_limit_is_refused_without_holding_memory() -> None:
    conversation = logged_in(limits=Limits(transfer_bytes=4096))
    command = conversation.command(
        write_16(0, 16), tag=1, write=True, expected_data_transfer_length=16 * BLOCK
    )
    (response,) = conversation.send(command)
    assert isinstance(response, ScsiResponse)
    assert response.status == 0x28
    conversation.assert_alive()


def test_solicited_data_are_bounded_and_every_write_gets_its_turn() -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk, limits=Limits(solicited_bytes=5 * BLOCK))
    commands = [
        conversation.command(
            write_16(4 * tag, 4), tag=tag, write=True, expected_data_transfer_length=4 * BLOCK
        )
        for tag in (1, 2, 3)
    ]
    pdus = conversation.send(*commands)
    for tag in (1, 2, 3):
        (r2t,) = [pdu for pdu in pdus if isinstance(pdu, R2T)]
        assert r2t.initiator_task_tag == tag
        pdus = conversation.send(_data_out(tag, r2t.target_transfer_tag, 0, 0, bytes((tag,)) * 4 * BLOCK))
    assert len(disk.executed) == 3


# -- NOP, text, logout, other (sections 11.10, 11.11, 11.14, 11.15, 11.17, 11.18, 11.19) ------------------------------


@pytest.mark.parametrize("immediate", [False, True])
def test_a_ping_is_echoed(immediate: bool) -> None:
    conversation = logged_in()
    cmd_sn = conversation.cmd_sn if immediate else conversation.next_cmd_sn()
    (answer,) = conversation.send(
        NopOut(immediate=immediate, initiator_task_tag=4, cmd_sn=cmd_sn, exp_stat_sn=0, data=b"echo")
    )
    assert isinstance(answer, NopIn)
    assert (answer.data, answer.initiator_task_tag, answer.target_transfer_tag) == (b"echo", 4, RESERVED_TAG)
    assert answer.exp_cmd_sn == (1 if immediate else 2)


def test_an_echo_is_cut_to_what_the_initiator_can_take() -> None:
    conversation = logged_in(("MaxRecvDataSegmentLength", "512"))
    (answer,) = conversation.send(
        NopOut(immediate=True, initiator_task_tag=4, cmd_sn=1, exp_stat_sn=0, data=bytes(2000))
    )
    assert isinstance(answer, NopIn)
    assert len(answer.data) == 512


def test_a_nop_out_without_a_task_tag_is_not_answered() -> None:
    conversation = logged_in()
    assert conversation.send(NopOut(immediate=True, cmd_sn=1, exp_stat_sn=5)) == []
    conversation.assert_alive()


def test_silence_is_answered_by_a_ping_and_more_silence_by_the_end() -> None:
    conversation = logged_in(limits=Limits(idle_ping_ns=100, ping_timeout_ns=50))
    conversation.target.handle_timer(100)
    (ping,) = conversation.answers()
    assert isinstance(ping, NopIn)
    assert (ping.initiator_task_tag, ping.target_transfer_tag != RESERVED_TAG) == (RESERVED_TAG, True)
    conversation.target.handle_timer(149)
    assert not conversation.target.closing
    conversation.target.handle_timer(150)
    assert conversation.target.closing


def test_an_answer_to_the_ping_keeps_the_connection() -> None:
    conversation = logged_in(limits=Limits(idle_ping_ns=100, ping_timeout_ns=50))
    conversation.target.handle_timer(100)
    (ping,) = conversation.answers()
    assert isinstance(ping, NopIn)
    conversation.now_ns = 120
    conversation.send(
        NopOut(immediate=True, target_transfer_tag=ping.target_transfer_tag, cmd_sn=1, exp_stat_sn=0)
    )
    conversation.target.handle_timer(150)
    assert not conversation.target.closing


def text(conversation: Conversation, data: bytes, **fields: Any) -> list[Pdu]:
    values: dict[str, Any] = {
        "initiator_task_tag": 3,
        "cmd_sn": conversation.next_cmd_sn(),
        "exp_stat_sn": 0,
        "data": data,
    }
    return conversation.send(TextRequest(**(values | fields)))


def test_send_targets_all_names_every_target_that_this_initiator_may_use() -> None:
    node = make_node()
    conversation = Conversation(node)
    conversation.log_in_for_discovery()
    (answer,) = text(conversation, encode_text([("SendTargets", "All")]))
    assert isinstance(answer, TextResponse)
    assert decode_text(answer.data) == [("TargetName", TARGET), ("TargetAddress", "192.0.2.1:3260,1")]
    assert (answer.final, answer.target_transfer_tag) == (True, RESERVED_TAG)


def test_send_targets_tells_nothing_of_a_target_that_this_initiator_may_not_use() -> None:
    conversation = Conversation(make_node(allowed_initiators=frozenset()))
    conversation.log_in_for_discovery()
    (answer,) = text(conversation, encode_text([("SendTargets", "All")]))
    assert isinstance(answer, TextResponse)
    assert answer.data == b""


@pytest.mark.parametrize("value", ["", TARGET])
def test_send_targets_in_a_normal_session_names_its_target(value: str) -> None:
    conversation = logged_in()
    (answer,) = text(conversation, encode_text([("SendTargets", value)]))
    assert isinstance(answer, TextResponse)
    assert ("TargetName", TARGET) in decode_text(answer.data)


def test_send_targets_all_in_a_normal_session_is_rejected() -> None:
    conversation = logged_in()
    (reject,) = text(conversation, encode_text([("SendTargets", "All")]))
    assert isinstance(reject, Reject)
    assert reject.data[:1] == b"\x04"
    conversation.assert_alive()


def test_a_long_answer_comes_in_pieces_that_the_initiator_fetches() -> None:
    conversation = Conversation(make_node())
    conversation.send(
        conversation.login_request(
            [("InitiatorName", HOST), ("SessionType", "Discovery"), ("MaxRecvDataSegmentLength", "512")]
        )
    )
    keys = encode_text([(f"X-{number:03}", "v") for number in range(60)])
    (part,) = text(conversation, keys)
    whole = b""
    for _ in range(10):
        assert isinstance(part, TextResponse)
        whole += part.data
        assert len(part.data) <= 512
        if part.final:
            break
        assert part.continue_
        (part,) = text(conversation, b"", target_transfer_tag=part.target_transfer_tag)
    assert decode_text(whole) == [(f"X-{number:03}", "NotUnderstood") for number in range(60)]


def test_a_continued_text_is_answered_when_it_is_whole() -> None:
    conversation = logged_in()
    whole = encode_text([("SendTargets", TARGET)])
    (answer,) = text(conversation, whole[:7], final=False, continue_=True)
    assert isinstance(answer, TextResponse)
    assert (answer.data, answer.final) == (b"", False)
    (answer,) = text(conversation, whole[7:], target_transfer_tag=answer.target_transfer_tag)
    assert isinstance(answer, TextResponse)
    assert answer.final
    assert ("TargetName", TARGET) in decode_text(answer.data)


@pytest.mark.parametrize("fields", [{"continue_": True}, {"target_transfer_tag": 99}, {"data": b"rubbish"}])
def test_a_text_request_that_breaks_the_rules_is_rejected(fields: dict[str, Any]) -> None:
    conversation = logged_in()
    (reject,) = text(conversation, **({"data": encode_text([("SendTargets", "")])} | fields))
    assert isinstance(reject, Reject)
    conversation.assert_alive()


def test_the_segment_length_can_be_declared_anew() -> None:
    conversation = logged_in()
    text(conversation, encode_text([("MaxRecvDataSegmentLength", "512")]))
    data = conversation.send(
        conversation.command(read_16(0, 2), tag=8, read=True, expected_data_transfer_length=2 * BLOCK)
    )
    assert [len(pdu.data) for pdu in data] == [512, 512]


def test_scsi_commands_have_no_place_in_a_discovery_session() -> None:
    conversation = Conversation(make_node())
    conversation.log_in_for_discovery()
    (reject,) = conversation.send(conversation.command(TUR, tag=1))
    assert isinstance(reject, Reject)
    conversation.assert_alive()


def logout(conversation: Conversation, reason: int, cid: int = 0) -> Pdu:
    (answer,) = conversation.send(
        LogoutRequest(
            reason=reason, cid=cid, initiator_task_tag=6, cmd_sn=conversation.next_cmd_sn(), exp_stat_sn=0
        )
    )
    return answer


def test_a_logout_ends_the_session() -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    answer = logout(conversation, 0)
    assert isinstance(answer, LogoutResponse)
    assert answer.response == LogoutResponseCode.SUCCESS
    assert conversation.target.closing
    assert not conversation.node.sessions
    assert len(disk.lost) == 1


def test_a_logout_of_one_connection_leaves_the_others() -> None:
    node = make_node()
    one = Conversation(node)
    tsih = one.log_in(("MaxConnections", "2")).tsih
    two = Conversation(node, cid=1, tsih=tsih)
    two.log_in()
    logout(one, 1, cid=1)
    assert two.target.closing
    assert list(node.sessions[tsih].connections) == [0]
    one.assert_alive()


def test_a_logout_of_an_unknown_connection_is_answered_so() -> None:
    conversation = logged_in()
    answer = logout(conversation, 1, cid=9)
    assert isinstance(answer, LogoutResponse)
    assert answer.response == LogoutResponseCode.CID_NOT_FOUND
    conversation.assert_alive()


def test_recovery_is_refused_at_error_recovery_level_0() -> None:
    conversation = logged_in()
    answer = logout(conversation, 2)
    assert isinstance(answer, LogoutResponse)
    assert answer.response == LogoutResponseCode.RECOVERY_NOT_SUPPORTED
    conversation.assert_alive()


def test_an_unknown_logout_reason_is_rejected() -> None:
    conversation = logged_in()
    reject = logout(conversation, 9)
    assert isinstance(reject, Reject)
    assert reject.reason == RejectReason.INVALID_PDU_FIELD
    conversation.assert_alive()


@pytest.mark.parametrize("opcode", [0x07, 0x1C, 0x20, 0x31, 0x3F])
def test_an_opcode_that_is_no_request_is_rejected(opcode: int) -> None:
    conversation = logged_in()
    header = bytes((opcode | 0x40, 0x80)).ljust(48, b"\0")
    (reject,) = conversation.send_bytes(header)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.data) == (RejectReason.COMMAND_NOT_SUPPORTED, header)
    conversation.assert_alive()


def test_a_snack_is_rejected_at_error_recovery_level_0() -> None:
    conversation = logged_in()
    (reject,) = conversation.send(
        SnackRequest(type_=1, initiator_task_tag=RESERVED_TAG, exp_stat_sn=0, beg_run=0, run_length=0)
    )
    assert isinstance(reject, Reject)
    assert reject.reason == RejectReason.SNACK_REJECT
    conversation.assert_alive()


def test_a_login_in_full_feature_phase_ends_the_connection() -> None:
    conversation = logged_in()
    (reject,) = conversation.send(conversation.login_request([]))
    assert isinstance(reject, Reject)
    assert conversation.target.phase is Phase.CLOSING


def test_a_data_segment_beyond_the_declared_length_ends_the_connection() -> None:
    conversation = logged_in(
        parameters=Parameters(max_recv_data_segment_length=1024, first_burst_length=1024)
    )
    conversation.send(NopOut(immediate=True, initiator_task_tag=1, cmd_sn=1, exp_stat_sn=0, data=bytes(8193)))
    assert conversation.target.closing


def test_an_extended_cdb_reaches_the_device_server_whole() -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    more = bytes(range(16, 32))
    conversation.send(conversation.command(b"\x7f", tag=1, ahs=encode_ahs(AdditionalHeaders(more))))
    assert disk.executed == [b"\x7f".ljust(16, b"\0") + more]


def test_broken_additional_headers_are_rejected() -> None:
    conversation = logged_in()
    (reject,) = conversation.send(conversation.command(b"\x7f", tag=1, ahs=bytes.fromhex("00ff0100")))
    assert isinstance(reject, Reject)
    assert reject.reason == RejectReason.INVALID_PDU_FIELD
    conversation.assert_alive()


def test_a_lost_connection_ends_its_session_and_its_tasks() -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    conversation.send(conversation.command(TUR, tag=1), execute=False)
    conversation.target.eof()
    assert not conversation.node.sessions
    assert len(disk.lost) == 1
    run_ready(conversation.target)
    assert disk.executed == []


# -- asynchronous messages (section 11.9) -----------------------------------------------------------------------------


def test_the_target_can_ask_for_a_logout() -> None:
    conversation = logged_in()
    assert conversation.node.request_logout(conversation.tsih, 7)
    (message,) = conversation.answers()
    assert isinstance(message, AsyncMessage)
    assert (message.async_event, message.parameter_3, message.stat_sn) == (1, 7, 1)
    assert not conversation.node.request_logout(999, 7)
    conversation.assert_alive()


def test_a_scsi_event_carries_its_sense_data_to_every_session() -> None:
    node = make_node()
    one, two = Conversation(node), Conversation(node, isid=bytes(6))
    one.log_in()
    two.log_in()
    sense = bytes(range(18))
    assert node.report_scsi_event(node.targets[TARGET], 3, sense) == 2
    for conversation in (one, two):
        (message,) = conversation.answers()
        assert isinstance(message, AsyncMessage)
        assert (message.async_event, message.lun, message.data) == (0, lun_to_bytes(3), b"\0\x12" + sense)
