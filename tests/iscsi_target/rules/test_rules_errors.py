"""UNH-IOL full feature phase for targets, chapters 16 and 18: residuals, unexpected PDUs, retry, digests."""

from __future__ import annotations

from typing import Any

import pytest

from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.opcodes import Opcode, RejectReason
from iscsi_target.wire.requests import ScsiCommandPdu
from iscsi_target.wire.responses import R2T, NopIn, Reject, ScsiResponse, TextResponse
from tests.iscsi_target.rules.raw_initiator import (
    BLOCK,
    INQUIRY,
    TEST_UNIT_READY,
    RawInitiator,
    pattern,
    read_10,
    write_10,
)
from tests.iscsi_target.rules.real_target import RealTarget

ABORTED = 0x0B
UNEXPECTED_UNSOLICITED, WRONG_AMOUNT, CRC_ERROR = 0x0C0C, 0x0C0D, 0x4705


@pytest.mark.parametrize("expected", [37, 255, 4096])
def test_a_command_that_moves_less_than_expected_says_underflow(target: RealTarget, expected: int) -> None:
    """A command that moves less than the Expected Data Transfer Length sets U and tells the rest.

    UNH-IOL FFP 16.1
    RFC 7143 11.4.5.1, 11.4.1
    """
    peer = target.log_in()
    done = peer.run(peer.command(INQUIRY, read=expected))
    assert (done.status, len(done.data)) == (0, 36)
    assert (done.response.underflow, done.response.overflow) == (True, False)
    assert done.response.residual_count == expected - 36
    peer.assert_alive()


@pytest.mark.parametrize("write", [False, True])
def test_a_command_that_would_move_more_than_expected_says_overflow(target: RealTarget, write: bool) -> None:
    """A command that would move more than the Expected Data Transfer Length sets O and tells by how much.

    UNH-IOL FFP 16.2
    RFC 7143 11.4.5.1, 11.4.1
    """
    peer = target.log_in()
    if write:
        done = peer.run(peer.command(write_10(0, 3), write=BLOCK), bytes(BLOCK))
    else:
        done = peer.run(peer.command(read_10(0, 3), read=BLOCK))
    assert (done.response.underflow, done.response.overflow) == (False, True)
    assert done.response.residual_count == 2 * BLOCK
    peer.assert_alive()


def test_immediate_data_that_were_not_agreed_end_the_command(target: RealTarget) -> None:
    """Immediate data with ImmediateData=No end the command with "unexpected unsolicited data".

    UNH-IOL FFP 16.3.1
    RFC 7143 11.4.7.2, 13.11
    """
    peer = target.log_in(ImmediateData="No")
    write = peer.write(0, 1, data=bytes(BLOCK))
    peer.send(write)
    peer.expect_check_condition(write, ABORTED, UNEXPECTED_UNSOLICITED)
    peer.assert_alive()


def test_unsolicited_data_that_were_not_agreed_end_the_command(target: RealTarget) -> None:
    """Unsolicited Data-Out with InitialR2T=Yes end the command with "unexpected unsolicited data".

    UNH-IOL FFP 16.3.2
    RFC 7143 11.4.7.2, 13.10
    """
    peer = target.log_in(InitialR2T="Yes", ImmediateData="No")
    write = peer.write(0, 2, final=False)
    peer.send(write, peer.data_out(write, bytes(2 * BLOCK)))
    peer.expect_check_condition(write, ABORTED, UNEXPECTED_UNSOLICITED)
    peer.assert_alive()


def test_data_out_for_no_task_are_discarded(target: RealTarget) -> None:
    """Data-Out for a task that is over, or never was, are discarded; nothing is written and the session goes on.

    UNH-IOL FFP 16.3.3
    RFC 7143 7.9, 11.7
    """
    peer = target.log_in()
    write = peer.write(0, 1, data=pattern(BLOCK))
    assert peer.run(write).status == 0
    peer.send(peer.data_out(write, bytes(BLOCK)))
    peer.send(peer.data_out(write, bytes(BLOCK), initiator_task_tag=0xDEAD))
    peer.assert_alive()
    assert peer.medium(0, 1) == pattern(BLOCK)


def test_less_unsolicited_data_than_promised_is_no_write(target: RealTarget) -> None:
    """Unsolicited data that end with F before the first burst is full: the rest is solicited, none is invented.

    UNH-IOL FFP 16.3.4
    RFC 7143 11.7.1, 11.3.1, 11.4.7.2
    """
    peer = target.log_in(InitialR2T="No", ImmediateData="No", FirstBurstLength="1024")
    data = pattern(2 * BLOCK)
    write = peer.write(0, 2, final=False)
    peer.send(write, peer.data_out(write, data[:BLOCK]))
    pdu = peer.receive()
    if isinstance(pdu, R2T):
        assert (pdu.buffer_offset, pdu.desired_data_transfer_length) == (BLOCK, BLOCK)
        peer.send(peer.data_out(pdu, data[BLOCK:]))
        peer.expect(ScsiResponse, status=0)
        assert peer.medium(0, 2) == data
    else:
        assert isinstance(pdu, ScsiResponse)
        assert pdu.data[4] & 0xF == ABORTED
        assert pdu.data[14:16] == WRONG_AMOUNT.to_bytes(2, "big")
        assert peer.medium(0, 2) == bytes(2 * BLOCK)
    peer.assert_alive()


