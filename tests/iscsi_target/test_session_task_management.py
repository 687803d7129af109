"""Task management at the target (RFC 7143 sections 4.2.3, 11.5, 11.6; RFC 7144 section 5)."""

from __future__ import annotations

from typing import Any

import pytest

from iscsi_target.executor import PreemptingResult, ResetKind, ScsiResult
from iscsi_target.session.limits import Limits
from iscsi_target.session.parameters import Parameters
from iscsi_target.session.task import Task, TaskState
from iscsi_target.wire.codec import Pdu
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import AsyncEvent, TaskFunction, TaskResponse
from iscsi_target.wire.requests import DataOut, NopOut, TaskManagementRequest
from iscsi_target.wire.responses import R2T, AsyncMessage, NopIn, ScsiResponse, TaskManagementResponse
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
    assert manage(conversation, TaskFunction.LOGICAL_UNIT_RESET) == [], (
        "a command sent before it is still to come"
    )
    assert code(conversation.send(first)) == 0
    (answer,) = conversation.send(conversation.command(TUR, tag=3))
    assert isinstance(answer, ScsiResponse)
    assert answer.initiator_task_tag == 3
    assert len(disk.executed) == 1


def test_a_target_reset_does_not_wait_for_commands_that_are_still_to_come() -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    first, second = conversation.command(TUR, tag=1), conversation.command(TUR, tag=2)
    conversation.send(second)
    assert code(manage(conversation, TaskFunction.TARGET_WARM_RESET)) == 0
    answers = conversation.send(first)
    assert [pdu.initiator_task_tag for pdu in answers if isinstance(pdu, ScsiResponse)] == [1]


def test_commands_that_never_come_are_not_waited_for_for_ever() -> None:
    conversation = logged_in()
    conversation.send(conversation.command(TUR, tag=2, cmd_sn=2))
    conversation.cmd_sn = 3
    assert manage(conversation, TaskFunction.ABORT_TASK_SET) == []
    conversation.node.handle_timer(Limits().abort_wait_ns)
    assert code(conversation.answers()) == 0


# -- many tasks: what is waited for, who is told (RFC 7143 sections 4.2.3.3 and 4.2.3.4) -------------------------


def begin_write(conversation: Conversation, tag: int) -> R2T:
    """A write whose data the target has asked for."""
    (asked,) = conversation.send(
        conversation.command(write_16(0, 8), tag=tag, write=True, expected_data_transfer_length=8 * BLOCK)
    )
    assert isinstance(asked, R2T)
    return asked


def answer_r2t(conversation: Conversation, asked: R2T) -> list[Pdu]:
    return conversation.send(
        DataOut(
            final=True,
            initiator_task_tag=asked.initiator_task_tag,
            target_transfer_tag=asked.target_transfer_tag,
            exp_stat_sn=0,
            data_sn=0,
            buffer_offset=asked.buffer_offset,
            data=bytes(asked.desired_data_transfer_length),
        )
    )


MANY = [TaskFunction.ABORT_TASK_SET, TaskFunction.CLEAR_TASK_SET, TaskFunction.LOGICAL_UNIT_RESET]


@pytest.mark.parametrize("function", MANY)
def test_the_standard_way_waits_for_the_data_that_were_asked_for(function: TaskFunction) -> None:
    disk = RamDisk()
    conversation = logged_in(disk=disk)
    asked = begin_write(conversation, 1)
    assert manage(conversation, function) == []
    assert code(answer_r2t(conversation, asked)) == 0
    assert disk.executed == []
    conversation.assert_alive()


def test_data_that_never_come_are_not_waited_for_for_ever() -> None:
    conversation = logged_in()
    begin_write(conversation, 1)
    assert manage(conversation, TaskFunction.LOGICAL_UNIT_RESET) == []
    conversation.node.handle_timer(Limits().abort_wait_ns - 1)
    assert conversation.answers() == []
    conversation.node.handle_timer(Limits().abort_wait_ns)
    assert code(conversation.answers()) == 0


REPORTING = Parameters(task_reporting=("FastAbort", "ResponseFence", "RFC3720"))


def sessions(*reporting: str, connections: int = 1) -> list[Conversation]:
    """One session for each way of reporting, with one target; each of so many connections."""
    node = make_node(parameters=REPORTING)
    found = []
    for number, way in enumerate(reporting):
        isid, tsih = bytes((0x80, 0, 0, 0, 0, number)), 0
        for cid in range(connections):
            conversation = Conversation(node, cid=cid, isid=isid, tsih=tsih)
            keys = () if tsih else (("TaskReporting", way), ("MaxConnections", "4"))
            conversation.log_in(*keys)
            tsih = conversation.tsih
            found.append(conversation)
    return found


