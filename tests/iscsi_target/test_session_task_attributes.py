"""Task attributes: who waits for whom (SAM-5 8.6; RFC 7143 section 11.3.1)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_target.executor import ScsiCommand, ScsiResult, TaskAttribute
from iscsi_target.session.limits import Limits
from iscsi_target.session.task import Task, TaskState
from iscsi_target.wire.codec import Pdu
from iscsi_target.wire.lun import lun_to_bytes
from iscsi_target.wire.opcodes import TaskFunction
from iscsi_target.wire.requests import DataOut, TaskManagementRequest
from iscsi_target.wire.responses import R2T, ScsiResponse
from tests.iscsi_target.imaginary_wire import BLOCK, Conversation, RamDisk, hold, make_node, write_16

SIMPLE, ORDERED, HEAD = TaskAttribute.SIMPLE, TaskAttribute.ORDERED, TaskAttribute.HEAD_OF_QUEUE
TUR = bytes(6)


class TwoLuns(RamDisk):
    """LUNs 0 and 7 lead to one unit, LUN 1 to another."""

    def unit_for(self, initiator_name: str, lun: int) -> str | None:
        return {0: "one", 7: "one", 1: "two"}.get(lun)

    def luns_for(self, initiator_name: str) -> tuple[int, ...]:
        return (0, 1, 7)


def logged_in(**limits: int) -> Conversation:
    conversation = Conversation(make_node(TwoLuns(), limits=Limits(**limits)))
    conversation.log_in(("InitialR2T", "Yes"), ("ImmediateData", "Yes"), ("MaxBurstLength", "65536"))
    return conversation


def tags_ready(conversation: Conversation) -> list[int]:
    return [task.initiator_task_tag for task in conversation.target.ready]


def start(conversation: Conversation, tag: int) -> Task:
    """The device server begins with a task that is ready, in a thread."""
    ready = conversation.target.ready
    task = next(task for task in ready if task.initiator_task_tag == tag)
    ready.remove(task)
    hold(task)
    return task


def finish(conversation: Conversation, task: Task) -> list[Pdu]:
    assert conversation.target.session is not None
    conversation.target.session.complete(task, ScsiResult(0))
    return conversation.answers(execute=False)


def give(conversation: Conversation, tag: int, attr: int, lun: int = 0) -> list[Pdu]:
    return conversation.send(
        conversation.command(TUR, tag=tag, attr=attr, lun=lun_to_bytes(lun)), execute=False
    )


def test_an_ordered_task_waits_for_older_ones_and_newer_ones_wait_for_it() -> None:
    conversation = logged_in()
    give(conversation, 1, SIMPLE)
    older = start(conversation, 1)
    give(conversation, 2, ORDERED)
    give(conversation, 3, SIMPLE)
    assert tags_ready(conversation) == []
    finish(conversation, older)
    assert tags_ready(conversation) == [2]
    ordered = start(conversation, 2)
    give(conversation, 4, TaskAttribute.UNTAGGED)
    assert tags_ready(conversation) == []
    finish(conversation, ordered)
    assert tags_ready(conversation) == [3, 4]


def test_only_tasks_of_the_same_unit_wait_whatever_lun_leads_to_it() -> None:
    conversation = logged_in()
    give(conversation, 1, SIMPLE)
    older = start(conversation, 1)
    give(conversation, 2, ORDERED)
    give(conversation, 3, SIMPLE, lun=1)
    give(conversation, 4, SIMPLE, lun=7)
    assert tags_ready(conversation) == [3]
    finish(conversation, older)
    finish(conversation, start(conversation, 2))
    assert tags_ready(conversation) == [3, 4]


def test_an_ordered_task_of_another_session_counts_too() -> None:
    node = make_node(TwoLuns())
    one, two = Conversation(node), Conversation(node, isid=bytes(6))
    one.log_in()
    two.log_in()
    give(one, 1, SIMPLE)
    older = start(one, 1)
    give(two, 1, ORDERED)
    assert tags_ready(two) == []
    finish(one, older)
    assert tags_ready(two) == [1]


def test_a_head_of_queue_task_goes_before_all_that_have_not_begun() -> None:
    conversation = logged_in()
    give(conversation, 1, SIMPLE)
    running = start(conversation, 1)
    give(conversation, 2, SIMPLE)
    give(conversation, 3, ORDERED)
    give(conversation, 4, HEAD)
    assert tags_ready(conversation) == [4]
    finish(conversation, running)
    assert tags_ready(conversation) == [4]
    finish(conversation, start(conversation, 4))
    assert tags_ready(conversation) == [2]
    finish(conversation, start(conversation, 2))
    assert tags_ready(conversation) == [3]


def test_a_task_that_waits_asks_for_no_data() -> None:
    conversation = logged_in()
    give(conversation, 1, SIMPLE)
    older = start(conversation, 1)
    write = conversation.command(
        write_16(0, 4), tag=2, attr=ORDERED, write=True, expected_data_transfer_length=4 * BLOCK
    )
    assert conversation.send(write, execute=False) == []
    _, asked = finish(conversation, older)
    assert isinstance(asked, R2T)
    (answer,) = conversation.send(
        DataOut(
            final=True,
            initiator_task_tag=2,
            target_transfer_tag=asked.target_transfer_tag,
            exp_stat_sn=0,
            data_sn=0,
            buffer_offset=0,
            data=bytes(4 * BLOCK),
        )
    )
    assert isinstance(answer, ScsiResponse)
    assert answer.status == 0


def test_an_aborted_task_holds_up_nobody() -> None:
    conversation = logged_in()
    give(conversation, 1, SIMPLE)
    start(conversation, 1)
    give(conversation, 2, ORDERED)
    give(conversation, 3, SIMPLE)
    for tag, cmd_sn in ((2, 2), (1, 1)):
        abort = TaskManagementRequest(
            immediate=True,
            function=TaskFunction.ABORT_TASK,
            initiator_task_tag=100 + tag,
            referenced_task_tag=tag,
            ref_cmd_sn=cmd_sn,
            cmd_sn=conversation.cmd_sn,
            exp_stat_sn=0,
            lun=lun_to_bytes(0),
        )
        conversation.send(abort, execute=False)
    assert tags_ready(conversation) == [3]
    session = conversation.target.session
    assert session is not None
    assert not session.task_set.bars
    assert not session.task_set.waiting


@pytest.mark.parametrize("attr", [4, 5, 6, 7])
def test_an_aca_task_is_refused_while_there_is_no_auto_contingent_allegiance(attr: int) -> None:
    conversation = logged_in()
    (answer,) = give(conversation, 1, attr)
    assert isinstance(answer, ScsiResponse)
    assert (answer.status, answer.data[4] & 0x0F, answer.data[14:16]) == (2, 5, b"\x49\x00")
    conversation.assert_alive()


def test_simple_tasks_leave_no_trace() -> None:
    conversation = logged_in()
    for tag in range(8):
        give(conversation, tag, SIMPLE)
    session = conversation.target.session
    assert session is not None
    assert (session.task_set.bars, session.task_set.waiting) == ({}, {})


def _may_start(task: ScsiCommand, older: list[ScsiCommand], waiting_heads: int) -> bool:
    """The rule, said once more and plainly."""
    if task.task_attribute == HEAD:
        return True
    if waiting_heads:
        return False
    if task.task_attribute == ORDERED:
        return not older
    return all(other.task_attribute not in (ORDERED, HEAD) for other in older)


@settings(max_examples=60, deadline=None)
@given(
    attributes=st.lists(st.sampled_from([SIMPLE, ORDERED, HEAD]), min_size=1, max_size=14),
    seed=st.integers(0, 1 << 16),
)
def test_whatever_comes_and_ends_the_rule_holds_and_nobody_waits_for_ever(
    attributes: list[TaskAttribute], seed: int
) -> None:
    rng = random.Random(seed)
    conversation = logged_in()
    session = conversation.target.session
    assert session is not None
    arrived: list[Task] = []
    running: list[Task] = []
    pending = list(enumerate(attributes))
    while pending or session.tasks:
        choice = rng.randrange(3)
        if pending and choice == 0:
            tag, attr = pending.pop(0)
            give(conversation, tag, attr)
            arrived.append(session.tasks[tag])
        elif conversation.target.ready and (choice == 1 or (not running and not pending)):
            tag = rng.choice(tags_ready(conversation))
            task = session.tasks[tag]
            older = [
                other.command for other in arrived[: arrived.index(task)] if other in session.tasks.values()
            ]
            heads = sum(
                other.command.task_attribute == HEAD for other in session.tasks.values() if other is not task
            )
            assert _may_start(task.command, older, heads), (tag, attributes)
            running.append(start(conversation, tag))
        elif running:
            finish(conversation, running.pop(rng.randrange(len(running))))
        elif not pending:
            assert conversation.target.ready, "everybody waits for somebody"
    assert all(task.state is TaskState.ENDED for task in arrived)
    assert (session.task_set.bars, session.task_set.waiting) == ({}, {})
