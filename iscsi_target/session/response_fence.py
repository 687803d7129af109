# SPDX-License-Identifier: Apache-2.0
"""Response Fence: a response that is ordered against all others of its session (RFC 7143 section 4.2.2.3).

Wanted for the response to a multi-task abort when TaskReporting is ResponseFence or FastAbort. On one connection TCP
does it; on several, every status sent before has to be acknowledged first, and status made after is held until the
fenced response is acknowledged. Sans-IO.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from iscsi_target.executor import ScsiResult
from iscsi_target.session.serial import before
from iscsi_target.session.task import Task, TaskState

if TYPE_CHECKING:
    from iscsi_target.session.target_connection import TargetConnection
    from iscsi_target.session.target_session import TargetSession


class ResponseFence:
    """One fence; the session has at most one at a time and `raise_fence` queues the next."""

    def __init__(
        self, session: TargetSession, connection: TargetConnection, send: Callable[[], None]
    ) -> None:
        self._session = session
        self._connection = connection
        self._send: Callable[[], None] | None = send
        self._unacknowledged: dict[TargetConnection, int] = {}
        self._held: list[tuple[Task, ScsiResult]] = []
        self._next: list[tuple[TargetConnection, Callable[[], None]]] = []

    def start(self) -> None:
        """Ask for the acknowledgement of what was sent so far."""
        self._await(list(self._session.connections.values()))

    def hold(self, task: Task, result: ScsiResult) -> None:
        """A result that came while the fence stands."""
        self._held.append((task, result))

    def queue(self, connection: TargetConnection, send: Callable[[], None]) -> None:
        """Another response that wants a fence of its own."""
        self._next.append((connection, send))

    def acknowledged(self, connection: TargetConnection, exp_stat_sn: int) -> None:
        """The initiator has every status of a connection before `exp_stat_sn`."""
        wanted = self._unacknowledged.get(connection)
        if wanted is not None and not before(exp_stat_sn, wanted):
            self.gone(connection)

    def gone(self, connection: TargetConnection) -> None:
        """Nothing is to be waited for on this connection any more."""
        if self._unacknowledged.pop(connection, None) is not None:
            connection.watch_acknowledgements(None)
            self._step()

    def _await(self, connections: list[TargetConnection]) -> None:
        for connection in connections:
            self._unacknowledged[connection] = connection.next_stat_sn
            connection.watch_acknowledgements(partial(self.acknowledged, connection))
            connection.ping()
        self._step()

    def _step(self) -> None:
        if self._unacknowledged:
            return
        if self._send is not None:
            send, self._send = self._send, None
            send()
            if self._session.connections.get(self._connection.cid) is self._connection:
                self._await([self._connection])
                return
        session = self._session
        session.fence = None
        for task, result in self._held:
            if task.state is TaskState.DEFERRED:  # not ended meanwhile
                session.give(task, result)
        for connection, send in self._next:
            raise_fence(session, connection, send)


def raise_fence(session: TargetSession, connection: TargetConnection, send: Callable[[], None]) -> None:
    """Have `send` make its response on `connection`, fenced where the session wants that."""
    if session.agreed.task_reporting == "RFC3720" or len(session.connections) < 2:
        send()
    elif session.fence is not None:
        session.fence.queue(connection, send)
    else:
        session.fence = ResponseFence(session, connection, send)
        session.fence.start()