def test_fast_abort_waits_for_no_data_and_tells_the_others() -> None:
    one, fast, legacy = sessions("FastAbort", "FastAbort", "RFC3720")
    for conversation in (one, fast, legacy):
        asked = begin_write(conversation, 1)
    assert code(manage(one, TaskFunction.LOGICAL_UNIT_RESET)) == 0
    (told,) = fast.answers()
    assert isinstance(told, AsyncMessage)
    assert (told.async_event, told.lun) == (AsyncEvent.TASKS_TERMINATED, lun_to_bytes(0))
    assert legacy.answers() == []
    assert answer_r2t(legacy, asked) == [], "late data are taken and thrown away"
    for conversation in (one, fast, legacy):
        conversation.assert_alive()


def test_fast_abort_tells_the_other_connections_of_its_own_session() -> None:
    issuing, other, idle = sessions("FastAbort", connections=3)
    other.cmd_sn = 1
    begin_write(other, 1)
    issuing.cmd_sn = 2
    (ping,) = manage(issuing, TaskFunction.ABORT_TASK_SET)
    assert isinstance(ping, NopIn), "the response is fenced: the others have to acknowledge first"
    (event, _) = other.answers()
    assert isinstance(event, AsyncMessage)
    assert all(isinstance(pdu, NopIn) for pdu in idle.answers())


def acknowledge(conversation: Conversation, exp_stat_sn: int) -> list[Pdu]:
    return conversation.send(
        NopOut(immediate=True, target_transfer_tag=1, cmd_sn=conversation.cmd_sn, exp_stat_sn=exp_stat_sn),
        execute=False,
    )


def test_a_fenced_response_waits_for_what_was_sent_before_and_holds_up_what_comes_after() -> None:
    one, two = sessions("ResponseFence", connections=2)
    two.cmd_sn = 1
    (status,) = two.send(two.command(TUR, tag=1))
    assert isinstance(status, ScsiResponse)
    two.send(two.command(TUR, tag=2, lun=lun_to_bytes(1)), execute=False)
    other = two.target.ready.popleft()
    hold(other)
    one.cmd_sn = 3
    (ping,) = manage(one, TaskFunction.LOGICAL_UNIT_RESET)
    assert isinstance(ping, NopIn), "the response waits; the target asks for an acknowledgement"
    (ping,) = two.answers()
    assert isinstance(ping, NopIn)
    assert acknowledge(one, ping.stat_sn) == []
    acknowledge(two, status.stat_sn + 1)
    answer, ping = one.answers()
    assert code([answer]) == 0
    assert isinstance(answer, TaskManagementResponse)
    session = two.node.sessions[two.tsih]
    session.complete(other, ScsiResult(0))
    assert two.answers() == [], "held until the fenced response is acknowledged"
    acknowledge(one, answer.stat_sn + 1)
    (held,) = two.answers()
    assert isinstance(held, ScsiResponse)
    assert held.initiator_task_tag == 2
    assert session.fence is None


def test_a_connection_that_goes_does_not_leave_the_fence_standing() -> None:
    one, two = sessions("ResponseFence", connections=2)
    two.cmd_sn = 1
    two.send(two.command(TUR, tag=1))
    one.cmd_sn = 2
    manage(one, TaskFunction.ABORT_TASK_SET)
    acknowledge(one, one.target.next_stat_sn)
    two.target.eof()
    assert code([pdu for pdu in one.answers() if isinstance(pdu, TaskManagementResponse)]) == 0
    acknowledge(one, one.target.next_stat_sn)
    assert one.node.sessions[one.tsih].fence is None


def test_without_the_key_no_response_is_fenced() -> None:
    one, two = sessions("RFC3720", connections=2)
    two.cmd_sn = 1
    two.send(two.command(TUR, tag=1))
    one.cmd_sn = 2
    assert code(manage(one, TaskFunction.ABORT_TASK_SET)) == 0


# -- RFC 7144 ------------------------------------------------------------------------------------------------------


class Attentive(RamDisk):
    """Has a unit attention to tell."""

    report: bytes | None = b"\x16\x29\x00"

    def attention_report(self, lun: int, initiator_port: str, target_port: int) -> bytes | None:
        return self.report


def test_query_asynchronous_event_tells_of_a_unit_attention_without_clearing_it() -> None:
    disk = Attentive()
    conversation = logged_in(RFC_7144, disk=disk)
    for _ in range(2):
        (answer,) = manage(conversation, TaskFunction.QUERY_ASYNC_EVENT)
        assert isinstance(answer, TaskManagementResponse)
        assert answer.response == TaskResponse.FUNCTION_SUCCEEDED
        assert answer.additional_response_information == b"\x16\x29\x00"
    disk.report = None
    assert code(manage(conversation, TaskFunction.QUERY_ASYNC_EVENT)) == TaskResponse.FUNCTION_COMPLETE


