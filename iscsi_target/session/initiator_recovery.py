# SPDX-License-Identifier: Apache-2.0
"""Recovery at the initiator: what was lost on a connection is asked for again (error recovery level 1, RFC 7143
sections 7.2.1, 7.2.3); what was under way on a lost connection goes on upon another (level 2, section 7.2.2).

Sans-IO.
"""

from __future__ import annotations

from iscsi_target.errors import ProtocolError
from iscsi_target.session.initiator_events import TaskGone
from iscsi_target.session.initiator_output import InitiatorOutput, Request
from iscsi_target.session.initiator_session import InitiatorSession, InitiatorTask
from iscsi_target.session.serial import before
from iscsi_target.session.status_tracker import StatusTracker
from iscsi_target.wire.codec import CODECS
from iscsi_target.wire.opcodes import RESERVED_TAG, Opcode, SnackType, TaskFunction, TaskResponse
from iscsi_target.wire.requests import SnackRequest, TaskManagementRequest

_MASK = 0xFFFFFFFF


class InitiatorRecovery(InitiatorOutput):
    """The recovering part of an :class:`~iscsi_target.session.initiator_connection.InitiatorConnection`."""

    def __init__(self, session: InitiatorSession, cid: int) -> None:
        super().__init__(session, cid)
        self._statuses = StatusTracker()
        self._held_statuses: dict[int, int] = {}
        """Task tag to StatSN of tasks whose status came before all of their data."""
        self._reassigning: dict[int, InitiatorTask] = {}

    def request(self, kind: type[Request], **fields: object) -> int:
        """Queue a request; returns its task tag."""
        raise NotImplementedError

    # -- level 2: on another connection -------------------------------------------------------------------------

    def take_over(self, old: InitiatorRecovery) -> None:
        """Go on with everything that was under way on `old`, which is gone (error recovery level 2, section 7.2.2)."""
        old.full_feature = False
        for item in old._pending:
            if isinstance(item, InitiatorTask):
                item.connection = self
            self._pending.append(item)
        old._pending.clear()
        for tag, (kind, fields, cmd_sn) in old._unanswered.items():
            if before(cmd_sn, self.session.exp_cmd_sn):
                self.session.events.append(TaskGone(tag, "its connection was lost"))
            else:
                self._send_request(kind, fields, cmd_sn)
        old._unanswered.clear()
        for task in [task for task in self.session.tasks.values() if task.connection is old]:
            self._reassign(task)
        self.outstanding += old.outstanding
        old.outstanding = 0
        self.session.touched.add(self)

    def _reassign(self, task: InitiatorTask) -> None:
        task.connection = self
        task.pending_status = None
        if task.missing:
            task.restart()
        # R2Ts that were lost are not sent again but replaced, so their numbers leave a gap.
        task.renumbered = bool(len(task.data_out)) and not task.received
        tag = self.request(
            TaskManagementRequest,
            immediate=True,
            function=TaskFunction.TASK_REASSIGN,
            lun=task.lun_field,
            referenced_task_tag=task.initiator_task_tag,
            ref_cmd_sn=task.cmd_sn,
            exp_data_sn=task.next_data_sn,
        )
        self._reassigning[tag] = task

    def _reassigned(self, task: InitiatorTask, response: int) -> None:
        """The target's answer: it goes on, or it never saw the command and has to be told again."""
        session = self.session
        if response == TaskResponse.FUNCTION_COMPLETE or task.initiator_task_tag not in session.tasks:
            return
        if response == TaskResponse.TASK_DOES_NOT_EXIST and not before(task.cmd_sn, session.exp_cmd_sn):
            task.restart()
            self._send_command(task, task.cmd_sn)
            return
        session.drop(task, "its connection was lost and the target knows nothing of it")

    # -- level 1: within the connection -------------------------------------------------------------------------

    def _take_data_sn(self, task: InitiatorTask, data_sn: int) -> bool:
        """Note the DataSN (or R2TSN) and ask for what was skipped; False for a duplicate."""
        if task.renumbered and data_sn > task.next_data_sn:
            task.next_data_sn = data_sn
        task.renumbered = False
        if data_sn in task.missing:
            task.missing.discard(data_sn)
            return True
        if data_sn < task.next_data_sn:
            return False
        self._data_gap(task, data_sn)
        task.next_data_sn = data_sn + 1
        return True

    def _data_gap(self, task: InitiatorTask, end: int) -> None:
        """Everything before DataSN `end` that has not come was lost: ask for it."""
        if end <= task.next_data_sn:
            return
        begin = task.next_data_sn
        task.missing.update(range(begin, end))
        task.next_data_sn = end
        self._snack(SnackType.DATA_OR_R2T, begin, end - begin, task.initiator_task_tag, task.lun_field)

    def _take_status(self, stat_sn: int, task_tag: int = RESERVED_TAG) -> bool:
        """Number a status; with recovery: ask for those that were skipped, and False for a duplicate.

        The status of a task is not acknowledged before its data are complete: the target would forget them.
        """
        if not self._recovering:
            if stat_sn != self._exp_stat_sn:  # what is missing cannot be had (section 7.9)
                raise ProtocolError(f"StatSN {stat_sn} where {self._exp_stat_sn} comes next")
            self._exp_stat_sn = (stat_sn + 1) & _MASK
            return True
        new, gap = self._statuses.take(stat_sn)
        if new and task_tag in self.session.tasks:
            self._held_statuses[task_tag] = stat_sn
        self._acknowledge()
        if gap is not None:
            self._snack(SnackType.STATUS, *gap, RESERVED_TAG, bytes(8))
        return new

    def _send_spoilt_again(self, header: bytes) -> bool:
        """The target discarded this PDU of ours for its data digest (section 7.8); False: the request has to end.

        A numbered request left a gap in CmdSN and is sent again as it was (section 7.2.1); Data-Out the target asks
        for again, or it ends their command.
        """
        opcode, tag = header[0] & 0x3F, int.from_bytes(header[16:20], "big")
        if opcode == Opcode.DATA_OUT:
            return True
        if not self._recovering:
            raise ProtocolError("the target found a wrong data digest")
        task = self.session.tasks.get(tag)
        if opcode == Opcode.SCSI_COMMAND and task is not None and task.connection is self:
            self._send_command(task, task.cmd_sn)
        elif tag in self._unanswered:
            self._send_request(*self._unanswered[tag])
        else:
            return False
        return True

    def _acknowledge(self) -> None:
        self._exp_stat_sn = self._statuses.expected
        for stat_sn in self._held_statuses.values():
            if before(stat_sn, self._exp_stat_sn):
                self._exp_stat_sn = stat_sn

    def forget(self, task: InitiatorTask) -> None:
        """A task of this connection ended, in whatever way."""
        self.outstanding -= 1
        if self._held_statuses.pop(task.initiator_task_tag, None) is not None:
            self._acknowledge()

    def _snack(
        self,
        kind: SnackType,
        beg_run: int,
        run_length: int,
        task_tag: int,
        lun_field: bytes,
        target_transfer_tag: int = RESERVED_TAG,
    ) -> None:
        request = SnackRequest(
            type_=kind,
            lun=lun_field,
            initiator_task_tag=task_tag,
            target_transfer_tag=target_transfer_tag,
            exp_stat_sn=self._exp_stat_sn,
            beg_run=beg_run,
            run_length=run_length,
        )
        self._emit(CODECS[Opcode.SNACK_REQUEST].header(request), (), 0)
