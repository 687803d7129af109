"""Task management at the target (RFC 7143 sections 4.2.3, 11.5, 11.6; RFC 7144 section 5)."""

from __future__ import annotations

from typing import Any

import pytest

from iscsi_target.executor import ResetKind, ScsiResult
from iscsi_target.session.task import Task
from iscsi_target.wire.codec import Pdu
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import TaskFunction, TaskResponse
from iscsi_target.wire.requests import TaskManagementRequest
from iscsi_target.wire.responses import R2T, ScsiResponse, TaskManagementResponse
from tests.iscsi_target.imaginary_wire import BLOCK, Conversation, RamDisk, hold, make_node, write_16

TUR = bytes(6)
RFC_7144 = ("iSCSIProtocolLevel", "2")


def logged_in(*keys: tuple[str, str], disk: RamDisk | None = None) -> Conversation:
    conversation = Conversation(make_node(disk))
    conversation.log_in(*keys)
    return conversation


def manage(conversation: Conversation, function: int, *, execute: bool = True, **fields: Any) -> list[Pdu]:
    values: dict[str, Any] = {
        "immediate": True,
        "function": function,
        "lun": lun_to_bytes(0),
        "initiator_task_tag": 0x5000,
        "cmd_sn": conversation.cmd_sn,
        "exp_stat_sn": 0,
    }
    return conversation.send(TaskManagementRequest(**(values | fields)), execute=execute)


def code(pdus: list[Pdu]) -> int:
    (answer,) = pdus
    assert isinstance(answer, TaskManagementResponse)
    assert answer.initiator_task_tag == 0x5000
    return answer.response


def test_an_aborted_task_is_never_executed_nor_answered() -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    conversation.send(conversation.command(TUR, tag=1), execute=False)
    assert code(manage(conversation, TaskFunction.ABORT_TASK, referenced_task_tag=1, ref_cmd_sn=1)) == 0
    assert disk.executed == []
    conversation.assert_alive()


def test_an_abort_frees_the_place_in_the_window() -> None:
    conversation = logged_in()
    conversation.send(conversation.command(TUR, tag=1), execute=False)
    (answer,) = manage(conversation, TaskFunction.ABORT_TASK, referenced_task_tag=1, ref_cmd_sn=1)
    assert isinstance(answer, TaskManagementResponse)
    assert (answer.max_cmd_sn - answer.exp_cmd_sn) & 0xFFFFFFFF == 127


def test_aborting_a_write_stops_its_transfer() -> None:
    conversation = logged_in()
    (r2t,) = conversation.send(
        conversation.command(write_16(0, 4), tag=1, write=True, expected_data_transfer_length=4 * BLOCK)
    )
    assert isinstance(r2t, R2T)
    assert code(manage(conversation, TaskFunction.ABORT_TASK, referenced_task_tag=1, ref_cmd_sn=1)) == 0
    assert not conversation.node.sessions[conversation.tsih].tasks
    conversation.assert_alive()


def test_aborting_a_task_that_is_not_there_is_answered_so() -> None:
    conversation = logged_in()
    conversation.send(conversation.command(TUR, tag=1))
    answer = manage(conversation, TaskFunction.ABORT_TASK, referenced_task_tag=1, ref_cmd_sn=1)
    assert code(answer) == TaskResponse.TASK_DOES_NOT_EXIST


def test_a_command_still_on_its_way_counts_as_received_and_aborted() -> None:
    """Section 11.6.1 b: the CmdSN lies in the window, the command never came: function complete, CmdSN used up."""
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    lost = conversation.command(TUR, tag=1)
    assert code(manage(conversation, TaskFunction.ABORT_TASK, referenced_task_tag=1, ref_cmd_sn=1)) == 0
    assert conversation.send(lost) == []
    (answer,) = conversation.send(conversation.command(TUR, tag=2))
    assert isinstance(answer, ScsiResponse)
    assert len(disk.executed) == 1


