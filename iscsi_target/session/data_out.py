# SPDX-License-Identifier: Apache-2.0
"""Data-Out at the target: immediate, unsolicited and solicited data (RFC 7143 sections 4.2.5.2, 11.7, 11.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iscsi_target.errors import ProtocolError
from iscsi_target.executor import ScsiCommand
from iscsi_target.session.task import (
    ABORTED_COMMAND,
    INCORRECT_AMOUNT_OF_DATA,
    PROTOCOL_SERVICE_CRC_ERROR,
    UNEXPECTED_UNSOLICITED_DATA,
    Task,
    TaskState,
    Transfer,
    fixed_sense,
)
from iscsi_target.wire.codec import CODECS
from iscsi_target.wire.framing import Frame
from iscsi_target.wire.opcodes import RESERVED_TAG, Opcode

if TYPE_CHECKING:
    from iscsi_target.session.target_connection import TargetConnection
    from iscsi_target.session.target_session import TargetSession

TASK_SET_FULL = 0x28
_unpack = CODECS[Opcode.DATA_OUT].unpack


def start(session: TargetSession, task: Task, immediate_data: memoryview, final: bool) -> None:
    """A command that brings data, or should: take its immediate data and see what else has to come."""
    command, agreed = task.command, session.agreed
    if (
        not command.write
        or (len(immediate_data) and not agreed.immediate_data)
        or (not final and agreed.initial_r2t)
    ):
        session.fail_task(task, fixed_sense(ABORTED_COMMAND, UNEXPECTED_UNSOLICITED_DATA))
        return
    unsolicited_limit = min(agreed.first_burst_length, command.expected_length)
    if len(immediate_data) > unsolicited_limit:
        session.fail_task(task, fixed_sense(ABORTED_COMMAND, INCORRECT_AMOUNT_OF_DATA))
        return
    assert session.target is not None
    task.data_out_wanted = session.target.logical_units.data_out_length(command)
    needed = min(command.expected_length, task.data_out_wanted)
    if needed > session.node.limits.transfer_bytes:
        session.fail_task(task, b"", status=TASK_SET_FULL)
        return
    task.data_out_needed = needed
    task.unsolicited_offset = len(immediate_data)
    task.received = min(len(immediate_data), needed)
    task.data_out = immediate_data[:needed]
    if final:
        if task.received >= needed:
            _ready(session, task)
            return
    else:
        task.unsolicited_open = True
        task.unsolicited_limit = unsolicited_limit
    task.state = TaskState.COLLECTING
    task.next_r2t_offset = len(immediate_data)
    if final and (session.waiting_for_budget or not solicit(session, task)):
        session.waiting_for_budget.append(task)


def receive(session: TargetSession, connection: TargetConnection, frame: Frame) -> None:
    """A Data-Out PDU. Raises ProtocolError when it belongs to no task or transfer it may belong to."""
    _, final, _, _, _, initiator_task_tag, target_transfer_tag, _, data_sn, buffer_offset = _unpack(
        frame.header, frame.offset
    )
    task = session.tasks.get(initiator_task_tag)
    if task is None or task.state is not TaskState.COLLECTING:
        session.ignored_pdus += 1  # the task was answered or aborted while its data were on the way
        return
    if task.connection is not connection:
        raise ProtocolError("Data-Out on another connection than its command (connection allegiance)")
    data = frame.data
    if not frame.data_digest_ok:
        session.fail_task(task, fixed_sense(ABORTED_COMMAND, PROTOCOL_SERVICE_CRC_ERROR))
        return
    if target_transfer_tag == RESERVED_TAG:
        _unsolicited(session, task, data, data_sn, buffer_offset, final)
        return
    transfer = task.transfers.get(target_transfer_tag)
    if transfer is None:
        raise ProtocolError("Data-Out with a target transfer tag that no R2T gave")
    end = buffer_offset + len(data)
    wrong = buffer_offset != transfer.offset or end > transfer.end or data_sn != transfer.data_sn
    if wrong or final != (end == transfer.end):
        session.fail_task(task, fixed_sense(ABORTED_COMMAND, INCORRECT_AMOUNT_OF_DATA))
        return
    task.store(buffer_offset, data)
    transfer.offset = end
    transfer.data_sn += 1
    if final:
        del task.transfers[target_transfer_tag]
        _advance(session, task)


def _unsolicited(
    session: TargetSession, task: Task, data: memoryview, data_sn: int, buffer_offset: int, final: bool
) -> None:
    end = buffer_offset + len(data)
    if not task.unsolicited_open:
        session.fail_task(task, fixed_sense(ABORTED_COMMAND, UNEXPECTED_UNSOLICITED_DATA))
        return
    if (
        buffer_offset != task.unsolicited_offset
        or data_sn != task.unsolicited_data_sn
        or end > task.unsolicited_limit
        or (end == task.unsolicited_limit and not final)
    ):
        session.fail_task(task, fixed_sense(ABORTED_COMMAND, INCORRECT_AMOUNT_OF_DATA))
        return
    task.store(buffer_offset, data)
    task.unsolicited_offset = end
    task.unsolicited_data_sn += 1
    if final:
        task.unsolicited_open = False
        task.next_r2t_offset = end
        _advance(session, task)


def _advance(session: TargetSession, task: Task) -> None:
    if task.complete:
        _ready(session, task)
    elif task.solicited:
        send_r2ts(session, task)
    elif session.waiting_for_budget or not solicit(session, task):
        session.waiting_for_budget.append(task)


def solicit(session: TargetSession, task: Task) -> bool:
    """Ask for the missing data when the session's budget allows it; False: wait for your turn."""
    missing = task.data_out_needed - task.next_r2t_offset
    if session.solicited_bytes and session.solicited_bytes + missing > session.node.limits.solicited_bytes:
        return False
    session.solicited_bytes += missing
    task.solicited = missing
    send_r2ts(session, task)
    return True


def send_r2ts(session: TargetSession, task: Task) -> None:
    """Send as many R2Ts as may be outstanding, each for at most MaxBurstLength."""
    agreed = session.agreed
    while task.next_r2t_offset < task.data_out_needed and len(task.transfers) < agreed.max_outstanding_r2t:
        offset = task.next_r2t_offset
        length = min(agreed.max_burst_length, task.data_out_needed - offset)
        tag = session.new_transfer_tag()
        task.transfers[tag] = Transfer(tag, offset, offset + length)
        task.next_r2t_offset = offset + length
        task.connection.send_r2t(task, tag, offset, length)
        task.r2t_sn += 1


def _ready(session: TargetSession, task: Task) -> None:
    command = task.command
    task.command = ScsiCommand(
        command.initiator_name,
        command.initiator_port,
        command.target_port,
        command.lun,
        command.cdb,
        task.data_out,
        command.read,
        command.write,
        command.expected_length,
        command.task_attribute,
        command.expected_data_in_length,
    )
    task.state = TaskState.READY
    task.connection.ready.append(task)
    session.node.touched.add(task.connection)