@pytest.mark.parametrize(
    "function", [TaskFunction.QUERY_TASK, TaskFunction.QUERY_TASK_SET, TaskFunction.QUERY_ASYNC_EVENT]
)
def test_a_question_about_a_lun_that_is_not_there_is_answered_so(function: TaskFunction) -> None:
    conversation = logged_in(RFC_7144, disk=Attentive())
    answer = manage(conversation, function, lun=lun_to_bytes(9), referenced_task_tag=1)
    assert code(answer) == TaskResponse.LUN_DOES_NOT_EXIST


@pytest.mark.parametrize("function", range(9, 13))
def test_functions_of_rfc_7144_want_its_protocol_level(function: int) -> None:
    answer = manage(logged_in(disk=Attentive()), function)
    assert code(answer) == TaskResponse.FUNCTION_NOT_SUPPORTED


def test_a_function_on_a_unit_ends_its_tasks_whatever_lun_leads_to_it() -> None:
    class Mapped(RamDisk):
        def unit_for(self, initiator_name: str, lun: int) -> str | None:
            return "one" if lun in (0, 5) else None

    conversation = logged_in(disk=Mapped())
    command = conversation.command(TUR, tag=1, lun=lun_to_bytes(5))
    conversation.send(command, execute=False)
    assert code(manage(conversation, TaskFunction.LOGICAL_UNIT_RESET)) == 0
    assert conversation.answers() == []


def test_functions_that_wait_are_bounded_and_end_with_the_session() -> None:
    disk = RamDisk()
    conversation = Conversation(make_node(disk, limits=Limits(queued_commands=4)))
    conversation.log_in()
    conversation.send(conversation.command(TUR, tag=2, cmd_sn=2))
    conversation.cmd_sn = 3
    for _ in range(4):
        assert manage(conversation, TaskFunction.ABORT_TASK_SET) == []
    assert code(manage(conversation, TaskFunction.ABORT_TASK_SET)) == TaskResponse.FUNCTION_REJECTED
    management = conversation.node.sessions[conversation.tsih].management
    conversation.target.eof()
    assert not management.early
    assert not management.pending


# -- tasks that execute on after they were ended -------------------------------------------------------------------


def begin(conversation: Conversation, tag: int, **fields: Any) -> Task:
    """A command that the device server has begun with and is not done."""
    conversation.send(conversation.command(TUR, tag=tag, **fields), execute=False)
    task = conversation.target.ready.popleft()
    hold(task)
    return task


def returns(task: Task) -> None:
    """The device server is done with a task."""
    session = task.connection.session
    assert session is not None
    session.complete(task, ScsiResult(0))


@pytest.mark.parametrize("function", [*MANY, TaskFunction.TARGET_WARM_RESET])
def test_a_function_waits_for_tasks_that_an_earlier_one_ended(function: TaskFunction) -> None:
    conversation = logged_in()
    task = begin(conversation, 1)
    for _ in range(2):
        assert manage(conversation, function) == [], "the device server has not returned"
    returns(task)
    assert [pdu.response for pdu in conversation.answers() if isinstance(pdu, TaskManagementResponse)] == [
        0,
        0,
    ]
    conversation.assert_alive()


def test_a_second_abort_waits_for_the_task_as_the_first_does() -> None:
    conversation = logged_in()
    task = begin(conversation, 1)
    for _ in range(2):
        assert manage(conversation, TaskFunction.ABORT_TASK, referenced_task_tag=1, ref_cmd_sn=1) == []
    returns(task)
    assert [pdu.response for pdu in conversation.answers() if isinstance(pdu, TaskManagementResponse)] == [
        0,
        0,
    ]


@pytest.mark.parametrize("function", [*MANY, TaskFunction.TARGET_WARM_RESET])
def test_a_reset_waits_for_what_executes_of_a_session_that_is_gone(function: TaskFunction) -> None:
    """A host that lost its session logs in again and resets the unit: no old WRITE may land after the answer."""
    node = make_node()
    before, after = Conversation(node), Conversation(node)
    before.log_in()
    task = begin(before, 1)
    before.target.eof()
    after.log_in()
    assert manage(after, function) == []
    returns(task)
    assert code(after.answers()) == 0
    assert not node.sessions[after.tsih].task_set.still_executing


