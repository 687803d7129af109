# SPDX-License-Identifier: Apache-2.0
"""Connection recovery at the target: tasks outlive their connection and are given to another one
(RFC 7143 sections 7.2.2-7.2.4, 7.5, 11.5.6, 11.14; error recovery level 2). Sans-IO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from iscsi_target.executor import ScsiResult
from iscsi_target.session import data_out
from iscsi_target.session.task import Task, TaskState
from iscsi_target.wire.opcodes import TaskResponse
from iscsi_target.wire.requests import TaskManagementRequest

if TYPE_CHECKING:
    from iscsi_target.session.target_connection import TargetConnection
    from iscsi_target.session.target_session import TargetSession

_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class Suspended:
    """A connection that is gone; its tasks wait until `deadline_ns` (set when the clock is next seen)."""

    connection: TargetConnection
    deadline_ns: int | None = None


class Allegiance:
    """The suspended connections of one session, and the tasks whose status is not acknowledged."""

    def __init__(self, session: TargetSession) -> None:
        self._session = session
        self.suspended: dict[int, Suspended] = {}
        self.answered: dict[int, Task] = {}
        """Tasks that were answered and may have to be answered again, by task tag."""

    @property
    def wanted(self) -> bool:
        """True when the session agreed on recovery of connections."""
        return self._session.agreed.error_recovery_level == 2

    def suspend(self, connection: TargetConnection) -> None:
        """The connection is gone, its tasks are not.

        Not more connections are waited for than the session may have: beyond that the oldest is given up.
        """
        connection.retention = None  # what it sent can be asked for on no connection any more
        older = self.suspended.pop(connection.cid, None)
        if older is not None:
            for task in (*self._session.tasks.values(), *self.answered.values()):
                if task.connection is older.connection:
                    task.connection = connection
        self.suspended[connection.cid] = Suspended(connection)
        while len(self.suspended) > self._session.agreed.max_connections:
            self._give_up(next(iter(self.suspended)))

    def handle_timer(self, now_ns: int) -> None:
        """Tasks that nobody asked for in Time2Wait + Time2Retain end; without connections the session does too."""
        session = self._session
        patience = (session.agreed.default_time2wait + session.agreed.default_time2retain) * _SECOND_NS
        for cid, entry in list(self.suspended.items()):
            if entry.deadline_ns is None:
                entry.deadline_ns = now_ns + patience
            elif now_ns >= entry.deadline_ns:
                self._give_up(cid)
        if not session.connections and not self.suspended:
            session.end("no connection was recovered in time")

    def _give_up(self, cid: int) -> None:
        entry = self.suspended.pop(cid)
        self._session.drop_tasks_of(entry.connection)
        self.forget(entry.connection)

    def forget(self, connection: TargetConnection) -> None:
        """Nothing that was answered on this connection will be asked for again."""
        for tag in [tag for tag, task in self.answered.items() if task.connection is connection]:
            del self.answered[tag]

    def acknowledged(self, initiator_task_tag: int) -> None:
        """The initiator has the status of this task."""
        self.answered.pop(initiator_task_tag, None)

    def reassign(self, connection: TargetConnection, request: TaskManagementRequest) -> TaskResponse:
        """TASK REASSIGN: give the referenced task to `connection`; `resume` follows when this says complete."""
        session = self._session
        if not self.wanted:
            return TaskResponse.REASSIGNMENT_NOT_SUPPORTED
        task = self._find(request.referenced_task_tag)
        if task is None:
            return TaskResponse.TASK_DOES_NOT_EXIST
        if session.connections.get(task.connection.cid) is task.connection:
            return TaskResponse.TASK_STILL_ALLEGIANT
        return TaskResponse.FUNCTION_COMPLETE

    def resume(self, connection: TargetConnection, request: TaskManagementRequest) -> None:
        """Go on with a reassigned task where the initiator says it is (ExpDataSN)."""
        session = self._session
        task = self._find(request.referenced_task_tag)
        if task is None:
            return
        task.connection = connection
        if task.state is TaskState.COLLECTING:
            data_out.ask_again(session, task)
        elif task.state is TaskState.READY:
            if task not in session.task_set.waiting:
                connection.ready.append(task)
                session.node.touched.add(connection)
        elif task.result is not None:
            self.answered.pop(task.initiator_task_tag, None)
            task.state = TaskState.EXECUTING
            session.tasks[task.initiator_task_tag] = task
            session.answer(task, task.result, first_data_sn=request.exp_data_sn)

    def keep(self, task: Task, result: ScsiResult) -> bool:
        """Keep a result for a task that may be reassigned; True when there is no connection to answer on now."""
        if not self.wanted:
            return False
        task.result = result
        if self._session.connections.get(task.connection.cid) is task.connection:
            return False
        task.state = TaskState.SENDING
        return True

    def _find(self, initiator_task_tag: int) -> Task | None:
        return self._session.tasks.get(initiator_task_tag) or self.answered.get(initiator_task_tag)
