"""UNH-IOL error recovery for targets: allegiance reassignment and SNACK, and what a lost or damaged PDU leads to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from iscsi_target.session.parameters import Parameters
from iscsi_target.wire.opcodes import (
    RESERVED_TAG,
    LogoutReason,
    LogoutResponseCode,
    RejectReason,
    SnackType,
    TaskFunction,
    TaskResponse,
)
from iscsi_target.wire.responses import (
    R2T,
    DataIn,
    LogoutResponse,
    NopIn,
    Reject,
    ScsiResponse,
    TaskManagementResponse,
)
from tests.iscsi_target.rules.raw_initiator import (
    BLOCK,
    TEST_UNIT_READY,
    RawInitiator,
    SharedSession,
    pattern,
)
from tests.iscsi_target.rules.real_target import RealTarget

LEVEL_2: dict[str, Any] = {"ErrorRecoveryLevel": "2", "MaxConnections": "2", "ImmediateData": "No"}


def pair(target: RealTarget, **keys: Any) -> tuple[RawInitiator, RawInitiator]:
    """Two connections of one session at error recovery level 2."""
    one = target.log_in(**(LEVEL_2 | keys))
    return one, target.add_connection(one, 1)


def reassign(peer: RawInitiator, tag: int, *, exp_data_sn: int = 0) -> None:
    """Take a task over to this connection; the answer is "complete"."""
    request = peer.task_management(
        TaskFunction.TASK_REASSIGN, referenced_task_tag=tag, exp_data_sn=exp_data_sn
    )
    peer.send(request)
    peer.expect(
        TaskManagementResponse,
        initiator_task_tag=request.initiator_task_tag,
        response=TaskResponse.FUNCTION_COMPLETE,
    )


def remove(peer: RawInitiator, cid: int) -> None:
    """Log a connection out for recovery, on another one."""
    peer.send(peer.logout(LogoutReason.REMOVE_FOR_RECOVERY, cid=cid))
    peer.expect(LogoutResponse, response=LogoutResponseCode.SUCCESS)


def test_a_write_goes_on_where_it_was_reassigned_to(target: RealTarget) -> None:
    """A write whose connection was logged out for recovery is reassigned: its R2T comes again on the new connection.

    UNH-IOL ER 2.1
    RFC 7143 7.2.2, 11.5.1, 11.14.1
    """
    one, two = pair(target)
    write = two.write(0, 2)
    two.send(write)
    two.expect(R2T)
    remove(one, 1)
    two.expect_closed()
    reassign(one, write.initiator_task_tag)
    r2t = one.expect(R2T, initiator_task_tag=write.initiator_task_tag, buffer_offset=0)
    one.send(one.data_out(r2t, pattern(2 * BLOCK)))
    one.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    assert one.medium(0, 2) == pattern(2 * BLOCK)
    one.assert_alive()


def test_a_read_goes_on_from_the_data_that_had_come(target: RealTarget) -> None:
    """A reassigned read sends what comes from ExpDataSN on, and its status, on the new connection.

    UNH-IOL ER 2.3
    RFC 7143 7.2.2, 11.5.6
    """
    one, two = pair(target, ImmediateData="Yes", InitialR2T="No")
    data = pattern(6 * BLOCK)
    assert one.run(one.write(0, 6, data=data)).status == 0
    two = target.peer(isid=one.isid, cid=2, session=one.session) if two is None else two
    two.send(two.text(("MaxRecvDataSegmentLength", "512")))
    two.receive()
    read = two.read(0, 6)
    two.send(read)
    two.gather(read)  # the data came, and the status is not acknowledged
    remove(one, 1)
    reassign(one, read.initiator_task_tag, exp_data_sn=4)
    received = b""
    while True:
        pdu = one.receive()
        if isinstance(pdu, DataIn):
            assert pdu.buffer_offset == 4 * BLOCK + len(received)
            received += pdu.data
            if pdu.status_present:
                break
        else:
            assert isinstance(pdu, ScsiResponse)
            break
    assert (received, pdu.status) == (data[4 * BLOCK :], 0)
    one.assert_alive()


def test_a_new_login_with_the_same_cid_logs_the_old_connection_out(target: RealTarget) -> None:
    """Connection reinstatement is an implicit logout: the old connection ends and its task can be reassigned.

    UNH-IOL ER 2.4
    RFC 7143 6.3.4, 7.2.2
    """
    one, two = pair(target)
    write = two.write(0, 1)
    two.send(write)
    two.expect(R2T)
    again = target.add_connection(one, 1)
    two.expect_closed()
    reassign(again, write.initiator_task_tag)
    r2t = again.expect(R2T, initiator_task_tag=write.initiator_task_tag)
    again.send(again.data_out(r2t, pattern(BLOCK)))
    again.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    again.assert_alive()
    one.assert_alive()


def test_an_r2t_is_sent_again_on_snack(target: RealTarget) -> None:
    """An R2T that was lost comes again, the same but for the window, when a SNACK asks for its R2TSN.

    UNH-IOL ER 3.1
    RFC 7143 11.16.1, 7.2.1
    """
    peer = target.log_in(ErrorRecoveryLevel="1", ImmediateData="No")
    write = peer.write(0, 1)
    peer.send(write)
    lost = peer.expect(R2T)
    peer.send(peer.snack(SnackType.DATA_OR_R2T, write.initiator_task_tag, 0, 1))
    again = peer.expect(
        R2T,
        initiator_task_tag=lost.initiator_task_tag,
        target_transfer_tag=lost.target_transfer_tag,
        r2t_sn=0,
        buffer_offset=lost.buffer_offset,
        desired_data_transfer_length=lost.desired_data_transfer_length,
    )
    peer.send(peer.data_out(again, pattern(BLOCK)))
    peer.expect(ScsiResponse, status=0)
    peer.assert_alive()


@pytest.mark.parametrize("number", [0, 3, 5])
def test_one_data_in_is_sent_again_on_snack(target: RealTarget, number: int) -> None:
    """One Data-In comes again when a SNACK asks for its DataSN.

    UNH-IOL ER 3.2
    RFC 7143 11.16.1, 11.16.7
    """
    peer = target.log_in(ErrorRecoveryLevel="1", MaxRecvDataSegmentLength="512")
    assert peer.run(peer.write(0, 6, data=pattern(6 * BLOCK))).status == 0
    acknowledged = peer.exp_stat_sn
    read = peer.read(0, 6)
    peer.send(read)
    sent = peer.gather(read)[number]
    peer.in_order = False
    peer.send(peer.snack(SnackType.DATA_OR_R2T, read.initiator_task_tag, number, 1, exp_stat_sn=acknowledged))
    again = peer.expect(DataIn, data_sn=number, data=sent.data, status_present=sent.status_present)
    assert again.buffer_offset == number * BLOCK
    peer.assert_alive()


def test_all_data_in_are_sent_again_on_snack(target: RealTarget) -> None:
    """A SNACK with BegRun and RunLength 0 brings all Data-In of the task again.

    UNH-IOL ER 3.4
    RFC 7143 11.16.7
    """
    peer = target.log_in(ErrorRecoveryLevel="1", MaxRecvDataSegmentLength="512")
    assert peer.run(peer.write(0, 4, data=pattern(4 * BLOCK))).status == 0
    acknowledged = peer.exp_stat_sn
    read = peer.read(0, 4)
    peer.send(read)
    sent = peer.gather(read)
    peer.in_order = False
    peer.send(peer.snack(SnackType.DATA_OR_R2T, read.initiator_task_tag, 0, 0, exp_stat_sn=acknowledged))
    for pdu in sent:
        peer.expect(DataIn, data_sn=pdu.data_sn, data=pdu.data, status_present=pdu.status_present)
    peer.assert_alive()


def test_acknowledged_data_are_not_sent_again(target: RealTarget) -> None:
    """After a DataACK for an A bit, the data before it are forgotten; a SNACK for them is rejected.

    UNH-IOL FFP 12.4
    RFC 7143 11.7.2, 11.16.2
    """
    peer = target.log_in(
        ErrorRecoveryLevel="1", MaxRecvDataSegmentLength="512", MaxBurstLength="1024", FirstBurstLength="512"
    )
    acknowledged = peer.exp_stat_sn
    read = peer.read(0, 4)
    peer.send(read)
    pdus = peer.gather(read)
    asking = [pdu for pdu in pdus if pdu.acknowledge]
    assert [(pdu.data_sn, pdu.final) for pdu in asking] == [(1, True)]
    assert asking[0].target_transfer_tag != RESERVED_TAG
    peer.send(
        peer.snack(
            SnackType.DATA_ACK,
            begin=2,
            target_transfer_tag=asking[0].target_transfer_tag,
            lun=asking[0].lun,
            exp_stat_sn=acknowledged,
        ),
        peer.snack(SnackType.DATA_OR_R2T, read.initiator_task_tag, 0, 1, exp_stat_sn=acknowledged),
    )
    peer.expect(Reject, reason=RejectReason.SNACK_REJECT)
    peer.assert_alive()


def test_r_data_cuts_the_data_anew(target: RealTarget) -> None:
    """An R-Data SNACK after a new MaxRecvDataSegmentLength brings the data in new pieces, with the SNACK tag.

    UNH-IOL FFP 12.2
    RFC 7143 11.16.1, 11.16.3, 11.4.4
    """
    peer = target.log_in(ErrorRecoveryLevel="1", MaxRecvDataSegmentLength="2048")
    data = pattern(4 * BLOCK)
    assert peer.run(peer.write(0, 4, data=data)).status == 0
    acknowledged = peer.exp_stat_sn
    read = peer.read(0, 4)
    peer.send(read)
    assert len(peer.gather(read)) == 1
    peer.send(peer.text(("MaxRecvDataSegmentLength", "512"), exp_stat_sn=acknowledged))
    peer.receive()
    peer.in_order = False
    peer.send(
        peer.snack(
            SnackType.R_DATA, read.initiator_task_tag, target_transfer_tag=0x77, exp_stat_sn=acknowledged
        )
    )
    pieces = [peer.expect(DataIn, status_present=False).data for _ in range(4)]
    assert b"".join(pieces) == data
    peer.expect(ScsiResponse, snack_tag=0x77, status=0)
    peer.exp_stat_sn = acknowledged + 2  # what was sent again has its old StatSN
    peer.assert_alive()


def test_a_lost_data_out_is_asked_for_again(target: RealTarget) -> None:
    """At level 1 a gap in the Data-Out of a sequence is asked for with a recovery R2T, and nothing is lost.

    UNH-IOL ER data-out-lost
    RFC 7143 7.2.1, 7.9, 11.8
    """
    peer = target.log_in(ErrorRecoveryLevel="1", ImmediateData="No")
    data = pattern(3 * BLOCK)
    write = peer.write(0, 3)
    peer.send(write)
    r2t = peer.expect(R2T)
    pieces = [
        peer.data_out(
            r2t, data[i * BLOCK : (i + 1) * BLOCK], data_sn=i, buffer_offset=i * BLOCK, final=i == 2
        )
        for i in range(3)
    ]
    peer.send(pieces[0], pieces[2])
    recovery = peer.expect(R2T, r2t_sn=1, buffer_offset=BLOCK, desired_data_transfer_length=BLOCK)
    peer.send(peer.data_out(recovery, data[BLOCK : 2 * BLOCK]))
    peer.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    assert peer.medium(0, 3) == data
    peer.assert_alive()


def test_data_out_with_a_wrong_digest_are_asked_for_again(target: RealTarget) -> None:
    """At level 1 Data-Out with a wrong data digest are rejected and asked for with a recovery R2T.

    UNH-IOL ER data-out-digest
    RFC 7143 7.8, 7.2.1
    """
    peer = target.log_in(ErrorRecoveryLevel="1", ImmediateData="No", DataDigest="CRC32C")
    write = peer.write(0, 1)
    peer.send(write)
    bad = peer.data_out(peer.expect(R2T), pattern(BLOCK))
    peer.send(bad, spoil="data")
    peer.expect(Reject, reason=RejectReason.DATA_DIGEST_ERROR)
    recovery = peer.expect(R2T, r2t_sn=1, buffer_offset=0, desired_data_transfer_length=BLOCK)
    peer.send(peer.data_out(recovery, pattern(BLOCK)))
    peer.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    assert peer.medium(0, 1) == pattern(BLOCK)
    peer.assert_alive()


def test_a_lost_command_is_executed_when_it_is_sent_again(target: RealTarget) -> None:
    """A command that was dropped on the way leaves a gap; sent again with its CmdSN it is executed in its order.

    UNH-IOL ER 1.2
    RFC 7143 7.2.1, 4.2.2.1
    """
    peer = target.log_in(ErrorRecoveryLevel="1")
    lost = peer.write(0, 1, data=pattern(BLOCK))
    read = peer.read(0, 1)
    ping = peer.nop(immediate=True)
    peer.send(read, ping)
    peer.expect(NopIn, exp_cmd_sn=lost.cmd_sn)
    peer.send(lost)
    peer.expect(ScsiResponse, initiator_task_tag=lost.initiator_task_tag, status=0)
    assert peer.finish(read).data == pattern(BLOCK)
    peer.assert_alive()


def test_a_session_without_connections_waits_for_its_recovery(target: RealTarget) -> None:
    """At level 2 the loss of the last connection leaves the session for Time2Wait + Time2Retain; a new login joins it.

    UNH-IOL ER 2.4
    RFC 7143 6.3.4, 7.5, 7.14
    """
    peer = target.log_in(**LEVEL_2)
    write = peer.write(0, 1)
    peer.send(write)
    peer.expect(R2T)
    peer.close()
    again = target.add_connection(peer, 0)
    reassign(again, write.initiator_task_tag)
    r2t = again.expect(R2T, initiator_task_tag=write.initiator_task_tag)
    again.send(again.data_out(r2t, pattern(BLOCK)))
    again.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    again.assert_alive()


def test_below_level_2_a_lost_connection_takes_its_session_along(serve: Callable[..., RealTarget]) -> None:
    """Below level 2 the loss of the only connection ends the session: its TSIH is unknown afterwards.

    UNH-IOL ER session-recovery
    RFC 7143 7.1.5, 7.14, 6.3.5, 11.13.5
    """
    target = serve(parameters=Parameters(error_recovery_level=0))
    peer = target.log_in(**LEVEL_2)
    peer.send(peer.command(TEST_UNIT_READY))
    peer.receive()
    peer.close()
    late = target.peer(cid=1, session=SharedSession(tsih=peer.session.tsih, cmd_sn=peer.session.cmd_sn))
    status = late.try_log_in()
    assert status == 0x020A
    late.expect_closed()
    target.assert_serves()
