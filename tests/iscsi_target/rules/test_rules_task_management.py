"""UNH-IOL full feature phase for targets, chapter 11: task management."""

from __future__ import annotations

import pytest

from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import TaskFunction, TaskResponse
from iscsi_target.wire.responses import R2T, DataIn, NopIn, ScsiResponse, TaskManagementResponse
from tests.iscsi_target.rules.raw_initiator import BLOCK, TEST_UNIT_READY, RawInitiator, pattern
from tests.iscsi_target.rules.real_target import RealTarget


def open_write(peer: RawInitiator) -> tuple[int, R2T]:
    """A write that waits for its data: its task tag and the R2T."""
    write = peer.write(0, 1)
    peer.send(write)
    return write.initiator_task_tag, peer.expect(R2T, initiator_task_tag=write.initiator_task_tag)


def answer(peer: RawInitiator, function: TaskFunction, **fields: object) -> int:
    """The response code to a function; the response names the request by its task tag."""
    request = peer.task_management(function, **fields)
    peer.send(request)
    return peer.expect(TaskManagementResponse, initiator_task_tag=request.initiator_task_tag).response


def test_an_immediate_function_is_carried_out_at_once_and_takes_no_cmd_sn(target: RealTarget) -> None:
    """An immediate ABORT TASK overtakes what is under way, ends it without a status and leaves ExpCmdSN alone.

    UNH-IOL FFP 11.1
    RFC 7143 4.2.2.1, 11.5, 11.5.1
    """
    peer = target.log_in(ImmediateData="No")
    tag, r2t = open_write(peer)
    expected = peer.exp_cmd_sn
    assert answer(peer, TaskFunction.ABORT_TASK, referenced_task_tag=tag) == TaskResponse.FUNCTION_COMPLETE
    assert peer.exp_cmd_sn == expected
    peer.send(peer.data_out(r2t, pattern(BLOCK)))  # it was on its way: ignored
    peer.assert_alive()
    assert peer.medium(0, 1) == bytes(BLOCK)


@pytest.mark.parametrize("level", ["0", "1"])
def test_reassignment_below_level_2_is_not_supported(target: RealTarget, level: str) -> None:
    """TASK REASSIGN below error recovery level 2 is answered "task allegiance reassignment not supported".

    UNH-IOL FFP 11.2.1
    RFC 7143 11.5.1, 11.6.1
    """
    peer = target.log_in(ImmediateData="No", ErrorRecoveryLevel=level)
    tag, r2t = open_write(peer)
    code = answer(peer, TaskFunction.TASK_REASSIGN, referenced_task_tag=tag)
    assert code == TaskResponse.REASSIGNMENT_NOT_SUPPORTED
    peer.send(peer.data_out(r2t, bytes(BLOCK)))
    peer.expect(ScsiResponse, initiator_task_tag=tag, status=0)
    peer.assert_alive()


def test_reassignment_of_an_unknown_task_is_answered_so(target: RealTarget) -> None:
    """TASK REASSIGN of a task that is not there is answered "task does not exist".

    UNH-IOL FFP 11.2.2
    RFC 7143 11.5.1, 11.6.1
    """
    peer = target.log_in(ErrorRecoveryLevel="2")
    assert (
        answer(peer, TaskFunction.TASK_REASSIGN, referenced_task_tag=0xDEAD)
        == TaskResponse.TASK_DOES_NOT_EXIST
    )
    peer.assert_alive()


def test_reassignment_of_a_task_whose_connection_lives_is_refused(target: RealTarget) -> None:
    """TASK REASSIGN while the old connection is there is answered "task still allegiant"; the task goes on there.

    UNH-IOL FFP 11.2.3
    UNH-IOL ER 2.2
    RFC 7143 7.2.2, 11.6.1
    """
    one = target.log_in(ErrorRecoveryLevel="2", MaxConnections="2", ImmediateData="No")
    two = target.add_connection(one, 1)
    tag, r2t = open_write(one)
    assert (
        answer(two, TaskFunction.TASK_REASSIGN, referenced_task_tag=tag) == TaskResponse.TASK_STILL_ALLEGIANT
    )
    one.send(one.data_out(r2t, bytes(BLOCK)))
    one.expect(ScsiResponse, initiator_task_tag=tag, status=0)
    one.assert_alive()
    two.assert_alive()


