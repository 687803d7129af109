"""UNH-IOL full feature phase for targets, chapters 12 to 14: SNACK, logout, reject."""

from __future__ import annotations

import pytest

from iscsi_target.wire.codec import encode_pdu
from iscsi_target.wire.opcodes import LogoutReason, LogoutResponseCode, RejectReason, SnackType
from iscsi_target.wire.responses import R2T, DataIn, LogoutResponse, Reject, ScsiResponse
from tests.iscsi_target.rules.raw_initiator import BLOCK, TEST_UNIT_READY
from tests.iscsi_target.rules.real_target import RealTarget


@pytest.mark.parametrize(
    "kind", [SnackType.DATA_OR_R2T, SnackType.STATUS, SnackType.DATA_ACK, SnackType.R_DATA]
)
def test_a_snack_at_level_0_is_rejected(target: RealTarget, kind: SnackType) -> None:
    """At error recovery level 0 there is nothing to be sent again: a SNACK is rejected, the session goes on.

    UNH-IOL FFP 12.1
    RFC 7143 11.16, 11.17.1
    """
    peer = target.log_in(ErrorRecoveryLevel="0")
    peer.send(peer.snack(kind))
    peer.expect(Reject, reason=RejectReason.SNACK_REJECT)
    peer.assert_alive()


def test_a_data_snack_brings_the_run_again(target: RealTarget) -> None:
    """A Data SNACK brings exactly the Data-In asked for, with the same DataSN, offset and data.

    UNH-IOL FFP 12.2
    UNH-IOL ER 3.3
    RFC 7143 11.16.1, 11.16.6, 11.16.7
    """
    peer = target.log_in(ErrorRecoveryLevel="1", MaxRecvDataSegmentLength="512")
    read = peer.read(0, 6)
    peer.send(read)
    pdus = peer.gather(read)
    not_yet = pdus[-1].stat_sn if pdus[-1].status_present else peer.exp_stat_sn - 1
    peer.send(peer.snack(SnackType.DATA_OR_R2T, read.initiator_task_tag, 1, 3, exp_stat_sn=not_yet))
    for sent in pdus[1:4]:
        peer.expect(
            DataIn,
            initiator_task_tag=read.initiator_task_tag,
            data_sn=sent.data_sn,
            buffer_offset=sent.buffer_offset,
            data=sent.data,
        )
    peer.assert_alive()


def test_a_status_snack_brings_the_status_again(target: RealTarget) -> None:
    """A Status SNACK brings the responses of a run of StatSN again until they are acknowledged.

    UNH-IOL FFP 12.3
    UNH-IOL ER 3.5
    RFC 7143 11.16.1
    """
    peer = target.log_in(ErrorRecoveryLevel="1")
    first = peer.exp_stat_sn
    tags = []
    for _ in range(3):
        command = peer.command(TEST_UNIT_READY, exp_stat_sn=first)
        tags.append(command.initiator_task_tag)
        peer.send(command)
        peer.expect(ScsiResponse, initiator_task_tag=command.initiator_task_tag)
    peer.in_order = False
    peer.send(peer.snack(SnackType.STATUS, begin=first + 1, run=2, exp_stat_sn=first))
    peer.expect(ScsiResponse, initiator_task_tag=tags[1], stat_sn=first + 1)
    peer.expect(ScsiResponse, initiator_task_tag=tags[2], stat_sn=first + 2)
    peer.send(peer.nop(immediate=True, exp_stat_sn=first + 3))  # acknowledged: gone
    peer.receive()
    peer.send(peer.snack(SnackType.STATUS, begin=first + 1, run=2))
    peer.expect(Reject, reason=RejectReason.SNACK_REJECT)
    peer.assert_alive()


def test_a_data_ack_that_nobody_asked_for_is_rejected(target: RealTarget) -> None:
    """A DataACK whose tags no A bit gave is rejected as an invalid data ack.

    UNH-IOL FFP 12.4
    RFC 7143 11.16.2, 11.17.1
    """
    peer = target.log_in(ErrorRecoveryLevel="1")
    peer.send(peer.snack(SnackType.DATA_ACK, target_transfer_tag=0x1234, begin=1))
    peer.expect(Reject, reason=RejectReason.INVALID_DATA_ACK)
    peer.assert_alive()


