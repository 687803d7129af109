# SPDX-License-Identifier: Apache-2.0
"""The order in which the tasks of a logical unit run: task attributes (SAM-5 8.6; RFC 7143 section 11.3.1). Sans-IO.

All sessions with a target share its task sets, one for each logical unit. SIMPLE tasks run as they come and cost
nothing here while no other attribute is in use. An ORDERED task waits for every older task of its unit and holds up
every newer one; a HEAD OF QUEUE task waits for nobody and goes before all that have not begun. A task that waits asks
for no data, so it holds no share of the transfer budget that an older one may need.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from iscsi_target.executor import LogicalUnits, TaskAttribute
from iscsi_target.session import data_out
from iscsi_target.session.task import Task, TaskState

if TYPE_CHECKING:
    from iscsi_target.session.target_session import TargetSession

INVALID_MESSAGE_ERROR = 0x4900
"""Sense for an ACA task while no auto contingent allegiance is there (SAM-5 8.6.5), and here there never is."""


@runtime_checkable
class MapsUnits(Protocol):
    """Logical units that several LUNs may lead to."""

    def unit_for(self, initiator_name: str, lun: int) -> Hashable | None:
        """What an initiator has under a LUN."""
        ...


class TaskSet:
    """The task sets of the logical units of one target."""

    def __init__(self, units: LogicalUnits | None) -> None:
        self._maps = units if isinstance(units, MapsUnits) else None
        self.bars: dict[Task, Hashable] = {}
        """ORDERED and HEAD OF QUEUE tasks that have not ended, with their unit. Empty: nobody waits for anybody."""
        self.waiting: dict[Task, set[Task]] = {}
        """Tasks that may not begin, and the tasks that each of them waits for."""
        self.still_executing: set[Task] = set()
        """Tasks ended while the device server works on them; their session may have ended too."""

    def enter(self, session: TargetSession, task: Task) -> None:
        """A task with an attribute of its own came, or any task while there are such."""
        attribute, unit = task.command.task_attribute, self.unit_of(task)
        if attribute == TaskAttribute.ORDERED:
            self.bars[task] = unit
            older = set(self._others(session, task, unit))
            if older:
                self.waiting[task] = older
        elif attribute == TaskAttribute.HEAD_OF_QUEUE:
            self.bars[task] = unit
            for other in self._others(session, task, unit):
                if other in self.waiting or (other.state is TaskState.READY and not other.solicited):
                    self.waiting.setdefault(other, set()).add(task)
                    if other in other.connection.ready:
                        other.connection.ready.remove(other)
        else:
            older = {bar for bar, its_unit in self.bars.items() if its_unit == unit}
            if older:
                self.waiting[task] = older

    def ended(self, task: Task) -> None:
        """A task ended: those that waited only for it may begin."""
        self.bars.pop(task, None)
        self.waiting.pop(task, None)
        for other, older in list(self.waiting.items()):
            older.discard(task)
            if not older:
                del self.waiting[other]
                _begin(other)

    def unit_at(self, initiator_name: str, lun: int) -> Hashable:
        """What tells apart the logical units behind LUNs."""
        unit = None if self._maps is None else self._maps.unit_for(initiator_name, lun)
        return lun if unit is None else unit

    def unit_of(self, task: Task) -> Hashable:
        """The logical unit of a task."""
        return self.unit_at(task.command.initiator_name, task.command.lun)

    def _others(self, session: TargetSession, task: Task, unit: Hashable) -> list[Task]:
        return [
            other
            for one in session.node.sessions_of(session.target)
            for other in one.tasks.values()
            if other is not task and self.unit_of(other) == unit
        ]


def _begin(task: Task) -> None:
    connection = task.connection
    session = connection.session
    if session is None or session.ended:
        return
    if task.state is TaskState.READY:
        connection.ready.append(task)
        session.node.touched.add(connection)
    elif task.state is TaskState.COLLECTING and task.unsolicited is None and not task.transfers:
        data_out.advance(session, task)
