"""UNH-IOL full feature phase for targets, chapters 1 to 6: numbering, retry, connection allegiance."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from iscsi_target.session.limits import Limits
from iscsi_target.wire.opcodes import RESERVED_TAG, RejectReason
from iscsi_target.wire.responses import (
    R2T,
    DataIn,
    NopIn,
    Reject,
    ScsiResponse,
    TaskManagementResponse,
    TextResponse,
)
from tests.iscsi_target.rules.raw_initiator import BLOCK, TEST_UNIT_READY, pattern
from tests.iscsi_target.rules.real_target import RealTarget


@pytest.mark.parametrize("ahead", [0, 1, 1000, 0x7FFF0000])
def test_a_command_beyond_max_cmd_sn_is_silently_ignored(target: RealTarget, ahead: int) -> None:
    """A non-immediate command whose CmdSN lies beyond MaxCmdSN is ignored without an answer.

    UNH-IOL FFP 1.1
    RFC 7143 4.2.2.1
    """
    peer = target.log_in()
    peer.send(peer.command(TEST_UNIT_READY, cmd_sn=(peer.max_cmd_sn + 1 + ahead) & 0xFFFFFFFF))
    peer.assert_alive()


@pytest.mark.parametrize("behind", [1, 2, 0x7FFF0000])
def test_a_command_before_exp_cmd_sn_is_silently_ignored(target: RealTarget, behind: int) -> None:
    """A non-immediate command whose CmdSN was taken already is ignored without an answer.

    UNH-IOL FFP 1.2
    RFC 7143 4.2.2.1
    """
    peer = target.log_in()
    peer.send(peer.command(TEST_UNIT_READY, cmd_sn=(peer.exp_cmd_sn - behind) & 0xFFFFFFFF))
    peer.assert_alive()


def test_a_closed_window_says_so_and_opens_again(serve: Callable[..., RealTarget]) -> None:
    """A full target closes the window with MaxCmdSN = ExpCmdSN - 1, still takes immediate commands, and reopens it.

    UNH-IOL FFP 1.3
    RFC 7143 4.2.2.1
    """
    peer = serve(limits=Limits(queued_commands=3)).log_in(ImmediateData="No")
    writes = [peer.write(0, 1) for _ in range(3)]
    peer.send(*writes)
    r2ts = [peer.expect(R2T, initiator_task_tag=write.initiator_task_tag) for write in writes]
    assert peer.max_cmd_sn == (peer.exp_cmd_sn - 1) & 0xFFFFFFFF
    refused = peer.command(TEST_UNIT_READY)
    ping = peer.nop(immediate=True, cmd_sn=peer.exp_cmd_sn)
    peer.send(refused, ping)
    peer.expect(NopIn, initiator_task_tag=ping.initiator_task_tag)
    for write, r2t in zip(writes, r2ts, strict=True):
        peer.send(peer.data_out(r2t, bytes(BLOCK)))
        peer.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    assert peer.max_cmd_sn == (peer.exp_cmd_sn + 2) & 0xFFFFFFFF
    peer.send(refused)  # what was ignored can be sent again as it was
    peer.expect(ScsiResponse, initiator_task_tag=refused.initiator_task_tag, status=0)
    peer.assert_alive()


def test_max_cmd_sn_does_not_go_back_when_the_next_write_gets_its_turn(
    serve: Callable[..., RealTarget],
) -> None:
    """MaxCmdSN never goes back: not in the R2T either that a command gets when the one before it has ended.

    UNH-IOL FFP 1.3
    RFC 7143 4.2.2.1
    """
    peer = serve(limits=Limits(solicited_bytes=BLOCK)).log_in(ImmediateData="No")
    writes = [peer.write(0, 1), peer.write(1, 1)]
    peer.send(*writes)
    for write in writes:
        r2t = peer.expect(
            R2T, initiator_task_tag=write.initiator_task_tag
        )  # one at a time: memory is bounded
        peer.send(peer.data_out(r2t, bytes(BLOCK)))
        peer.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    peer.assert_alive()


def test_stat_sn_counts_every_status_and_nothing_else(target: RealTarget) -> None:
    """StatSN goes up by one with each status-bearing PDU; R2T and Data-In without S show the next and leave it.

    UNH-IOL FFP 2.1
    RFC 7143 4.2.2.2, 11.4.9, 11.8.3
    """
    peer = target.log_in(MaxRecvDataSegmentLength="512", ImmediateData="No")
    first = peer.exp_stat_sn
    peer.send(peer.command(TEST_UNIT_READY))
    assert peer.expect(ScsiResponse).stat_sn == first
    peer.send(peer.nop())
    assert peer.expect(NopIn).stat_sn == first + 1
    peer.send(peer.task_management(1, referenced_task_tag=0xDEAD))
    assert peer.expect(TaskManagementResponse).stat_sn == first + 2
    peer.send(peer.text(("SendTargets", "")))
    assert peer.expect(TextResponse).stat_sn == first + 3
    peer.send(peer.snack(9))
    assert peer.expect(Reject).stat_sn == first + 4
    write = peer.write(0, 1)
    peer.send(write)
    r2t = peer.expect(R2T, stat_sn=first + 5)
    peer.send(peer.data_out(r2t, bytes(BLOCK)))
    assert peer.expect(ScsiResponse).stat_sn == first + 5
    read = peer.read(0, 2)
    peer.send(read)
    *_, last = peer.gather(read)
    assert (last.status_present, last.stat_sn) == (True, first + 6)
    peer.assert_alive()


def test_data_sn_counts_the_data_in_of_each_command_from_zero(target: RealTarget) -> None:
    """DataSN begins with 0 for each command and goes up by one with each of its Data-In PDUs.

    UNH-IOL FFP 3.1
    RFC 7143 4.2.2.4, 11.7.5
    """
    peer = target.log_in(MaxRecvDataSegmentLength="512")
    for blocks in (5, 3):
        read = peer.read(0, blocks)
        peer.send(read)
        assert [pdu.data_sn for pdu in peer.gather(read)] == list(range(blocks))
    peer.assert_alive()


def test_r2t_sn_counts_the_r2ts_of_each_command_from_zero(target: RealTarget) -> None:
    """R2TSN begins with 0 for each command and goes up by one with each of its R2Ts; ExpDataSN tells their number.

    UNH-IOL FFP 4.1
    RFC 7143 4.2.2.4, 11.8.2, 11.4.8
    """
    peer = target.log_in(MaxBurstLength="512", FirstBurstLength="512", ImmediateData="No")
    for blocks in (4, 2):
        write = peer.write(0, blocks)
        peer.send(write)
        for number in range(blocks):
            r2t = peer.expect(R2T, initiator_task_tag=write.initiator_task_tag, r2t_sn=number)
            peer.send(*peer.burst(r2t, bytes(BLOCK)))
        peer.expect(ScsiResponse, status=0, exp_data_sn=blocks)
    peer.assert_alive()


def test_a_retried_command_is_executed_once(target: RealTarget) -> None:
    """A command sent again with its CmdSN and task tag, though it had arrived, is discarded and executed once.

    UNH-IOL FFP 5.1
    UNH-IOL ER 1.1
    RFC 7143 4.2.2.1, 7.2.1
    """
    peer = target.log_in(ErrorRecoveryLevel="1")
    first, second = pattern(BLOCK, 1), pattern(BLOCK, 2)
    write = peer.write(0, 1, data=first)
    assert peer.run(write).status == 0
    overwrite = peer.write(0, 1, data=second)
    assert peer.run(overwrite).status == 0
    peer.send(write)
    assert peer.medium(0, 1) == second
    peer.assert_alive()


def test_data_and_status_keep_to_the_connection_of_their_command(target: RealTarget) -> None:
    """Data, R2T and status travel on the connection of the command; Data-Out on another one is rejected.

    UNH-IOL FFP 6.1
    RFC 7143 4.2.5.1
    """
    one = target.log_in(MaxConnections="2", ImmediateData="No")
    two = target.add_connection(one, 1)
    write = one.write(0, 1)
    one.send(write)
    r2t = one.expect(R2T, initiator_task_tag=write.initiator_task_tag)
    two.send(two.data_out(r2t, pattern(BLOCK)))
    two.expect(Reject, reason=RejectReason.PROTOCOL_ERROR)
    one.send(one.data_out(r2t, pattern(BLOCK)))
    one.expect(ScsiResponse, initiator_task_tag=write.initiator_task_tag, status=0)
    read = two.read(0, 1)
    two.send(read)
    two.expect(DataIn, initiator_task_tag=read.initiator_task_tag, data=pattern(BLOCK))
    assert RESERVED_TAG not in (write.initiator_task_tag, read.initiator_task_tag)
    one.assert_alive()
    two.assert_alive()