def test_what_executes_for_others_does_not_hold_up_a_function_that_leaves_them_alone() -> None:
    node = make_node()
    one, other = Conversation(node), Conversation(node, isid=bytes(6))
    one.log_in()
    other.log_in()
    begin(other, 1)
    other.target.eof()
    assert code(manage(one, TaskFunction.ABORT_TASK_SET)) == 0
    assert manage(one, TaskFunction.CLEAR_TASK_SET) == []


def test_functions_that_wait_for_one_task_are_bounded() -> None:
    conversation = Conversation(make_node(limits=Limits(queued_commands=4)))
    conversation.log_in()
    begin(conversation, 1)
    abort = {"function": TaskFunction.ABORT_TASK, "referenced_task_tag": 1, "ref_cmd_sn": 1}
    for _ in range(4):
        assert manage(conversation, **abort) == []
        assert manage(conversation, TaskFunction.LOGICAL_UNIT_RESET) == []
    for again in (abort, {"function": TaskFunction.LOGICAL_UNIT_RESET}):
        assert code(manage(conversation, **again)) == TaskResponse.FUNCTION_REJECTED
    assert len(conversation.node.sessions[conversation.tsih].management.pending) == 8


def test_a_cold_reset_ends_the_session_whose_other_functions_still_wait() -> None:
    """Found by fuzzing: what waited for a task of its own stayed in the ended session."""
    conversation = logged_in()
    session = conversation.node.sessions[conversation.tsih]
    first = begin(conversation, 1)
    assert manage(conversation, TaskFunction.TARGET_COLD_RESET) == []
    second = begin(conversation, 2)
    assert manage(conversation, TaskFunction.CLEAR_TASK_SET) == []
    returns(first)
    assert code(conversation.answers()) == 0, (
        "the cold reset is done, the other function is not and never will be"
    )
    assert session.ended
    assert not session.management.pending
    returns(second)
    assert conversation.answers() == []
    assert not session.management.still_executing


def test_a_cold_reset_ends_the_others_though_its_own_session_is_gone_before() -> None:
    node = make_node()
    one, other = Conversation(node), Conversation(node, isid=bytes(6))
    one.log_in()
    other.log_in()
    begin(one, 1)
    assert manage(one, TaskFunction.TARGET_COLD_RESET) == []
    one.target.eof()
    assert not node.sessions
    assert other.target.closing


def fenced() -> tuple[Conversation, Conversation, Task]:
    """Two connections of one session; its reset has been answered and waits to be acknowledged, and the device server
    is done with a task of the second connection."""
    one, two = sessions("ResponseFence", connections=2)
    one.cmd_sn = 1
    manage(one, TaskFunction.LOGICAL_UNIT_RESET)
    two.cmd_sn = 1
    task = begin(two, 1)
    returns(task)
    session = one.node.sessions[one.tsih]
    assert session.fence is not None
    assert two.answers() == [] or all(isinstance(pdu, NopIn) for pdu in two.answers())
    return one, two, task


def test_a_result_held_by_a_fence_holds_up_no_function_of_another_session() -> None:
    """The device server is done with it: the other host need not wait until this one acknowledges its responses."""
    one, two, _ = fenced()
    other = Conversation(one.node, isid=bytes(6))
    other.log_in()
    assert code(manage(other, TaskFunction.LOGICAL_UNIT_RESET)) == 0
    acknowledge(one, one.target.next_stat_sn)
    acknowledge(two, two.target.next_stat_sn)
    acknowledge(one, one.target.next_stat_sn)
    assert one.node.sessions[one.tsih].fence is None
    assert not [pdu for pdu in two.answers() if isinstance(pdu, ScsiResponse)], "it was ended meanwhile"


def test_a_session_that_ends_with_a_fence_leaves_nothing_that_seems_to_execute() -> None:
    one, _, task = fenced()
    session = one.node.sessions[one.tsih]
    one.node.drop_session(one.tsih)
    assert session.ended
    assert not session.management.still_executing
    assert not session.task_set.still_executing
    assert task.state is TaskState.ENDED


def test_a_preemption_held_by_a_fence_ends_only_the_tasks_of_its_time() -> None:
    one, two = sessions("ResponseFence", connections=2)
    session = one.node.sessions[one.tsih]
    other = Conversation(one.node, isid=bytes(6))
    other.log_in()
    nexus = other.node.sessions[other.tsih].initiator_port, 1, 0
    manage(one, TaskFunction.LOGICAL_UNIT_RESET)
    two.cmd_sn = 1
    session.complete(begin(two, 1), PreemptingResult(0, preempted=(nexus,)))
    other.send(other.command(TUR, tag=5), execute=False)
    for conversation in (one, two, one):
        acknowledge(conversation, conversation.target.next_stat_sn)
    assert session.fence is None
    (answer,) = other.answers()
    assert isinstance(answer, ScsiResponse), "it came after the preemption"
