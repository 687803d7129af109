# SPDX-License-Identifier: Apache-2.0
"""The iSCSI target as a server: sockets, the caller's event loop (asyncio or uvloop), time, threads.

The protocol is in :mod:`iscsi_target.session`. One read is parsed whole, everything it led to is executed, and all
answers leave with one write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from heapq import heappop, heappush
from itertools import islice
from typing import assert_never

from iscsi_target.admission import OpenConnection, refusal
from iscsi_target.buffers import ConnectionInfo, ReceiveBuffers, SendBuffers, UnlimitedBuffers
from iscsi_target.command_threads import CommandThreads
from iscsi_target.errors import reason_of
from iscsi_target.executor import Deferred, LogicalUnits, ScsiCommand, ScsiResult
from iscsi_target.server_connection import ServerConnection
from iscsi_target.session.counters import ServerStatistics
from iscsi_target.session.events import (
    ConnectionAdded,
    ConnectionFailed,
    LoginRefused,
    PduRejected,
    SessionEnded,
    SessionEstablished,
)
from iscsi_target.session.limits import Limits
from iscsi_target.session.node import Portal, Target, TargetNode
from iscsi_target.session.target_connection import TargetConnection
from iscsi_target.session.target_session import TargetSession
from iscsi_target.session.task import Task, TaskState, fixed_sense
from iscsi_target.wire_filter import FilterFactory

__all__ = ["Limits", "Portal", "SessionInfo", "Target", "TargetServer"]

_log = logging.getLogger(__name__)
_HOUSEKEEPING_S = 0.25
_POLL_WAITING_S = 0.002
_POLL_IDLE_S = 0.005
_BACKLOG = 256
_READ_BYTES = 256 * 1024
_ACCEPT_PAUSE_S = 1.0
_TURNS = 8
_TASK_ABORTED = 0x40
_CHECK_CONDITION = 0x02
_INTERNAL_TARGET_FAILURE = fixed_sense(0x04, 0x4400)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session as others may see it."""

    tsih: int
    initiator_name: str
    target_name: str
    """Empty for a discovery session."""
    connections: tuple[ConnectionInfo, ...]
    commands: int
    read_bytes: int
    written_bytes: int
    tasks: int