def test_abort_of_an_unknown_task_is_answered_so(target: RealTarget) -> None:
    """ABORT TASK of a task that ended, with a RefCmdSN before ExpCmdSN, is answered "task does not exist".

    UNH-IOL FFP 11.3.1
    RFC 7143 11.5.5, 11.6.1
    """
    peer = target.log_in()
    ended = peer.command(TEST_UNIT_READY)
    assert peer.run(ended).status == 0
    code = answer(
        peer, TaskFunction.ABORT_TASK, referenced_task_tag=ended.initiator_task_tag, ref_cmd_sn=ended.cmd_sn
    )
    assert code == TaskResponse.TASK_DOES_NOT_EXIST
    peer.assert_alive()


def test_abort_of_a_command_that_never_came_counts_it_as_received(target: RealTarget) -> None:
    """ABORT TASK of a command that was lost on the way plugs its CmdSN: the window moves on and it is never executed.

    UNH-IOL FFP 11.3.1
    RFC 7143 11.5.5, 11.6.1
    """
    peer = target.log_in()
    lost = peer.write(0, 1, data=pattern(BLOCK))
    later = peer.command(TEST_UNIT_READY)
    peer.send(later)  # held up by the gap
    abort = peer.task_management(
        TaskFunction.ABORT_TASK, referenced_task_tag=lost.initiator_task_tag, ref_cmd_sn=lost.cmd_sn
    )
    peer.send(abort)
    answers = {type(pdu): pdu for pdu in (peer.receive(), peer.receive())}
    aborted = answers[TaskManagementResponse]
    assert isinstance(aborted, TaskManagementResponse)
    assert aborted.response == TaskResponse.FUNCTION_COMPLETE
    assert ScsiResponse in answers
    peer.send(lost)  # too late: it counts as received
    peer.assert_alive()
    assert peer.medium(0, 1) == bytes(BLOCK)


@pytest.mark.parametrize(
    "function", [TaskFunction.ABORT_TASK_SET, TaskFunction.CLEAR_TASK_SET, TaskFunction.LOGICAL_UNIT_RESET]
)
def test_a_function_for_an_unknown_lun_is_answered_so(target: RealTarget, function: TaskFunction) -> None:
    """A function for a LUN that is not there is answered "LUN does not exist" and touches nothing.

    UNH-IOL FFP 11.3.2
    RFC 7143 11.5.3, 11.6.1
    """
    peer = target.log_in(ImmediateData="No")
    tag, r2t = open_write(peer)
    assert answer(peer, function, lun=lun_to_bytes(77)) == TaskResponse.LUN_DOES_NOT_EXIST
    peer.send(peer.data_out(r2t, bytes(BLOCK)))
    peer.expect(ScsiResponse, initiator_task_tag=tag, status=0)
    peer.assert_alive()


@pytest.mark.parametrize("function", [TaskFunction.CLEAR_ACA, 13, 100, 127])
def test_a_function_the_target_has_not_is_answered_so(target: RealTarget, function: TaskFunction) -> None:
    """A function that the target does not do is answered "task management function not supported".

    UNH-IOL FFP 11.3.3
    RFC 7143 11.6.1
    """
    peer = target.log_in()
    assert answer(peer, function) == TaskResponse.FUNCTION_NOT_SUPPORTED
    peer.assert_alive()


