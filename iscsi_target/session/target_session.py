# SPDX-License-Identifier: Apache-2.0
"""A session at the target: command window, ordering across connections, tasks (RFC 7143 section 4.2). Sans-IO."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from iscsi_target.errors import ProtocolError
from iscsi_target.executor import PreemptingResult, ScsiCommand, ScsiResult, TaskAttribute
from iscsi_target.session import data_out
from iscsi_target.session.allegiance import Allegiance
from iscsi_target.session.counters import SessionStatistics, TrafficTable, by_lun, total
from iscsi_target.session.parameters import Agreed
from iscsi_target.session.response_fence import ResponseFence
from iscsi_target.session.serial import before
from iscsi_target.session.task import ILLEGAL_REQUEST, DataInSource, Task, TaskState, fixed_sense
from iscsi_target.session.task_management import PendingFunction, TaskManagement
from iscsi_target.session.task_set import INVALID_MESSAGE_ERROR
from iscsi_target.wire.ahs import decode_ahs
from iscsi_target.wire.codec import CODECS
from iscsi_target.wire.framing import Frame
from iscsi_target.wire.lun import lun_from_bytes
from iscsi_target.wire.names import initiator_port
from iscsi_target.wire.opcodes import Opcode, RejectReason

if TYPE_CHECKING:
    from iscsi_target.session.node import Target, TargetNode
    from iscsi_target.session.target_connection import TargetConnection

_MASK = 0xFFFFFFFF
_EARLY_DATA_PDUS = 256
_unpack_command = CODECS[Opcode.SCSI_COMMAND].unpack


class TargetSession:
    """State shared by the connections of one session."""

    def __init__(
        self,
        node: TargetNode,
        *,
        target: Target | None,
        initiator_name: str,
        isid: bytes,
        portal_group_tag: int,
        agreed: Agreed,
        view: str = "",
        chap_name: str = "",
    ) -> None:
        self.node = node
        self.target = target
        """None in a discovery session."""
        self.initiator_name = initiator_name
        self.initiator_port = initiator_port(initiator_name, isid)
        self.view = view or initiator_name
        """The name by which the logical units know what it sees: the initiator's, or that of an access rule."""
        self.chap_name = chap_name
        """What the initiator has proven by CHAP; empty: nothing."""
        self.isid = isid
        self.portal_group_tag = portal_group_tag
        self.agreed = agreed
        """The session-wide outcome of the leading login."""
        self.tsih = 0
        self.exp_cmd_sn = 0
        self.max_cmd_sn = 0
        self.connections: dict[int, TargetConnection] = {}
        self.tasks: dict[int, Task] = {}
        self.management = TaskManagement(self)
        self.allegiance = Allegiance(self)
        self.task_set = node.task_set_of(target)
        """Shared by all sessions with the target."""
        self.solicited_bytes = 0
        self.waiting_for_budget: deque[Task] = deque()
        self.dropping = False
        """Several tasks are being ended: none is asked for data only because another one made room."""
        self.traffic = TrafficTable()
        """Counters by LUN."""
        self.ignored_pdus = 0
        """PDUs outside the command window, silently ignored as section 4.2.2.1 demands."""
        self.ended = False
        self.fence: ResponseFence | None = None
        """A response that is ordered against all others is on its way."""
        self._early_data: dict[int, list[Frame]] = {}
        """Unsolicited Data-Out of commands that are held, by task tag."""
        self._held: dict[int, tuple[TargetConnection, Frame] | None] = {}
        """PDUs that came ahead of a gap; None where the CmdSN was dealt with without a PDU."""
        self._immediate_tasks = 0
        self._next_transfer_tag = 0

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self, initial_cmd_sn: int) -> None:
        """Open the command window: the first command carries the CmdSN of the leading login."""
        self.exp_cmd_sn = initial_cmd_sn
        self.max_cmd_sn = (initial_cmd_sn + self.node.limits.queued_commands - 1) & _MASK

    def attach(self, connection: TargetConnection) -> None:
        """A connection entered full-feature phase."""
        self.connections[connection.cid] = connection

    def detach(self, connection: TargetConnection, text: str, *, recover: bool = False) -> None:
        """A connection is gone: its tasks end with it, and the session with its last connection.

        With `recover`, and at error recovery level 2, they wait to be reassigned instead.
        """
        if self.connections.get(connection.cid) is not connection:
            return
        del self.connections[connection.cid]
        if recover and self.allegiance.wanted:
            self.allegiance.suspend(connection)
        else:
            self.drop_tasks_of(connection)
            self.allegiance.forget(connection)
        for cmd_sn, owner, _ in self.held_commands():
            if owner is connection:
                del self._held[cmd_sn]
        if not self._held:
            self._early_data.clear()
        if self.fence is not None:
            self.fence.gone(connection)
        if not self.connections and not self.allegiance.suspended and text != "connection reinstatement":
            self.end(text)

    def drop_tasks_of(self, connection: TargetConnection) -> None:
        """End the tasks of a connection."""
        self.dropping = True
        for task in [task for task in self.tasks.values() if task.connection is connection]:
            self.drop_task(task)
        self.dropping = False
        self.solicit_waiting()

    def end(self, text: str) -> None:
        """The session is over: close what is left of it and lose the nexus."""
        if self.ended:
            return
        self.ended = self.dropping = True
        for task in list(self.tasks.values()):
            self.drop_task(task)
        self.management.session_ended()
        self.fence = None
        self._held.clear()
        self._early_data.clear()
        connections, self.connections = list(self.connections.values()), {}
        for connection in connections:
            connection.close()
        self.node.forget(self, text)

    # -- numbering ----------------------------------------------------------------------------------------------

    def receive(self, connection: TargetConnection, frame: Frame, immediate: bool, cmd_sn: int) -> None:
        """A PDU that carries a CmdSN: deliver it, and what it was holding up, in CmdSN order."""
        if immediate:
            connection.deliver(frame, cmd_sn, True)
            return
        ahead = (cmd_sn - self.exp_cmd_sn) & _MASK
        if ahead == 0:
            if before(self.max_cmd_sn, cmd_sn):
                self.ignored_pdus += 1
                return
            self.exp_cmd_sn = (cmd_sn + 1) & _MASK
            connection.deliver(frame, cmd_sn, False)
            self._deliver_held()
        elif ahead <= ((self.max_cmd_sn - self.exp_cmd_sn) & _MASK) < 0x80000000 and cmd_sn not in self._held:
            self._held[cmd_sn] = (connection, frame)
        else:
            self.ignored_pdus += 1

    @property
    def in_order(self) -> bool:
        """True while nothing is held for a gap, and no command has to wait for another."""
        return not (self._held or self.fence is not None or self.task_set.bars or self.management.early)

    def release_window(self) -> None:
        """One numbered PDU is dealt with: the window may move on by one."""
        self.max_cmd_sn = (self.max_cmd_sn + 1) & _MASK

    def _deliver_held(self) -> None:
        """Deliver what waited for the gap that was just closed."""
        while self.exp_cmd_sn in self._held:
            cmd_sn = self.exp_cmd_sn
            entry = self._held.pop(cmd_sn)
            self.exp_cmd_sn = (cmd_sn + 1) & _MASK
            if entry is None:
                self.release_window()
            else:
                entry[0].deliver(entry[1], cmd_sn, False)
                if self._early_data and entry[1].opcode == Opcode.SCSI_COMMAND:
                    for frame in self._early_data.pop(_tag_of(entry[1]), ()):
                        entry[0].deliver_data(frame)
                self.node.touched.add(entry[0])  # the gap may have been closed on another connection
        if not self._held:
            self._early_data.clear()
        if self.management.early:
            self.management.commands_came()

    def hold_data(self, connection: TargetConnection, initiator_task_tag: int, frame: Frame) -> bool:
        """Keep unsolicited Data-Out whose command is held: a gap in CmdSN may be on its way on another connection,
        and then the command's data come before its turn. False: there is no such command.

        Raises ProtocolError for more than FirstBurstLength, or for too many PDUs.
        """
        for _, owner, command in self.held_commands():
            if (
                owner is connection
                and command.opcode == Opcode.SCSI_COMMAND
                and _tag_of(command) == initiator_task_tag
            ):
                kept = self._early_data.setdefault(initiator_task_tag, [])
                size = len(frame.data) + sum([len(early.data) for early in kept])
                if size > self.agreed.first_burst_length or len(kept) >= _EARLY_DATA_PDUS:
                    raise ProtocolError("too much unsolicited data ahead of the command's turn")
                kept.append(frame)
                return True
        return False

    def plug(self, cmd_sn: int) -> bool:
        """Treat `cmd_sn` as received and dealt with (section 11.5.5); False when it does not lie in the window."""
        if before(cmd_sn, self.exp_cmd_sn) or before(self.max_cmd_sn, cmd_sn):
            return False
        self._held[cmd_sn] = None
        self._deliver_held()
        return True

    def held_commands(self) -> list[tuple[int, TargetConnection, Frame]]:
        """Commands received ahead of a gap."""
        return [(cmd_sn, *entry) for cmd_sn, entry in self._held.items() if entry is not None]

    # -- tasks --------------------------------------------------------------------------------------------------

    def scsi_command(self, connection: TargetConnection, frame: Frame, cmd_sn: int, immediate: bool) -> None:
        """A SCSI Command PDU in its turn. Raises ProtocolError for what is to be rejected."""
        (
            _,
            final,
            read,
            write,
            attr,
            _,
            _,
            lun_field,
            initiator_task_tag,
            expected_length,
            _,
            _,
            cdb,
        ) = _unpack_command(frame.header, frame.offset)
        target = self.target
        if target is None:
            self._refused(immediate)
            raise ProtocolError("a SCSI command in a discovery session")
        if initiator_task_tag in self.tasks:
            self._refused(immediate)
            raise ProtocolError("the task tag is in use", RejectReason.TASK_IN_PROGRESS)
        read_length = 0
        if frame.ahs:
            try:
                headers = decode_ahs(bytes(frame.ahs))
            except ProtocolError:
                self._refused(immediate)
                raise
            cdb += headers.cdb_continuation
            read_length = headers.bidirectional_read_length or 0
        if immediate:
            if self._immediate_tasks >= self.node.limits.queued_commands:
                raise ProtocolError("too many immediate commands", RejectReason.TOO_MANY_IMMEDIATE_COMMANDS)
            self._immediate_tasks += 1
        lun = lun_from_bytes(lun_field)
        traffic = self.traffic.by_lun.get(lun) or self.traffic.of(
            lun, target.logical_units.luns_for(self.view)
        )
        if write:
            traffic.writes += 1
        elif read:
            traffic.reads += 1
        else:
            traffic.others += 1
        command = ScsiCommand(
            self.view,
            self.initiator_port,
            self.portal_group_tag,
            lun,
            cdb,
            b"",
            read,
            write,
            expected_length,
            attr,
            read_length,
        )
        self.allegiance.acknowledged(initiator_task_tag)  # who uses a task tag again has the old answer
        task = Task(
            connection,
            initiator_task_tag,
            lun_field,
            cmd_sn,
            immediate,
            command,
            traffic,
            self.node.now_ns,
        )
        self.tasks[initiator_task_tag] = task
        if attr > TaskAttribute.SIMPLE or self.task_set.bars:
            if attr >= TaskAttribute.ACA:
                self.fail_task(task, fixed_sense(ILLEGAL_REQUEST, INVALID_MESSAGE_ERROR))
                return
            self.task_set.enter(self, task)
        if write or frame.data or not final:
            data_out.start(self, task, frame.data, final)
        elif task not in self.task_set.waiting:
            connection.ready.append(task)

    def complete(self, task: Task, result: ScsiResult) -> None:
        """The device server has answered."""
        if type(result) is PreemptingResult:
            self.management.preempt(result)
        if task.state is TaskState.ENDED:
            self.management.task_ended(task)
            self.node.touched.update(self.connections.values())  # they may have waited for it
            return
        if self.fence is not None:
            task.state = TaskState.DEFERRED
            self.fence.hold(task, result)
        else:
            self.give(task, result)

    def give(self, task: Task, result: ScsiResult) -> None:
        """Answer a task, or keep the answer until there is a connection for it."""
        if not self.allegiance.keep(task, result):
            self.answer(task, result)

    def answer(self, task: Task, result: ScsiResult, *, first_data_sn: int = 0) -> None:
        """Send Data-In and status; with `first_data_sn` only the Data-In from that DataSN on (reassigned task).

        Data-In of a bidirectional command is numbered after its R2Ts (section 4.2.2.4); a read has none.
        """
        command = task.command
        total = sum([len(buffer) for buffer in result.data_in])
        transfer = total if result.transfer_length is None else result.transfer_length
        if command.read:
            if command.write:
                total = min(total, command.expected_data_in_length)
                task.traffic.written_bytes += task.received
            else:
                total = min(total, command.expected_length)
            sent = min(max(first_data_sn - task.r2t_sn, 0), len(task.sent_data))
            start = task.sent_data[sent - 1] if sent else 0
            if start < total:
                task.traffic.read_bytes += total - start
                task.state = TaskState.SENDING
                source = DataInSource(task, result, total, transfer, self.agreed.max_burst_length)
                if start:
                    source = source.from_offset(start, sent, self.agreed.max_burst_length)
                source.data_sn = task.r2t_sn + sent
                task.connection.queue_data_in(source)
                return
            first_data_sn = task.r2t_sn + len(task.sent_data)
        elif command.write:
            if result.transfer_length is None:
                transfer = task.data_out_wanted
            task.traffic.written_bytes += task.received
        elif not command.read and result.transfer_length is None and not total and self.target is not None:
            transfer = self.target.logical_units.data_out_length(command)  # wanted, though none was announced
        task.connection.send_response(task, result, transfer, first_data_sn)
        self.finish(task)

    def finish(self, task: Task) -> None:
        """The task's status has been made: forget it and move the window."""
        task.state = TaskState.ENDED
        if self.tasks.get(task.initiator_task_tag) is task:
            del self.tasks[task.initiator_task_tag]
        if not task.released:
            # Before anything else is sent: the status has told the window as it is from now on.
            task.released = True
            self._done(task.immediate)
        if self.task_set.bars:
            self.task_set.ended(task)
        if task.result is not None:
            self.allegiance.answered[task.initiator_task_tag] = task
        self._release_budget(task)

    def drop_task(self, task: Task) -> None:
        """End a task without an answer (abort, reset, connection lost). One that executes is answered to nobody."""
        executing = task.state is TaskState.EXECUTING
        if task.state is TaskState.ENDED:
            return
        task.result = None
        self.finish(task)
        task.transfers.clear()
        task.connection.forget_task(task)
        if executing:
            self.management.still_executing.add(task)
            self.task_set.still_executing.add(task)
            if self.target is not None:
                self.target.logical_units.abandon(task.command)

    def fail_task(self, task: Task, sense: bytes, *, status: int = 0x02) -> None:
        """End a task with CHECK CONDITION (or `status`) that the session layer itself found."""
        task.connection.send_response(task, ScsiResult(status, sense=sense, transfer_length=0), 0)
        self.finish(task)
        task.transfers.clear()

    def new_transfer_tag(self) -> int:
        """A Target Transfer Tag that is not the reserved one."""
        self._next_transfer_tag = (self._next_transfer_tag + 1) & 0x7FFFFFFF
        return self._next_transfer_tag

    def statistics(self) -> SessionStatistics:
        """The counters and the command window as they are now."""
        luns = by_lun((self.traffic,))
        return SessionStatistics(
            self.tsih,
            self.initiator_name,
            self.target.name if self.target is not None else "",
            len(self.connections),
            total(luns),
            luns,
            len(self.tasks),
            (self.max_cmd_sn - self.exp_cmd_sn + 1) & _MASK,
            self.node.limits.queued_commands,
            self.ignored_pdus,
            sum(connection.data_in_bytes for connection in self.connections.values()),
        )

    def pending_functions(self) -> list[PendingFunction]:
        """Task management that waits for executing tasks."""
        return self.management.pending

    def _refused(self, immediate: bool) -> None:
        """A command became no task: its place in the window is free again; no immediate task was counted."""
        if not immediate:
            self.release_window()

    def _done(self, immediate: bool) -> None:
        if immediate:
            self._immediate_tasks -= 1 if self._immediate_tasks else 0
        else:
            self.release_window()

    def _release_budget(self, task: Task) -> None:
        if task.solicited:
            self.solicited_bytes -= task.solicited
            task.solicited = 0
        if self.waiting_for_budget and task in self.waiting_for_budget:
            self.waiting_for_budget.remove(task)
        self.solicit_waiting()

    def solicit_waiting(self) -> None:
        """Ask for the data of tasks that waited for their share of the budget, as far as it goes."""
        while self.waiting_for_budget:
            waiting = self.waiting_for_budget[0]
            if waiting.state is TaskState.COLLECTING and not data_out.solicit(self, waiting):
                return
            self.waiting_for_budget.popleft()


def _tag_of(frame: Frame) -> int:
    """The Initiator Task Tag of a PDU."""
    return int.from_bytes(frame.header[frame.offset + 16 : frame.offset + 20], "big")