def test_data_with_a_read_end_the_command(target: RealTarget) -> None:
    """Immediate data with a command that writes nothing end it with CHECK CONDITION.

    UNH-IOL FFP 16.3.5
    RFC 7143 11.3.6, 11.4.7.2
    """
    peer = target.log_in()
    read = peer.read(0, 1, data=bytes(64))
    peer.send(read)
    peer.expect_check_condition(read, ABORTED, UNEXPECTED_UNSOLICITED)
    peer.assert_alive()


@pytest.mark.parametrize("opcode", [0x07, 0x0F, 0x11, 0x1B, 0x1C, 0x1E])
def test_an_opcode_nobody_defined_is_rejected(target: RealTarget, opcode: int) -> None:
    """A PDU whose opcode is not defined, or is a vendor's, is rejected as a command not supported.

    UNH-IOL FFP 16.3.6
    RFC 7143 11.17.1, 11.2.1.2
    """
    peer = target.log_in()
    raw = bytes((opcode,)) + encode_pdu(peer.nop(immediate=True))[1:]
    peer.send_bytes(raw)
    assert peer.expect(Reject, reason=RejectReason.COMMAND_NOT_SUPPORTED).data == raw
    peer.assert_alive()


@pytest.mark.parametrize(
    "opcode", [Opcode.NOP_IN, Opcode.SCSI_RESPONSE, Opcode.DATA_IN, Opcode.R2T, Opcode.REJECT]
)
def test_a_pdu_that_only_targets_send_is_rejected(target: RealTarget, opcode: Opcode) -> None:
    """A PDU with a target's opcode is rejected, and the session goes on.

    UNH-IOL FFP 16.3.7
    RFC 7143 7.13, 11.17.1, 11.2.1.2
    """
    peer = target.log_in()
    peer.send_bytes(bytes((opcode, 0x80)) + bytes(46))
    peer.expect(Reject)
    peer.assert_alive()


def test_a_login_request_in_full_feature_phase_is_rejected(target: RealTarget) -> None:
    """A Login Request in full-feature phase is a protocol error: Reject, and the connection ends.

    UNH-IOL FFP 16.3.7
    RFC 7143 7.13, 4.2.4, 11.17.1
    """
    peer = target.log_in()
    peer.send(peer.login_request())
    peer.expect(Reject, reason=RejectReason.PROTOCOL_ERROR)
    peer.expect_closed()
    target.assert_serves()


def test_a_task_tag_in_use_is_rejected(target: RealTarget) -> None:
    """A command with the task tag of one that is under way is rejected as "task in progress"; the first goes on.

    UNH-IOL FFP 16.4.1
    RFC 7143 11.2.1.8, 11.17.1
    """
    peer = target.log_in(ImmediateData="No")
    write = peer.write(0, 1)
    peer.send(write)
    r2t = peer.expect(R2T)
    peer.send(peer.command(TEST_UNIT_READY, initiator_task_tag=write.initiator_task_tag))
    peer.expect(Reject, reason=RejectReason.TASK_IN_PROGRESS)
    peer.send(peer.data_out(r2t, bytes(BLOCK)))
    peer.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    peer.assert_alive()


def test_a_retry_of_a_command_under_way_is_ignored(target: RealTarget) -> None:
    """A command sent again while it is under way (same CmdSN, same task tag) is ignored and not executed twice.

    UNH-IOL FFP 16.4.2
    RFC 7143 7.2.1, 4.2.2.1
    """
    peer = target.log_in(ImmediateData="No", ErrorRecoveryLevel="1")
    write = peer.write(0, 1)
    peer.send(write)
    r2t = peer.expect(R2T, initiator_task_tag=write.initiator_task_tag)
    peer.send(write, write)
    peer.send(peer.data_out(r2t, bytes(BLOCK)))
    peer.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    peer.assert_alive()