def test_task_management_waits_for_its_turn_and_for_the_data_under_way(target: RealTarget) -> None:
    """A function that is not immediate comes in CmdSN order, and is answered when the R2Ts of its tasks are.

    UNH-IOL FFP 11.1
    RFC 7143 4.2.2.1, 4.2.3.3
    """
    peer = target.log_in(ImmediateData="No")
    write = peer.write(0, 1)
    reset = peer.task_management(TaskFunction.LOGICAL_UNIT_RESET, immediate=False)
    ping = peer.nop(immediate=True)
    peer.send(reset, ping)
    peer.expect(NopIn, initiator_task_tag=ping.initiator_task_tag)
    peer.send(write)
    r2t = peer.expect(R2T, initiator_task_tag=write.initiator_task_tag)
    ping = peer.nop(immediate=True)
    peer.send(ping)
    peer.expect(NopIn, initiator_task_tag=ping.initiator_task_tag)  # not yet: data are on their way
    peer.send(peer.data_out(r2t, pattern(BLOCK)))
    peer.expect(TaskManagementResponse, initiator_task_tag=reset.initiator_task_tag, response=0)
    peer.take_unit_attention()
    peer.assert_alive()


def test_a_warm_reset_ends_every_task_and_keeps_the_sessions(target: RealTarget) -> None:
    """TARGET WARM RESET ends the tasks of all sessions without a status; the sessions go on, with a unit attention.

    UNH-IOL FFP 11.4
    RFC 7143 11.5.1, 4.2.3.3
    """
    peer = target.log_in(ImmediateData="No")
    other = target.log_in(ImmediateData="No", isid=bytes.fromhex("800000000002"))
    _, r2t = open_write(peer)
    _, other_r2t = open_write(other)
    reset = peer.task_management(TaskFunction.TARGET_WARM_RESET)
    peer.send(reset, peer.data_out(r2t, pattern(BLOCK)))
    peer.expect(TaskManagementResponse, initiator_task_tag=reset.initiator_task_tag, response=0)
    other.send(other.data_out(other_r2t, pattern(BLOCK)))
    for one in (peer, other):
        done = one.run(one.command(TEST_UNIT_READY))
        assert done.sense_code[0] == 6
        one.assert_alive()
        assert one.medium(0, 1) == bytes(BLOCK)


def test_a_cold_reset_ends_every_session(target: RealTarget) -> None:
    """TARGET COLD RESET is answered, then all connections to the target are closed; new logins are welcome.

    UNH-IOL FFP 11.5
    RFC 7143 11.5.1
    """
    peer = target.log_in()
    other = target.log_in(isid=bytes.fromhex("800000000002"))
    assert answer(peer, TaskFunction.TARGET_COLD_RESET) == TaskResponse.FUNCTION_COMPLETE
    peer.expect_closed()
    other.expect_closed()
    target.assert_serves()


def test_a_function_is_answered_when_the_tasks_it_ends_have_left_the_device(target: RealTarget) -> None:
    """The response to ABORT TASK SET comes after the aborted command has left the device server, which then is mute.

    UNH-IOL FFP 11.1
    RFC 7143 4.2.3.3
    """
    target.units.holding = True
    peer = target.log_in()
    held = peer.command(bytes((0x2F, 0, 0, 0, 0, 0, 0, 0, 1, 0)))
    peer.send(held)
    assert target.units.begun.wait(60)
    abort = peer.task_management(TaskFunction.ABORT_TASK_SET)
    ping = peer.nop(immediate=True)
    peer.send(abort, ping)
    peer.expect(NopIn, initiator_task_tag=ping.initiator_task_tag)  # not the response yet
    target.units.let_go.set()
    peer.expect(TaskManagementResponse, initiator_task_tag=abort.initiator_task_tag, response=0)
    peer.assert_alive()


def test_data_in_of_a_task_stops_with_its_abort(target: RealTarget) -> None:
    """After the response to ABORT TASK nothing comes for the aborted task any more.

    UNH-IOL FFP 11.1
    RFC 7143 4.2.3.3, 11.6.1
    """
    peer = target.log_in()
    read = peer.read(0, 2048)
    abort = peer.task_management(TaskFunction.ABORT_TASK, referenced_task_tag=read.initiator_task_tag)
    peer.send(read, abort)
    seen = peer.receive()
    while not isinstance(seen, TaskManagementResponse):
        assert isinstance(seen, DataIn | ScsiResponse)
        assert seen.initiator_task_tag == read.initiator_task_tag
        seen = peer.receive()
    assert seen.response in (TaskResponse.FUNCTION_COMPLETE, TaskResponse.TASK_DOES_NOT_EXIST)
    peer.assert_alive()