class TargetServer:
    """Serves `targets` at `portals` in the event loop in which `start` is awaited.

    `portals`: port 0 asks the kernel for a free one; `portals` (the attribute) then has the actual addresses.
    `buffers` is asked before Data-In is handed to the kernel, `receive_buffers` before more is read. `wire_filter` is
    called for every connection that is accepted: what it returns sees, and may change, every byte of it.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        portals: Sequence[Portal] = (Portal("127.0.0.1", 0),),
        *,
        buffers: SendBuffers | None = None,
        limits: Limits | None = None,
        threads: int = 4,
        wire_filter: FilterFactory | None = None,
        receive_buffers: ReceiveBuffers | None = None,
    ) -> None:
        self.receive_buffers = receive_buffers
        self.node = TargetNode(targets, limits)
        self.buffers = buffers or UnlimitedBuffers()
        self.read_buffer = memoryview(bytearray(_READ_BYTES))
        """What one read brings; every connection is done with it before the next one reads."""
        self.charged = not isinstance(self.buffers, UnlimitedBuffers)
        self._wanted_portals = tuple(portals)
        self._threads = threads
        self._wire_filter = wire_filter
        self._listeners: list[tuple[socket.socket, Portal]] = []
        self._connections: dict[TargetConnection, ServerConnection] = {}
        self._completed: list[tuple[TargetSession, Task, ScsiResult | Deferred]] = []
        self._completed_lock = threading.Lock()
        self._running = 0
        self._deferred: list[tuple[int, int, TargetSession, Task, ScsiResult]] = []
        self._deferrals = 0
        self._deferred_timer: asyncio.TimerHandle | None = None
        self._pool: CommandThreads | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._housekeeping: asyncio.TimerHandle | None = None
        self._poll_timer: asyncio.TimerHandle | None = None
        self.waiting: dict[ServerConnection, None] = {}
        """Connections whose Data-In waits for units, longest wait first."""
        self.holding: dict[ServerConnection, None] = {}
        """Connections with unacknowledged, charged Data-In."""
        self.crowded_out: dict[ServerConnection, None] = {}
        """Connections whose commands wait because too many are executing."""
        self.without_room: dict[ServerConnection, None] = {}
        """Connections that are not read because the memory for their Data-Out is in use, longest wait first."""
        self._serving = False

    # -- life ---------------------------------------------------------------------------------------------------

    @property
    def portals(self) -> tuple[Portal, ...]:
        """The addresses listened on, with the actual port numbers."""
        return self.node.portals

    async def start(self) -> None:
        """Bind and listen. Raises OSError when a portal cannot be bound: the reason in `strerror`, the portal's
        address in `filename`."""
        self._loop = asyncio.get_running_loop()
        try:
            for portal in self._wanted_portals:
                listener, actual = _listen(portal)
                self._listeners.append((listener, actual))
        except OSError:
            self._close_listeners()
            raise
        self.node.portals = tuple(portal for _, portal in self._listeners)
        self._pool = CommandThreads(self._threads, "iscsi-io")
        for listener, portal in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener, portal)
        self._housekeeping = self._loop.call_later(_HOUSEKEEPING_S, self._keep_house)

    async def stop(self) -> None:
        """Close the portals, all sessions and connections, and wait for commands that still execute."""
        self._close_listeners()
        for timer in (self._housekeeping, self._poll_timer, self._deferred_timer):
            if timer is not None:
                timer.cancel()
        self._housekeeping = self._poll_timer = self._deferred_timer = None
        self._deferred.clear()
        for session in list(self.node.sessions.values()):
            session.end("the target stops")
        for connection in list(self._connections.values()):
            connection.abort()
        while self._running:
            await asyncio.sleep(0.001)
            self._take_completed()
        if self._pool is not None:
            self._pool.stop()
            self._pool = None
        self.report_events()

    async def __aenter__(self) -> TargetServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def sessions(self) -> list[SessionInfo]:
        """The sessions as they are now."""
        infos = []
        for session in self.node.sessions.values():
            statistics = session.statistics()
            infos.append(
                SessionInfo(
                    session.tsih,
                    session.initiator_name,
                    statistics.target_name,
                    tuple(
                        self._connections[connection].info
                        for connection in session.connections.values()
                        if connection in self._connections
                    ),
                    statistics.traffic.commands,
                    statistics.traffic.read_bytes,
                    statistics.traffic.written_bytes,
                    statistics.outstanding,
                )
            )
        return infos

    def statistics(self) -> ServerStatistics:
        """Everything that is counted, as it is now."""
        held: Counter[TargetSession | None] = Counter()
        for connection in self.holding:
            held[connection.core.session] += connection.held_bytes
        return ServerStatistics(
            self.node.statistics(),
            tuple(
                replace(session.statistics(), held_buffer_bytes=held[session])
                for session in self.node.sessions.values()
            ),
            len(self._connections),
            len(self.waiting),
            len(self.holding),
            held.total(),
        )

    def request_logout(self, tsih: int, time_s: int = 10) -> bool:
        """Ask the initiator of a session to log out within `time_s`; False: there is no such session."""
        found = self.node.request_logout(tsih, time_s)
        self.serve_touched()
        return found

    def request_negotiation(self, tsih: int, time_s: int = 10) -> bool:
        """Ask the initiator of a session to negotiate parameters within `time_s`; False: there is no such session."""
        found = self.node.request_negotiation(tsih, time_s)
        self.serve_touched()
        return found

    def drop_connection(self, tsih: int, cid: int) -> bool:
        """Drop a connection after saying so; False: there is no such connection."""
        found = self.node.drop_connection(tsih, cid)
        self.serve_touched()
        return found

    def drop_session(self, tsih: int) -> bool:
        """Drop a session after saying so; False: there is no such session."""
        found = self.node.drop_session(tsih)
        self.serve_touched()
        return found

    def report_scsi_event(self, target_name: str, lun: int, sense: bytes) -> int:
        """Send sense data to every session with the target as an asynchronous message; returns how many were told."""
        told = self.node.report_scsi_event(self.node.targets[target_name], lun, sense)
        self.serve_touched()
        return told

    # -- sockets ------------------------------------------------------------------------------------------------

    def _close_listeners(self) -> None:
        for listener, _ in self._listeners:
            if self._loop is not None:
                self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()

    def _accept(self, listener: socket.socket, portal: Portal) -> None:
        for _ in range(_BACKLOG):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                _log.warning("cannot accept connections at %s: %s", portal.spelled(), reason_of(error))
                self._pause_accepting(listener, portal)
                return
            peer = f"{address[0]}:{address[1]}"
            there = (
                OpenConnection(shell.info.peer_host, core.session is None)
                for core, shell in self._connections.items()
            )
            reason = refusal(self.node.limits, address[0], there)
            if reason is not None:
                _log.warning("refused the connection of %s: %s", peer, reason)
                sock.close()
                continue
            self._serve(sock, address, portal, peer)

    def _pause_accepting(self, listener: socket.socket, portal: Portal) -> None:
        """Descriptors or memory have run out: the waiting connection would be reported again and again."""
        assert self._loop is not None
        self._loop.remove_reader(listener.fileno())

        def again() -> None:
            if self._loop is not None and any(listener is one for one, _ in self._listeners):
                self._loop.add_reader(listener.fileno(), self._accept, listener, portal)

        self._loop.call_later(_ACCEPT_PAUSE_S, again)

    def _serve(self, sock: socket.socket, address: tuple[str, int], portal: Portal, peer: str) -> None:
        assert self._loop is not None
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        local = sock.getsockname()
        core = TargetConnection(
            self.node,
            peer=peer,
            local_host=local[0],
            portal_group_tag=portal.portal_group_tag,
            random_bytes=os.urandom,
            now_ns=time.monotonic_ns(),
            fast_path=True,
        )
        info = ConnectionInfo(local[0], local[1], address[0], address[1])
        wire = self._wire_filter(info, core) if self._wire_filter is not None else None
        self._connections[core] = ServerConnection(self, self._loop, sock, core, info, wire)

    # -- work ---------------------------------------------------------------------------------------------------

    def serve_touched(self) -> None:
        """Let every connection that has something to do get on with it."""
        if self._serving:
            return
        self._serving = True
        touched = self.node.touched
        try:
            while touched:
                connection = self._connections.get(touched.pop())
                if connection is not None:
                    connection.work()
        finally:
            self._serving = False
        if self.node.events:
            self.report_events()
        if (self.waiting or self.holding) and self._poll_timer is None:
            assert self._loop is not None
            delay = _POLL_WAITING_S if self.waiting else _POLL_IDLE_S
            self._poll_timer = self._loop.call_later(delay, self._poll)

    @property
    def polling(self) -> bool:
        """True while a timer looks after units that are held or waited for."""
        return self._poll_timer is not None

    def has_room(self, connection: ServerConnection) -> bool:
        """Whether a command of this connection may be begun.

        Commands that were aborted in the device server no longer take a place in the command window; without this a
        host that aborts and sends again, as hosts do while a disk hangs, would queue them without end.
        """
        limits, session = self.node.limits, connection.core.session
        if self._running < limits.executing_commands and (
            session is None or len(session.management.still_executing) < limits.queued_commands
        ):
            return True
        self.crowded_out.setdefault(connection)
        return False

    @property
    def threads_at_work(self) -> bool:
        """Whether a command is being executed in a thread."""
        return self._running > 0

    def execute(self, connection: ServerConnection, task: Task) -> None:
        """Run one task, here or in a thread."""
        session = connection.core.session
        if session is None or session.target is None:
            return
        units = session.target.logical_units
        if not units.blocking(task.command):
            result = _run(units, task.command)
            if isinstance(result, Deferred):
                self._defer(session, task, result)
            else:
                session.complete(task, result)
            return
        task.state = TaskState.EXECUTING
        self._running += 1
        assert self._pool is not None
        self._pool.submit(partial(self._execute_in_thread, session, task), self._running)

    def _execute_in_thread(self, session: TargetSession, task: Task) -> None:
        assert session.target is not None
        if task.state is TaskState.ENDED:  # aborted while it waited for a thread: it never begins
            result: ScsiResult | Deferred = ScsiResult(_TASK_ABORTED)
        else:
            result = _run(session.target.logical_units, task.command)
        with self._completed_lock:
            self._completed.append((session, task, result))
            first = len(self._completed) == 1
        if first:
            assert self._loop is not None
            # A closed loop has nobody left to answer; `stop` waits for the threads before that.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._take_completed)

    def _take_completed(self) -> None:
        with self._completed_lock:
            completed, self._completed = self._completed, []
        for session, task, result in completed:
            self._running -= 1
            if isinstance(result, Deferred):
                if task.state is not TaskState.ENDED:
                    self._defer(session, task, result)
                    continue
                result = result.result
            session.complete(task, result)
        self.node.touched.update(connection.core for connection in self.crowded_out)
        self.crowded_out.clear()
        self.serve_touched()

    def _defer(self, session: TargetSession, task: Task, deferred: Deferred) -> None:
        """Give the answer when it is due."""
        task.state = TaskState.DEFERRED
        self._deferrals += 1
        heappush(self._deferred, (deferred.due_ns, self._deferrals, session, task, deferred.result))
        if self._deferred[0][3] is task:
            self._arm_deferred(time.monotonic_ns())

    def _arm_deferred(self, now_ns: int) -> None:
        if self._deferred_timer is not None:
            self._deferred_timer.cancel()
            self._deferred_timer = None
        if self._deferred and self._loop is not None:
            delay_ns = max(0, self._deferred[0][0] - now_ns)
            self._deferred_timer = self._loop.call_later(delay_ns / 1e9, self._give_deferred)

    def _give_deferred(self) -> None:
        self._deferred_timer = None
        now_ns = time.monotonic_ns()
        while self._deferred and self._deferred[0][0] <= now_ns:
            _, _, session, task, result = heappop(self._deferred)
            if task.state is TaskState.DEFERRED:
                session.complete(task, result)
        self._arm_deferred(now_ns)
        self.serve_touched()

    def forget(self, connection: ServerConnection) -> None:
        """The socket of a connection is closed."""
        self._connections.pop(connection.core, None)
        self.waiting.pop(connection, None)
        self.holding.pop(connection, None)
        self.crowded_out.pop(connection, None)
        self.without_room.pop(connection, None)
        self.node.touched.discard(connection.core)

    def units_came_back(self) -> None:
        """Units may be there again: the next few that wait try their luck; who is refused goes to the end."""
        for connection in list(islice(self.waiting, _TURNS)):
            del self.waiting[connection]
            self.node.touched.add(connection.core)

    def room_came_back(self) -> None:
        """Some Data-Out was written: the next few that wait to be read try their luck; who is refused goes to the
        end."""
        for connection in list(islice(self.without_room, _TURNS)):
            del self.without_room[connection]
            connection.read_again()

    # -- time ---------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._poll_timer = None
        for connection in list(self.holding):
            connection.release_acknowledged()
        if self.waiting:
            self.units_came_back()
        self.serve_touched()

    def _keep_house(self) -> None:
        assert self._loop is not None
        now_ns = time.monotonic_ns()
        for core, connection in list(self._connections.items()):
            if core.next_deadline() <= now_ns:
                connection.note_progress(now_ns)
                core.handle_timer(now_ns)
            connection.handle_timer(now_ns)
        self.node.handle_timer(now_ns)
        if self.without_room:
            self.room_came_back()  # what is reserved may have changed
        self.serve_touched()
        self._housekeeping = self._loop.call_later(_HOUSEKEEPING_S, self._keep_house)

    def report_events(self) -> None:
        """One log line for each event; Rejects that differ in nothing share one: a flood of PDUs is none of lines."""
        events = self.node.events
        while events:
            event = events.popleft()
            match event:
                case SessionEstablished(name, target, tsih, cid, peer):
                    _log.info(
                        "session %d of %s with %s from %s, CID %d",
                        tsih,
                        name,
                        target or "discovery",
                        peer,
                        cid,
                    )
                case ConnectionAdded(name, tsih, cid, peer):
                    _log.info("session %d of %s: connection %d from %s", tsih, name, cid, peer)
                case LoginRefused(peer, status, text):
                    _log.warning("refused the login of %s: %s (status %#06x)", peer, text, status)
                case ConnectionFailed(peer, text):
                    _log.warning("connection of %s ends: %s", peer, text)
                case PduRejected(peer, reason, text):
                    count = 1
                    while events and events[0] == event:
                        events.popleft()
                        count += 1
                    times = f", {count} times" if count > 1 else ""
                    _log.warning("rejected a PDU of %s: %s (reason %#04x)%s", peer, text, reason, times)
                case SessionEnded(name, target, tsih, text):
                    _log.info("session %d of %s with %s ended: %s", tsih, name, target or "discovery", text)
                case _:
                    assert_never(event)


def _run(units: LogicalUnits, command: ScsiCommand) -> ScsiResult | Deferred:
    """Execute; a defect of the device server is logged and answered, so that no initiator waits for ever."""
    try:
        return units.execute(command)
    except Exception:  # noqa: BLE001 - whatever it is, the initiator gets an answer and the log gets the traceback
        _log.exception("the device server failed on CDB %s", command.cdb.hex())
        return ScsiResult(_CHECK_CONDITION, sense=_INTERNAL_TARGET_FAILURE, transfer_length=0)


def _listen(portal: Portal) -> tuple[socket.socket, Portal]:
    """A listening socket for the portal and the portal with its actual port."""
    family = socket.AF_INET6 if ":" in portal.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((portal.host, portal.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, reason_of(error), portal.spelled()) from error
    return listener, Portal(portal.host, listener.getsockname()[1], portal.portal_group_tag)