@pytest.mark.parametrize(
    "violation",
    [
        {"data_sn": 1},
        {"buffer_offset": 4},
        {"buffer_offset": BLOCK},
        {"data": bytes(2 * BLOCK)},
        {"data": bytes(BLOCK // 2)},
    ],
    ids=["DataSN", "offset", "other half", "too long", "too short"],
)
def test_a_wrong_sequence_of_data_out_ends_the_command(target: RealTarget, violation: dict[str, Any]) -> None:
    """Data-Out with a wrong DataSN, offset or length end the command with CHECK CONDITION; nothing is written.

    UNH-IOL FFP 16.5
    RFC 7143 7.9, 7.10, 11.7.5, 11.7.6
    """
    peer = target.log_in(ImmediateData="No")
    write = peer.write(0, 1)
    peer.send(write)
    r2t = peer.expect(R2T)
    fields = {"data": pattern(BLOCK)} | violation
    peer.send(peer.data_out(r2t, **fields))
    peer.expect_check_condition(write, ABORTED, WRONG_AMOUNT)
    peer.assert_alive()
    assert peer.medium(0, 1) == bytes(BLOCK)


def test_a_data_segment_beyond_the_declared_length_ends_the_connection(target: RealTarget) -> None:
    """A data segment longer than the target's MaxRecvDataSegmentLength is a format error: the connection ends.

    UNH-IOL FFP 16.5
    RFC 7143 7.7, 11.2.1.6, 13.12
    """
    peer = target.log_in()
    limit = int(peer.keys["MaxRecvDataSegmentLength"])
    header = bytearray(encode_pdu(peer.nop(immediate=True)))
    header[5:8] = (limit + 1).to_bytes(3, "big")
    peer.send_bytes(bytes(header))
    peer.expect_closed()
    target.assert_serves()


# -- chapter 18 ---------------------------------------------------------------------------------------------------


def digests(target: RealTarget, **keys: Any) -> RawInitiator:
    return target.log_in(HeaderDigest="CRC32C", DataDigest="CRC32C", **keys)


@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_a_wrong_header_digest_ends_the_connection(target: RealTarget, level: str) -> None:
    """A PDU whose header digest is wrong is discarded; nothing after it can be trusted, so the connection ends.

    UNH-IOL FFP 18.1.1
    RFC 7143 7.8, 13.1
    """
    peer = digests(target, ErrorRecoveryLevel=level)
    peer.assert_alive()
    peer.send(peer.write(0, 1, data=pattern(BLOCK)), spoil="header")
    peer.expect_closed()
    reader = target.log_in(isid=bytes.fromhex("800000000003"))
    assert reader.medium(0, 1) == bytes(BLOCK)
    target.assert_serves()


def test_data_out_with_a_wrong_digest_are_rejected_and_end_the_command(target: RealTarget) -> None:
    """At level 0 Data-Out with a wrong data digest are rejected, and the command ends with a CRC error.

    UNH-IOL FFP 18.2.1
    RFC 7143 7.8, 11.4.7.2, 11.17.1
    """
    peer = digests(target, ImmediateData="No")
    write = peer.write(0, 1)
    peer.send(write)
    r2t = peer.expect(R2T)
    bad = peer.data_out(r2t, pattern(BLOCK))
    peer.send(bad, spoil="data")
    assert peer.expect(Reject, reason=RejectReason.DATA_DIGEST_ERROR).data == encode_pdu(bad)[:48]
    peer.expect_check_condition(write, ABORTED, CRC_ERROR)
    peer.assert_alive()
    assert peer.medium(0, 1) == bytes(BLOCK)


@pytest.mark.parametrize("kind", ["immediate data", "ping", "text"])
def test_a_request_with_a_wrong_data_digest_is_rejected_and_can_be_sent_again(
    target: RealTarget, kind: str
) -> None:
    """A command, NOP-Out or text with a wrong data digest is rejected and not taken: its CmdSN stays open.

    UNH-IOL FFP 18.2.2
    UNH-IOL ER 1.2
    RFC 7143 7.8, 11.17.1
    """
    peer = digests(target)
    requests: dict[str, Any] = {
        "immediate data": (peer.write, (0, 1), {"data": pattern(BLOCK)}, ScsiResponse),
        "ping": (peer.nop, (b"ping",), {}, NopIn),
        "text": (peer.text, (("SendTargets", ""),), {}, TextResponse),
    }
    make, arguments, fields, answer = requests[kind]
    request: ScsiCommandPdu = make(*arguments, **fields)
    peer.send(request, spoil="data")
    assert peer.expect(Reject, reason=RejectReason.DATA_DIGEST_ERROR).exp_cmd_sn == request.cmd_sn
    peer.send(request)
    peer.expect(answer, initiator_task_tag=request.initiator_task_tag)
    peer.assert_alive()


def test_a_text_in_clear_where_digests_were_agreed_ends_the_connection(target: RealTarget) -> None:
    """A PDU without the digests agreed on is not understood as one that has them.

    UNH-IOL FFP 18.1.1
    RFC 7143 13.1, 7.8
    """
    peer = digests(target)
    peer.header_digest = False
    peer.send(peer.nop(immediate=True), peer.nop(immediate=True))
    peer.expect_closed()
    target.assert_serves()
