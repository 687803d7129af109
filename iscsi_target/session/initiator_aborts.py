# SPDX-License-Identifier: Apache-2.0
"""Which tasks end at the initiator with task management, its own or others' (RFC 7143 sections 4.2.3, 11.9.1).

A task that ends this way gets no SCSI status. With TaskReporting=FastAbort its Data-Out stops with the request, else
with the response (sections 4.2.3.3 and 4.2.3.4). Sans-IO.
"""

from __future__ import annotations

from iscsi_target.session.initiator_session import InitiatorSession, InitiatorTask
from iscsi_target.session.serial import before
from iscsi_target.wire.opcodes import TaskFunction, TaskResponse

_OF_A_UNIT = frozenset(
    {TaskFunction.ABORT_TASK_SET, TaskFunction.CLEAR_TASK_SET, TaskFunction.LOGICAL_UNIT_RESET}
)
_OF_THE_NEXUS = frozenset(
    {TaskFunction.TARGET_WARM_RESET, TaskFunction.TARGET_COLD_RESET, TaskFunction.I_T_NEXUS_RESET}
)


class Aborts:
    """The task management requests of one connection that have not been answered."""

    def __init__(self, session: InitiatorSession) -> None:
        self._session = session
        self._requested: dict[int, list[InitiatorTask]] = {}

    def request_sent(
        self, task_tag: int, function: int, lun_field: bytes, referenced_task_tag: int, cmd_sn: int
    ) -> None:
        """A request left: the tasks it is about are those sent before it."""
        session = self._session
        if function == TaskFunction.ABORT_TASK:
            task = session.tasks.get(referenced_task_tag)
            affected = [] if task is None else [task]
        elif function in _OF_A_UNIT or function in _OF_THE_NEXUS:
            affected = [
                task
                for task in session.tasks.values()
                if task.cmd_sn_assigned
                and before(task.cmd_sn, cmd_sn)
                and (function in _OF_THE_NEXUS or task.lun_field == lun_field)
            ]
            if session.agreed.task_reporting == "FastAbort":
                for task in affected:
                    task.stopped = True
        else:
            return
        self._requested[task_tag] = affected

    def answered(self, task_tag: int, response: int) -> None:
        """A response came: when the function is complete, what is left of its tasks ends."""
        affected = self._requested.pop(task_tag, ())
        if response == TaskResponse.FUNCTION_COMPLETE:
            for task in affected:
                self._session.drop(task, "ended by task management")

    def terminated(self, lun_field: bytes) -> None:
        """Asynchronous event 5: somebody else ended all tasks of this logical unit."""
        for task in list(self._session.tasks.values()):
            if task.lun_field == lun_field and task.cmd_sn_assigned:
                self._session.drop(task, "ended by another initiator's task management")