def test_an_abort_waits_for_a_task_that_executes() -> None:
    conversation = logged_in()
    conversation.send(conversation.command(TUR, tag=1), execute=False)
    task: Task = conversation.target.ready.popleft()
    hold(task)
    assert manage(conversation, TaskFunction.ABORT_TASK, referenced_task_tag=1, ref_cmd_sn=1) == []
    conversation.node.sessions[conversation.tsih].complete(task, ScsiResult(0))
    assert code(conversation.answers()) == 0, "and no SCSI Response"


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (TaskFunction.ABORT_TASK_SET, ResetKind.ABORT_TASK_SET),
        (TaskFunction.CLEAR_TASK_SET, ResetKind.CLEAR_TASK_SET),
        (TaskFunction.LOGICAL_UNIT_RESET, ResetKind.LOGICAL_UNIT_RESET),
        (TaskFunction.TARGET_WARM_RESET, ResetKind.TARGET_WARM_RESET),
    ],
)
def test_a_function_on_many_tasks_ends_them_and_tells_the_device_server(
    function: TaskFunction, kind: ResetKind
) -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    conversation.send(*(conversation.command(TUR, tag=tag) for tag in (1, 2, 3)), execute=False)
    assert code(manage(conversation, function)) == 0
    assert disk.executed == []
    assert disk.resets == [(kind, None if kind is ResetKind.TARGET_WARM_RESET else 0)]
    conversation.assert_alive()


@pytest.mark.parametrize(
    ("function", "others_end"),
    [
        (TaskFunction.ABORT_TASK_SET, False),
        (TaskFunction.CLEAR_TASK_SET, True),
        (TaskFunction.LOGICAL_UNIT_RESET, True),
    ],
)
def test_whose_tasks_end_depends_on_the_function(function: TaskFunction, others_end: bool) -> None:
    node = make_node()
    one, two = Conversation(node), Conversation(node, isid=bytes(6))
    one.log_in()
    two.log_in()
    two.send(two.command(TUR, tag=1), execute=False)
    manage(one, function)
    assert (two.answers() == []) == others_end
    two.assert_alive()


def test_a_lun_that_is_not_there_is_answered_so() -> None:
    answer = manage(logged_in(), TaskFunction.LOGICAL_UNIT_RESET, lun=lun_to_bytes(9))
    assert code(answer) == TaskResponse.LUN_DOES_NOT_EXIST


def test_a_cold_reset_ends_every_session() -> None:
    node = make_node()
    one, two = Conversation(node), Conversation(node, isid=bytes(6))
    one.log_in()
    two.log_in()
    assert code(manage(one, TaskFunction.TARGET_COLD_RESET)) == 0
    assert not node.sessions
    assert one.target.closing
    assert two.target.closing


@pytest.mark.parametrize(
    ("function", "response"),
    [
        (TaskFunction.CLEAR_ACA, TaskResponse.FUNCTION_NOT_SUPPORTED),
        (TaskFunction.TASK_REASSIGN, TaskResponse.REASSIGNMENT_NOT_SUPPORTED),
        (TaskFunction.QUERY_TASK, TaskResponse.FUNCTION_NOT_SUPPORTED),
        (99, TaskResponse.FUNCTION_NOT_SUPPORTED),
    ],
)
def test_what_is_not_supported_is_answered_so(function: int, response: TaskResponse) -> None:
    conversation = logged_in()
    assert code(manage(conversation, function)) == response
    conversation.assert_alive()


def test_query_task_says_whether_the_task_is_there() -> None:
    conversation = logged_in(RFC_7144)
    conversation.send(conversation.command(TUR, tag=1), execute=False)
    query = {"function": TaskFunction.QUERY_TASK, "execute": False}
    assert code(manage(conversation, **query, referenced_task_tag=1)) == TaskResponse.FUNCTION_SUCCEEDED
    assert code(manage(conversation, **query, referenced_task_tag=2)) == TaskResponse.FUNCTION_COMPLETE


def test_query_task_set_says_whether_there_are_tasks() -> None:
    conversation = logged_in(RFC_7144)
    query = {"function": TaskFunction.QUERY_TASK_SET, "execute": False}
    assert code(manage(conversation, **query)) == TaskResponse.FUNCTION_COMPLETE
    conversation.send(conversation.command(TUR, tag=1), execute=False)
    assert code(manage(conversation, **query)) == TaskResponse.FUNCTION_SUCCEEDED


def test_an_i_t_nexus_reset_ends_the_session() -> None:
    disk = RamDisk()
    conversation = logged_in(RFC_7144, disk=disk)
    assert code(manage(conversation, TaskFunction.I_T_NEXUS_RESET)) == 0
    assert not conversation.node.sessions
    assert len(disk.lost) == 1


def test_held_commands_of_the_lun_are_ended_too() -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    first, second = conversation.command(TUR, tag=1), conversation.command(TUR, tag=2)
    conversation.send(second)
    assert code(manage(conversation, TaskFunction.LOGICAL_UNIT_RESET)) == 0
    answers = conversation.send(first)
    assert [pdu.initiator_task_tag for pdu in answers if isinstance(pdu, ScsiResponse)] == [1]
    (answer,) = conversation.send(conversation.command(TUR, tag=3))
    assert isinstance(answer, ScsiResponse)
    assert len(disk.executed) == 2
