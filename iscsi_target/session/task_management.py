# SPDX-License-Identifier: Apache-2.0
"""Task management at the target (RFC 7143 sections 4.2.3.3, 11.5, 11.6; RFC 7144 section 5). Sans-IO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iscsi_target.executor import ResetKind
from iscsi_target.session.serial import before
from iscsi_target.session.task import Task, TaskState
from iscsi_target.wire.codec import CODECS
from iscsi_target.wire.lun import lun_from_bytes
from iscsi_target.wire.opcodes import Opcode, TaskFunction, TaskResponse
from iscsi_target.wire.requests import TaskManagementRequest

if TYPE_CHECKING:
    from iscsi_target.session.target_connection import TargetConnection
    from iscsi_target.session.target_session import TargetSession

_RESETS = {
    TaskFunction.ABORT_TASK_SET: ResetKind.ABORT_TASK_SET,
    TaskFunction.CLEAR_TASK_SET: ResetKind.CLEAR_TASK_SET,
    TaskFunction.LOGICAL_UNIT_RESET: ResetKind.LOGICAL_UNIT_RESET,
    TaskFunction.TARGET_WARM_RESET: ResetKind.TARGET_WARM_RESET,
    TaskFunction.TARGET_COLD_RESET: ResetKind.TARGET_COLD_RESET,
}
_TARGET_WIDE = (TaskFunction.TARGET_WARM_RESET, TaskFunction.TARGET_COLD_RESET)
_OTHER_SESSIONS = (TaskFunction.CLEAR_TASK_SET, TaskFunction.LOGICAL_UNIT_RESET, *_TARGET_WIDE)


@dataclass(slots=True)
class PendingFunction:
    """A function whose answer waits until the tasks it ended have left the device server."""

    connection: TargetConnection
    request: TaskManagementRequest
    tasks: set[Task] = field(default_factory=set)


class TaskManagement:
    """The task management of one session."""

    def __init__(self, session: TargetSession) -> None:
        self._session = session
        self.pending: list[PendingFunction] = []
        self.still_executing: set[Task] = set()
        """Tasks ended while the device server works on them."""

    def task_ended(self, task: Task) -> None:
        """The device server has returned from a task that had been ended before."""
        self.still_executing.discard(task)
        for session in self._session.node.sessions_of(self._session.target):
            session.management.forget(task)

    def forget(self, task: Task) -> None:
        """`task` does not execute any more: answer the functions that waited only for it."""
        for function in list(self.pending):
            function.tasks.discard(task)
            if not function.tasks:
                self.pending.remove(function)
                self._answer(function)

    def receive(self, connection: TargetConnection, request: TaskManagementRequest) -> None:
        """Carry out one request and answer it, now or when executing tasks have ended."""
        response = self._refusal(request)
        if response is None and request.function == TaskFunction.TASK_REASSIGN:
            allegiance = self._session.allegiance
            response = allegiance.reassign(connection, request)
            connection.send_task_management_response(request.initiator_task_tag, response)
            if response is TaskResponse.FUNCTION_COMPLETE:
                allegiance.resume(connection, request)
            return
        if response is None and request.function in (TaskFunction.QUERY_TASK, TaskFunction.QUERY_TASK_SET):
            response = self._query(request)
        if response is None and request.function == TaskFunction.ABORT_TASK:
            self._abort_task(connection, request)
            return
        if response is None and request.function == TaskFunction.I_T_NEXUS_RESET:
            self._run(connection, request, list(self._session.tasks.values()))
            return
        if response is None:
            function = TaskFunction(request.function)
            target = self._session.target
            assert target is not None
            lun = None if function in _TARGET_WIDE else lun_from_bytes(request.lun)
            known = target.logical_units.reset(
                _RESETS[function], lun, self._session.initiator_port, self._session.portal_group_tag
            )
            if known:
                self._run(connection, request, self._affected(function, lun, request.cmd_sn))
                return
            response = TaskResponse.LUN_DOES_NOT_EXIST
        connection.send_task_management_response(request.initiator_task_tag, response)

    def _refusal(self, request: TaskManagementRequest) -> TaskResponse | None:
        if self._session.target is None:
            return TaskResponse.FUNCTION_REJECTED
        if request.function == TaskFunction.CLEAR_ACA:
            return TaskResponse.FUNCTION_NOT_SUPPORTED
        if request.function in (
            TaskFunction.QUERY_TASK,
            TaskFunction.QUERY_TASK_SET,
            TaskFunction.I_T_NEXUS_RESET,
        ):
            level = self._session.agreed.iscsi_protocol_level
            return None if level >= 2 else TaskResponse.FUNCTION_NOT_SUPPORTED
        if (
            request.function in (TaskFunction.ABORT_TASK, TaskFunction.TASK_REASSIGN)
            or request.function in _RESETS
        ):
            return None
        return TaskResponse.FUNCTION_NOT_SUPPORTED

    def _query(self, request: TaskManagementRequest) -> TaskResponse:
        tasks = self._session.tasks
        lun = lun_from_bytes(request.lun)
        if request.function == TaskFunction.QUERY_TASK:
            task = tasks.get(request.referenced_task_tag)
            found = task is not None and task.command.lun == lun
        else:
            found = any(task.command.lun == lun for task in tasks.values())
        return TaskResponse.FUNCTION_SUCCEEDED if found else TaskResponse.FUNCTION_COMPLETE

    def _abort_task(self, connection: TargetConnection, request: TaskManagementRequest) -> None:
        session = self._session
        task = session.tasks.get(request.referenced_task_tag)
        if task is not None and task.command.lun == lun_from_bytes(request.lun):
            self._run(connection, request, [task])
            return
        # Section 11.6.1: a task that is not there but whose CmdSN lies in the window counts as received and aborted.
        plugged = (
            task is None
            and not before(request.ref_cmd_sn, session.exp_cmd_sn)
            and before(request.ref_cmd_sn, request.cmd_sn)
            and session.plug(request.ref_cmd_sn)
        )
        response = TaskResponse.FUNCTION_COMPLETE if plugged else TaskResponse.TASK_DOES_NOT_EXIST
        connection.send_task_management_response(request.initiator_task_tag, response)

    def _affected(self, function: TaskFunction, lun: int | None, cmd_sn: int) -> list[Task]:
        """Tasks that end: our own that came before this request; for some functions those of others too."""
        session = self._session
        for held_cmd_sn, _, frame in session.held_commands():
            if frame.opcode != Opcode.SCSI_COMMAND or not before(held_cmd_sn, cmd_sn):
                continue
            lun_field = CODECS[Opcode.SCSI_COMMAND].unpack(frame.header, frame.offset)[7]
            if lun is None or lun_from_bytes(lun_field) == lun:
                session.plug(held_cmd_sn)
        affected = [task for task in session.tasks.values() if lun is None or task.command.lun == lun]
        if function in _OTHER_SESSIONS:
            for other in session.node.sessions_of(session.target):
                if other is not session:
                    affected += [
                        task for task in other.tasks.values() if lun is None or task.command.lun == lun
                    ]
        return affected

    def _run(self, connection: TargetConnection, request: TaskManagementRequest, tasks: list[Task]) -> None:
        function = PendingFunction(connection, request)
        for task in tasks:
            if task.state is TaskState.EXECUTING:
                function.tasks.add(task)
            owner = task.connection.session
            if owner is not None:
                owner.drop_task(task)
        if function.tasks:
            self.pending.append(function)
        else:
            self._answer(function)

    def _answer(self, function: PendingFunction) -> None:
        session, request = self._session, function.request
        function.connection.send_task_management_response(
            request.initiator_task_tag, TaskResponse.FUNCTION_COMPLETE
        )
        if request.function == TaskFunction.TARGET_COLD_RESET:
            for other in session.node.sessions_of(session.target):
                other.end("target cold reset")
        elif request.function == TaskFunction.I_T_NEXUS_RESET:
            session.end("I_T nexus reset")
