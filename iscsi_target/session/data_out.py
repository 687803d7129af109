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
from iscsi_target.wire.opcodes import RESERVED_TAG, Opcode, RejectReason

if TYPE_CHECKING:
    from iscsi_target.session.target_connection import TargetConnection
    from iscsi_target.session.target_session import TargetSession

TASK_SET_FULL = 0x28
_GAPS = 64
"""Lost ranges of one sequence that are asked for again; with more of them the command ends."""
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
    task.received = min(len(immediate_data), needed)
    task.data_out = immediate_data[:needed]
    if final:
        if task.received >= needed:
            _ready(session, task)
            return
    else:
        task.unsolicited = Transfer(RESERVED_TAG, len(immediate_data), unsolicited_limit)
    task.state = TaskState.COLLECTING
    task.next_r2t_offset = len(immediate_data)
    if final:
        _ask(session, task)


def receive(session: TargetSession, connection: TargetConnection, frame: Frame) -> None:
    """A Data-Out PDU. Raises ProtocolError when it belongs to no task or transfer it may belong to."""
    _, final, _, _, _, initiator_task_tag, target_transfer_tag, _, data_sn, buffer_offset = _unpack(
        frame.header, frame.offset
    )
    task = session.tasks.get(initiator_task_tag)
    if task is None or task.state is not TaskState.COLLECTING:
        if task is None and not session.in_order and session.hold_data(connection, initiator_task_tag, frame):
            return
        session.ignored_pdus += 1  # the task was answered or aborted while its data were on the way
        if final and session.management.pending:
            session.management.transfer_ended(target_transfer_tag)
        return
    if task.connection is not connection:
        raise ProtocolError("Data-Out on another connection than its command (connection allegiance)")
    if not frame.data_digest_ok:
        # Section 7.8: reject and discard; then ask again, or end the task.
        connection.reject(frame, RejectReason.DATA_DIGEST_ERROR, "data digest error in Data-Out")
        if not session.agreed.error_recovery_level:
            session.fail_task(task, fixed_sense(ABORTED_COMMAND, PROTOCOL_SERVICE_CRC_ERROR))
            return
    solicited = target_transfer_tag != RESERVED_TAG
    transfer = task.transfers.get(target_transfer_tag) if solicited else task.unsolicited
    if transfer is None:
        if solicited:
            raise ProtocolError("Data-Out with a target transfer tag that no R2T gave")
        session.fail_task(task, fixed_sense(ABORTED_COMMAND, UNEXPECTED_UNSOLICITED_DATA))
        return
    end = buffer_offset + len(frame.data)
    if not _fits(session, transfer, data_sn, buffer_offset, end, final, solicited=solicited):
        session.fail_task(task, fixed_sense(ABORTED_COMMAND, INCORRECT_AMOUNT_OF_DATA))
        return
    lost = buffer_offset > transfer.offset or not frame.data_digest_ok
    if lost and len(transfer.missing) >= _GAPS:
        session.fail_task(task, fixed_sense(ABORTED_COMMAND, PROTOCOL_SERVICE_CRC_ERROR))
        return
    if buffer_offset > transfer.offset:
        transfer.missing.append((transfer.offset, buffer_offset))
    if frame.data_digest_ok:
        task.store(buffer_offset, frame.data)
    else:
        transfer.missing.append((buffer_offset, end))
    transfer.offset = end
    transfer.data_sn = data_sn + 1
    if final:
        if solicited:
            del task.transfers[target_transfer_tag]
        else:
            task.unsolicited = None
            task.next_r2t_offset = end
        for start, stop in transfer.missing:
            _send_r2t(session, task, start, min(stop, task.data_out_needed))
        advance(session, task)


def _fits(
    session: TargetSession,
    transfer: Transfer,
    data_sn: int,
    offset: int,
    end: int,
    final: bool,
    *,
    solicited: bool,
) -> bool:
    """Whether a PDU continues its sequence; with recovery it may leave a gap, which is asked for again."""
    if end > transfer.end or final < (end == transfer.end) or (solicited and final and end != transfer.end):
        return False
    if session.agreed.error_recovery_level:
        return offset >= transfer.offset and data_sn >= transfer.data_sn
    return offset == transfer.offset and data_sn == transfer.data_sn


def advance(session: TargetSession, task: Task) -> None:
    """Ask for the next data, or have the command executed when all are there."""
    if task.complete:
        _ready(session, task)
    elif task.solicited:
        send_r2ts(session, task)
    else:
        _ask(session, task)


def _ask(session: TargetSession, task: Task) -> None:
    """Begin to solicit data, unless it is not yet the task's turn (task attributes) or the budget is used up."""
    if task in session.task_set.waiting or task in session.waiting_for_budget:
        return
    if session.waiting_for_budget or not solicit(session, task):
        session.waiting_for_budget.append(task)


def solicit(session: TargetSession, task: Task) -> bool:
    """Ask for the missing data when the session's budget allows it; False: wait for your turn."""
    if session.dropping:
        return False
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
        task.next_r2t_offset = offset + length
        _send_r2t(session, task, offset, offset + length)


def ask_again(session: TargetSession, task: Task) -> None:
    """Solicit everything that was on its way and has not come: the connection or PDUs were lost."""
    gaps: list[tuple[int, int]] = []
    for transfer in task.transfers.values():
        gaps += [*transfer.missing, (transfer.offset, transfer.end)]
    task.transfers.clear()
    if task.unsolicited is not None:
        gaps += task.unsolicited.missing
        task.next_r2t_offset = task.unsolicited.offset
        task.unsolicited = None
    for start, end in gaps:
        _send_r2t(session, task, start, min(end, task.data_out_needed))
    advance(session, task)


def ask_for_all_again(session: TargetSession, connection: TargetConnection) -> None:
    """Solicit again what is missing of every write on a connection."""
    for task in list(session.tasks.values()):
        if (
            task.connection is connection
            and task.state is TaskState.COLLECTING
            and task not in session.waiting_for_budget
        ):
            ask_again(session, task)


def _send_r2t(session: TargetSession, task: Task, offset: int, end: int) -> None:
    if end <= offset:
        return
    tag = session.new_transfer_tag()
    task.transfers[tag] = Transfer(tag, offset, end)
    task.connection.send_r2t(task, tag, offset, end - offset)
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
    if task not in session.task_set.waiting:
        task.connection.ready.append(task)
        session.node.touched.add(task.connection)