def test_a_snack_for_what_was_never_sent_is_rejected(target: RealTarget) -> None:
    """A SNACK for data, R2T or status that were never sent is rejected and ends nothing.

    UNH-IOL FFP 12.2
    RFC 7143 11.16, 11.17.1
    """
    peer = target.log_in(ErrorRecoveryLevel="1", ImmediateData="No")
    write = peer.write(0, 1)
    peer.send(write)
    r2t = peer.expect(R2T)
    for snack in (
        peer.snack(SnackType.DATA_OR_R2T, write.initiator_task_tag, 5, 2),
        peer.snack(SnackType.DATA_OR_R2T, 0xDEAD, 0, 1),
        peer.snack(SnackType.STATUS, begin=peer.exp_stat_sn + 9, run=1),
        peer.snack(9),
    ):
        peer.send(snack)
        peer.expect(Reject, reason=RejectReason.SNACK_REJECT)
    peer.send(peer.data_out(r2t, bytes(BLOCK)))
    peer.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    peer.assert_alive()


def test_a_logout_of_the_session_is_answered_and_closes_it(target: RealTarget) -> None:
    """A logout that closes the session is answered with success, then every connection of the session is closed.

    UNH-IOL FFP 13.1
    RFC 7143 11.14.1, 11.15.1
    """
    one = target.log_in(MaxConnections="2")
    two = target.add_connection(one, 1)
    logout = one.logout(LogoutReason.CLOSE_SESSION)
    one.send(logout)
    one.expect(
        LogoutResponse, initiator_task_tag=logout.initiator_task_tag, response=LogoutResponseCode.SUCCESS
    )
    one.expect_closed()
    two.expect_closed()
    target.assert_serves()


def test_a_logout_of_one_connection_leaves_the_others(target: RealTarget) -> None:
    """A logout of one connection, asked for on another, closes that one; an unknown CID is answered so.

    UNH-IOL FFP 13.2
    RFC 7143 11.14.1, 11.14.3, 11.15.1
    """
    one = target.log_in(MaxConnections="2")
    two = target.add_connection(one, 1)
    one.send(one.logout(LogoutReason.CLOSE_CONNECTION, cid=77))
    one.expect(LogoutResponse, response=LogoutResponseCode.CID_NOT_FOUND)
    one.send(one.logout(LogoutReason.CLOSE_CONNECTION, cid=1))
    one.expect(LogoutResponse, response=LogoutResponseCode.SUCCESS)
    two.expect_closed()
    one.assert_alive()


def test_a_logout_for_recovery_below_level_2_is_refused(target: RealTarget) -> None:
    """ "Remove the connection for recovery" is answered "recovery not supported" below error recovery level 2.

    UNH-IOL FFP 13.3
    RFC 7143 11.14.1, 11.15.1
    """
    one = target.log_in(MaxConnections="2", ErrorRecoveryLevel="1")
    two = target.add_connection(one, 1)
    one.send(one.logout(LogoutReason.REMOVE_FOR_RECOVERY, cid=1))
    one.expect(LogoutResponse, response=LogoutResponseCode.RECOVERY_NOT_SUPPORTED)
    one.assert_alive()
    two.assert_alive()


def test_a_reject_carries_the_header_that_it_rejects(target: RealTarget) -> None:
    """A Reject has the reserved task tag and carries the complete header of the PDU that it rejects.

    UNH-IOL FFP 14.1
    RFC 7143 11.17, 11.17.4
    """
    peer = target.log_in()
    bad = peer.snack(SnackType.STATUS)
    peer.send(bad)
    assert peer.expect(Reject).data == encode_pdu(bad)[:48]
    peer.assert_alive()


def test_a_reject_bears_a_status_number_and_the_window(target: RealTarget) -> None:
    """A Reject advances StatSN and carries ExpCmdSN and MaxCmdSN; the rejected command's CmdSN counts as received.

    UNH-IOL FFP 14.2
    RFC 7143 11.17.3, 4.2.2.2
    """
    peer = target.log_in()
    before = peer.exp_stat_sn
    logout = peer.logout(reason=99)
    peer.send(logout)
    reject = peer.expect(Reject, stat_sn=before, reason=RejectReason.INVALID_PDU_FIELD)
    assert reject.exp_cmd_sn == (logout.cmd_sn + 1) & 0xFFFFFFFF
    assert (reject.max_cmd_sn - reject.exp_cmd_sn) & 0xFFFFFFFF == 127
    peer.assert_alive()


def test_a_rejected_pdu_ends_no_other_task(target: RealTarget) -> None:
    """Rejecting one PDU leaves the other tasks of the session alone.

    UNH-IOL FFP 14.3
    RFC 7143 7.3, 11.17
    """
    peer = target.log_in(ImmediateData="No")
    write = peer.write(0, 1)
    peer.send(write)
    r2t = peer.expect(R2T)
    peer.send(peer.text(("SendTargets", "All")))
    peer.expect(Reject)
    peer.send(peer.data_out(r2t, bytes(BLOCK)))
    peer.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    peer.assert_alive()
