# SPDX-License-Identifier: Apache-2.0
"""Task management at the target (RFC 7143 sections 4.2.3, 11.5, 11.6; RFC 7144 section 5). Sans-IO.

A function that ends many tasks is answered when (section 4.2.3.3)

- every command sent before it has come (for the functions on a whole target what is missing counts as received),
- the device server works on none of its tasks any more, also not on those that were ended before (by another function,
  or with their connection or session): a WRITE among them must not land after the answer,
- the initiator has answered the R2Ts of those of its own tasks that end, unless TaskReporting is FastAbort
  (section 4.2.3.4), when asynchronous messages tell the other connections instead.

An initiator that sends neither the missing commands nor the data is not waited for longer than
``Limits.abort_wait_ns``: some stop sending without having negotiated FastAbort.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from iscsi_target.executor import PreemptingResult, ResetKind
from iscsi_target.session.response_fence import raise_fence
from iscsi_target.session.serial import before
from iscsi_target.session.task import Task, TaskState
from iscsi_target.wire.codec import CODECS
from iscsi_target.wire.lun import lun_from_bytes
from iscsi_target.wire.opcodes import AsyncEvent, Opcode, TaskFunction, TaskResponse
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
_OF_A_UNIT = (TaskFunction.ABORT_TASK_SET, TaskFunction.CLEAR_TASK_SET, TaskFunction.LOGICAL_UNIT_RESET)
_RFC_7144 = frozenset(
    {
        TaskFunction.QUERY_TASK,
        TaskFunction.QUERY_TASK_SET,
        TaskFunction.I_T_NEXUS_RESET,
        TaskFunction.QUERY_ASYNC_EVENT,
    }
)
_QUERIES = _RFC_7144 - {TaskFunction.I_T_NEXUS_RESET}
_SUPPORTED = _RFC_7144 | {TaskFunction.ABORT_TASK, TaskFunction.TASK_REASSIGN} | _RESETS.keys()


@runtime_checkable
class ReportsAttentions(Protocol):
    """Logical units that can say what unit attention waits for a nexus."""

    def attention_report(self, lun: int, initiator_port: str, target_port: int) -> bytes | None:
        """The Additional Response Information of QUERY ASYNCHRONOUS EVENT (SAM-5 7.10), three bytes: UADE DEPTH and
        sense key, additional sense code, its qualifier. None: nothing waits. The attention is not cleared."""
        ...


@dataclass(slots=True, eq=False)
class PendingFunction:
    """A function whose answer waits: for commands, for tasks in the device server, or for Data-Out on its way."""

    connection: TargetConnection
    request: TaskManagementRequest
    deadline_ns: int
    tasks: set[Task] = field(default_factory=set)
    transfers: set[int] = field(default_factory=set)
    """Target Transfer Tags whose data are still to come."""


class TaskManagement:
    """The task management of one session."""

    def __init__(self, session: TargetSession) -> None:
        self._session = session
        self.early: list[PendingFunction] = []
        """Functions that came before commands that were sent before them."""
        self.pending: list[PendingFunction] = []
        self.still_executing: set[Task] = set()
        """Tasks of this session ended while the device server works on them."""

    # -- facts --------------------------------------------------------------------------------------------------

    def task_ended(self, task: Task) -> None:
        """The device server has returned from a task that had been ended before."""
        self.still_executing.discard(task)
        self._session.task_set.still_executing.discard(task)
        for session in self._session.node.sessions_of(self._session.target):
            session.management.forget(task)

    def forget(self, task: Task) -> None:
        """`task` does not execute any more: answer the functions that waited only for it."""
        for function in list(self.pending):
            function.tasks.discard(task)
            self._settle(function)

    def transfer_ended(self, target_transfer_tag: int) -> None:
        """The last Data-Out for an R2T of a task that was ended has come."""
        for function in list(self.pending):
            if target_transfer_tag in function.transfers:
                function.transfers.discard(target_transfer_tag)
                self._settle(function)

    def commands_came(self) -> None:
        """ExpCmdSN moved on while functions were waiting for that."""
        early, self.early = self.early, []
        for function in early:
            if before(self._session.exp_cmd_sn, function.request.cmd_sn):
                self.early.append(function)
            else:
                self._start(function)

    def session_ended(self) -> None:
        """Neither commands nor data will come any more, and nobody will be there when what executes returns.

        What waited only for data is answered, what executes is not called done; a cold reset ends the other sessions.
        """
        self.early.clear()
        pending, self.pending = self.pending, []
        for function in pending:
            if not function.tasks:
                self._answer(function)
            elif function.request.function == TaskFunction.TARGET_COLD_RESET:
                self._end_all()

    def handle_timer(self, now_ns: int) -> None:
        """Time has passed: go on without commands and data that do not come."""
        if self.early and now_ns >= self.early[0].deadline_ns:
            late, self.early = self.early, []
            for function in late:
                self._start(function)
        for function in list(self.pending):
            if function.transfers and now_ns >= function.deadline_ns:
                function.transfers.clear()
                self._settle(function)

    def _settle(self, function: PendingFunction) -> None:
        if not function.tasks and not function.transfers and function in self.pending:
            self.pending.remove(function)
            self._answer(function)

    # -- requests -----------------------------------------------------------------------------------------------

    def receive(self, connection: TargetConnection, request: TaskManagementRequest) -> None:
        """Carry out one request and answer it, now or when what it waits for has happened."""
        session = self._session
        if session.target is None:
            response: TaskResponse | None = TaskResponse.FUNCTION_REJECTED
        elif request.function not in _SUPPORTED or (
            request.function in _RFC_7144 and session.agreed.iscsi_protocol_level < 2
        ):
            response = TaskResponse.FUNCTION_NOT_SUPPORTED
        elif request.function == TaskFunction.TASK_REASSIGN:
            response = session.allegiance.reassign(connection, request)
            connection.send_task_management_response(request.initiator_task_tag, response)
            if response is TaskResponse.FUNCTION_COMPLETE:
                session.allegiance.resume(connection, request)
            return
        elif request.function in _QUERIES:
            self._query(connection, request)
            return
        elif request.function == TaskFunction.ABORT_TASK:
            response = self._abort_task(connection, request)
        elif self._crowded:
            response = TaskResponse.FUNCTION_REJECTED
        else:
            response = None
            deadline_ns = session.node.now_ns + session.node.limits.abort_wait_ns
            function = PendingFunction(connection, request, deadline_ns)
            if request.function in _OF_A_UNIT and before(session.exp_cmd_sn, request.cmd_sn):
                self.early.append(function)
            else:
                self._start(function)
        if response is not None:
            connection.send_task_management_response(request.initiator_task_tag, response)

    @property
    def _crowded(self) -> bool:
        """True when no function may wait any more that ends no task of its own, and so could be sent without end."""
        limit = self._session.node.limits.queued_commands
        return len(self.early) >= limit or len(self.pending) >= 2 * limit

    def _query(self, connection: TargetConnection, request: TaskManagementRequest) -> None:
        """QUERY TASK, QUERY TASK SET, QUERY ASYNCHRONOUS EVENT (RFC 7144 section 5)."""
        session = self._session
        assert session.target is not None
        units, tasks, lun = session.target.logical_units, session.tasks, lun_from_bytes(request.lun)
        information = bytes(3)
        if lun not in units.luns_for(session.view):
            response = TaskResponse.LUN_DOES_NOT_EXIST
        elif request.function == TaskFunction.QUERY_ASYNC_EVENT:
            if isinstance(units, ReportsAttentions):
                report = units.attention_report(lun, session.initiator_port, session.portal_group_tag)
                response = (
                    TaskResponse.FUNCTION_COMPLETE if report is None else TaskResponse.FUNCTION_SUCCEEDED
                )
                information = report or information
            else:
                response = TaskResponse.FUNCTION_NOT_SUPPORTED
        else:
            if request.function == TaskFunction.QUERY_TASK:
                task = tasks.get(request.referenced_task_tag)
                found = task is not None and task.command.lun == lun
            else:
                found = any(task.command.lun == lun for task in tasks.values())
            response = TaskResponse.FUNCTION_SUCCEEDED if found else TaskResponse.FUNCTION_COMPLETE
        connection.send_task_management_response(
            request.initiator_task_tag, response, additional_information=information
        )

    def _abort_task(
        self, connection: TargetConnection, request: TaskManagementRequest
    ) -> TaskResponse | None:
        session = self._session
        tag, lun = request.referenced_task_tag, lun_from_bytes(request.lun)
        task = session.tasks.get(tag)
        if task is not None and task.command.lun == lun:
            self._run(PendingFunction(connection, request, 0), [task])
            return None
        ended = {
            task
            for task in self.still_executing
            if task.initiator_task_tag == tag and task.command.lun == lun
        }
        if ended:
            if self._crowded:
                return TaskResponse.FUNCTION_REJECTED
            self._run(PendingFunction(connection, request, 0, ended), [])
            return None
        # Section 11.6.1: a task that is not there but whose CmdSN lies in the window counts as received and aborted.
        plugged = (
            task is None
            and not before(request.ref_cmd_sn, session.exp_cmd_sn)
            and before(request.ref_cmd_sn, request.cmd_sn)
            and session.plug(request.ref_cmd_sn)
        )
        return TaskResponse.FUNCTION_COMPLETE if plugged else TaskResponse.TASK_DOES_NOT_EXIST

    def _start(self, function: PendingFunction) -> None:
        """All commands are there: end the tasks of a function that ends many."""
        session, request = self._session, function.request
        function.tasks |= self._ended_before(request)
        if request.function == TaskFunction.I_T_NEXUS_RESET:
            self._run(function, list(session.tasks.values()))
            return
        target, kind = session.target, TaskFunction(request.function)
        assert target is not None
        lun = None if kind in _TARGET_WIDE else lun_from_bytes(request.lun)
        known = target.logical_units.reset(
            _RESETS[kind], lun, session.initiator_port, session.portal_group_tag
        )
        if known:
            self._run(function, self._affected(kind, lun, request.cmd_sn))
        else:
            function.connection.send_task_management_response(
                request.initiator_task_tag, TaskResponse.LUN_DOES_NOT_EXIST
            )

    def _affected(self, function: TaskFunction, lun: int | None, cmd_sn: int) -> list[Task]:
        """Tasks that end: our own that came before this request; for some functions those of others too."""
        session = self._session
        for held_cmd_sn, _, frame in session.held_commands():
            if frame.opcode != Opcode.SCSI_COMMAND or not before(held_cmd_sn, cmd_sn):
                continue
            lun_field = CODECS[Opcode.SCSI_COMMAND].unpack(frame.header, frame.offset)[7]
            if lun is None or lun_from_bytes(lun_field) == lun:
                session.plug(held_cmd_sn)
        unit = None if lun is None else session.task_set.unit_at(session.view, lun)
        affected = [task for task in session.tasks.values() if not before(cmd_sn, task.cmd_sn)]
        if function in _OTHER_SESSIONS:
            for other in session.node.sessions_of(session.target):
                if other is not session:
                    affected += other.tasks.values()
        if unit is None:
            return affected
        return [task for task in affected if session.task_set.unit_of(task) == unit]

    def _ended_before(self, request: TaskManagementRequest) -> set[Task]:
        """Tasks that `request` is about, which were ended before and execute still, whatever session they were in."""
        session = self._session
        found = set(session.task_set.still_executing)
        if request.function not in _OTHER_SESSIONS:
            nexus = session.initiator_port, session.portal_group_tag
            found = {
                task for task in found if (task.command.initiator_port, task.command.target_port) == nexus
            }
        if request.function in _OF_A_UNIT:
            unit = session.task_set.unit_at(session.view, lun_from_bytes(request.lun))
            found = {task for task in found if session.task_set.unit_of(task) == unit}
        return found

    def preempt(self, result: PreemptingResult) -> None:
        """End the tasks of preempted nexuses, whatever session of the target they are in (SPC-4 5.13.11.2.6)."""
        preempted = frozenset(result.preempted)
        for session in self._session.node.sessions_of(self._session.target):
            for task in list(session.tasks.values()):
                if (session.initiator_port, session.portal_group_tag, task.command.lun) in preempted:
                    session.drop_task(task)

    def _run(self, function: PendingFunction, tasks: list[Task]) -> None:
        """End `tasks`, and answer when nothing of them is under way any more."""
        session = self._session
        many = function.request.function != TaskFunction.ABORT_TASK
        if many:
            self._tell_others(function.connection, tasks)
        owners = {task.connection.session for task in tasks}
        for owner in owners:
            if owner is not None:
                owner.dropping = True
        for task in tasks:
            if task.state is TaskState.EXECUTING:
                function.tasks.add(task)
            owner = task.connection.session
            if many and owner is session and session.agreed.task_reporting != "FastAbort":
                function.transfers.update(task.transfers)
            if owner is not None:
                owner.drop_task(task)
        for owner in owners:
            if owner is not None:
                owner.dropping = False
                owner.solicit_waiting()
        self.pending.append(function)
        self._settle(function)

    def _tell_others(self, issuing: TargetConnection, tasks: list[Task]) -> None:
        """Asynchronous event 5 on every other connection whose session has FastAbort, for each unit (4.2.3.4 d)."""
        told: dict[tuple[TargetConnection, bytes], None] = {}
        for task in tasks:
            owner = task.connection.session
            if task.connection is issuing or owner is None:
                continue
            if owner.agreed.task_reporting == "FastAbort":
                told[task.connection, task.lun_field] = None
        for connection, lun_field in told:
            connection.send_async(AsyncEvent.TASKS_TERMINATED, lun_field=lun_field)

    def _answer(self, function: PendingFunction) -> None:
        session, request = self._session, function.request
        send = partial(
            function.connection.send_task_management_response,
            request.initiator_task_tag,
            TaskResponse.FUNCTION_COMPLETE,
        )
        if request.function in _OF_A_UNIT or request.function == TaskFunction.TARGET_WARM_RESET:
            raise_fence(session, function.connection, send)
            return
        send()
        if request.function == TaskFunction.TARGET_COLD_RESET:
            self._end_all()
        elif request.function == TaskFunction.I_T_NEXUS_RESET:
            session.end("I_T nexus reset")

    def _end_all(self) -> None:
        """The end of a cold reset: every session with the target ends."""
        for session in self._session.node.sessions_of(self._session.target):
            session.end("target cold reset")
