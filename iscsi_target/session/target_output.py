# SPDX-License-Identifier: Apache-2.0
"""What one connection of the target sends: numbering, PDUs, Data-In made as it can be sent, digests. Sans-IO."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from iscsi_target.executor import Buffer, ScsiResult
from iscsi_target.fast_path_kernel import FastPath
from iscsi_target.session import recovery
from iscsi_target.session.events import PduRejected
from iscsi_target.session.task import DataInSource, Task
from iscsi_target.wire.codec import CODECS
from iscsi_target.wire.digest import digest_of
from iscsi_target.wire.framing import Frame
from iscsi_target.wire.opcodes import RESERVED_TAG, AsyncEvent, Opcode, RejectReason, TaskResponse
from iscsi_target.wire.responses import (
    AsyncMessage,
    LogoutResponse,
    NopIn,
    Reject,
    TaskManagementResponse,
    TextResponse,
)

if TYPE_CHECKING:
    from iscsi_target.session.counters import Traffic
    from iscsi_target.session.node import TargetNode
    from iscsi_target.session.target_session import TargetSession

_MASK = 0xFFFFFFFF

_pack_data_in = CODECS[Opcode.DATA_IN].pack
_pack_response = CODECS[Opcode.SCSI_RESPONSE].pack
_pack_r2t = CODECS[Opcode.R2T].pack


class Phase(enum.Enum):
    """Life of a connection."""

    LOGIN = "login"
    FULL_FEATURE = "full-feature phase"
    CLOSING = "closing"


class TargetOutput:
    """The sending half of a :class:`~iscsi_target.session.target_connection.TargetConnection`."""

    def __init__(self, node: TargetNode, *, peer: str) -> None:
        self.node = node
        self.peer = peer
        self.session: TargetSession | None = None
        self.phase = Phase.LOGIN
        self.ready: deque[Task] = deque()
        """Tasks to execute, in order."""
        self.output_bytes = 0
        self.data_in_bytes = 0
        """Data-In not yet made into PDUs."""
        self.retention: recovery.Retention | None = None
        """What can be sent again; None at error recovery level 0."""
        self._acknowledge: Callable[[int], None] | None = None
        """Told every ExpStatSN that comes; None while nobody wants to know."""
        self._numbered: int | None = None
        self._output: list[Buffer] = []
        self._data_in: deque[DataInSource] = deque()
        self._stat_sn = 0
        self._header_digest = False
        self._data_digest = False
        self.fast: FastPath | None = None
        """READ and WRITE of memory without a task; None: not with these logical units, or not in this session."""
        self._answered: list[Task] = []
        self._fast_answered: list[tuple[Traffic, int]] = []
        self._max_send = 8192

    def _touch(self) -> None:
        """There is something to send, or to close."""
        raise NotImplementedError

    @property
    def max_send(self) -> int:
        """The peer's MaxRecvDataSegmentLength, in bytes."""
        return self._max_send

    @property
    def data_digest(self) -> bool:
        """Whether Data-In carries a digest, so that its bytes must not change any more."""
        return self._data_digest

    @property
    def next_stat_sn(self) -> int:
        """The StatSN of the next status."""
        return self._stat_sn

    def watch_acknowledgements(self, watch: Callable[[int], None] | None) -> None:
        """Tell somebody else, too, which statuses the initiator has; None: not any more."""
        retention = self.retention
        keep = None if retention is None else retention.acknowledged
        if watch is None or keep is None:
            self._acknowledge = watch or keep
            return

        def both(exp_stat_sn: int) -> None:
            keep(exp_stat_sn)
            watch(exp_stat_sn)

        self._acknowledge = both

    def take_output(self) -> list[Buffer]:
        """The buffers to write, in order; they are handed over once."""
        output, self._output = self._output, []
        self.output_bytes = 0
        return output

    def account(self, now_ns: int) -> None:
        """Count the latency of what was answered since the last call; the shell reads the clock once per batch."""
        if self._answered:
            answered, self._answered = self._answered, []
            for task in answered:
                task.traffic.answered(now_ns - task.arrived_ns)
        if self._fast_answered:
            latency_ns = now_ns - self.node.now_ns
            for traffic, count in self._fast_answered:
                traffic.answered(latency_ns, count)
            self._fast_answered.clear()

    @property
    def unaccounted(self) -> bool:
        """True when `account` has something to do."""
        return bool(self._answered or self._fast_answered)

    def take_stat_sn(self) -> int:
        """Number one status."""
        stat_sn = self._stat_sn
        self._stat_sn = (stat_sn + 1) & _MASK
        if self.retention is not None:
            self._numbered = stat_sn
        return stat_sn

    def send_again(self, sent: recovery.Sent) -> None:
        """Send a kept PDU again, with the command window of now."""
        session = self.session
        assert session is not None
        self._emit(
            recovery.with_current_window(sent.header, session.exp_cmd_sn, session.max_cmd_sn),
            sent.data,
            sent.size,
        )

    def send(
        self, pdu: NopIn | TaskManagementResponse | TextResponse | LogoutResponse | AsyncMessage | Reject
    ) -> None:
        """Queue a PDU that is no data PDU."""
        self._emit(CODECS[pdu.OPCODE].header(pdu), (pdu.data,) if pdu.data else (), len(pdu.data))

    def send_task_management_response(
        self, initiator_task_tag: int, response: TaskResponse, *, additional_information: bytes = bytes(3)
    ) -> None:
        """Queue a Task Management Function Response, unless the connection is on its way out."""
        session = self.session
        if session is None or self.phase is not Phase.FULL_FEATURE:
            return
        self.send(
            TaskManagementResponse(
                response=response,
                additional_response_information=additional_information,
                initiator_task_tag=initiator_task_tag,
                stat_sn=self.take_stat_sn(),
                exp_cmd_sn=session.exp_cmd_sn,
                max_cmd_sn=session.max_cmd_sn,
            )
        )

    def send_async(
        self,
        event: AsyncEvent,
        *,
        parameters: tuple[int, int, int] = (0, 0, 0),
        lun_field: bytes = bytes(8),
        data: bytes = b"",
    ) -> None:
        """Queue an Asynchronous Message (section 11.9); `data` is sense data with its length for SCSI events."""
        session = self.session
        if session is None or self.phase is not Phase.FULL_FEATURE:
            return
        self.send(
            AsyncMessage(
                lun=lun_field,
                stat_sn=self.take_stat_sn(),
                exp_cmd_sn=session.exp_cmd_sn,
                max_cmd_sn=session.max_cmd_sn,
                async_event=event,
                parameter_1=parameters[0],
                parameter_2=parameters[1],
                parameter_3=parameters[2],
                data=data[: self._max_send],
            )
        )

    def reject(self, frame: Frame, reason: RejectReason, text: str) -> None:
        """Answer a PDU with Reject (section 11.17)."""
        session = self.session
        assert session is not None
        self.node.events.append(PduRejected(self.peer, reason, text))
        if self.phase is not Phase.FULL_FEATURE:
            return
        self.send(
            Reject(
                reason=reason,
                stat_sn=self.take_stat_sn(),
                exp_cmd_sn=session.exp_cmd_sn,
                max_cmd_sn=session.max_cmd_sn,
                data=frame.basic_header,
            )
        )

    def send_r2t(self, task: Task, target_transfer_tag: int, offset: int, length: int) -> None:
        """Queue an R2T; its StatSN is the next one and is not advanced."""
        session = self.session
        assert session is not None
        header = _pack_r2t(
            0,
            0,
            task.lun_field,
            task.initiator_task_tag,
            target_transfer_tag,
            self._stat_sn,
            session.exp_cmd_sn,
            session.max_cmd_sn,
            task.r2t_sn,
            offset,
            length,
        )
        if self.retention is not None:
            self.retention.keep_data(task.initiator_task_tag, task.r2t_sn, recovery.Sent(header, (), 0))
        self._emit(header, (), 0)

    def send_response(
        self,
        task: Task,
        result: ScsiResult,
        transfer: int,
        exp_data_sn: int = 0,
        *,
        snack_tag: int = 0,
        stat_sn: int | None = None,
    ) -> None:
        """Queue a SCSI Response; `transfer` is what the command would have moved, for the residual count. Of a
        bidirectional command it is the Data-In; its Data-Out is what the device server asked for.

        With a `snack_tag` it answers an R-Data SNACK; `stat_sn` is then that of the response it replaces.
        """
        session = self.session
        if session is None or self.phase is not Phase.FULL_FEATURE:
            return
        command = task.command
        expected = command.expected_length
        read_residual = 0
        if command.read and command.write:
            read_residual = transfer - command.expected_data_in_length
            transfer = 0 if result.transfer_length == 0 else task.data_out_wanted
        sense = result.sense
        data: tuple[Buffer, ...] = ()
        size = 0
        if sense:
            size = 2 + len(sense)
            data = (len(sense).to_bytes(2, "big") + sense,)
        if stat_sn is None:
            stat_sn = self.take_stat_sn()
            self._answered.append(task)
            if result.status:
                task.traffic.errors += 1
        elif self.retention is not None:
            self._numbered = stat_sn
        header = _pack_response(
            read_residual > 0,
            read_residual < 0,
            transfer > expected,
            transfer < expected,
            0,
            result.status,
            0,
            size,
            task.initiator_task_tag,
            snack_tag,
            stat_sn,
            session.exp_cmd_sn,
            (session.max_cmd_sn + task.window_step) & _MASK,
            exp_data_sn or task.r2t_sn,
            abs(read_residual),
            abs(transfer - expected),
        )
        self._emit(header, data, size)

    def queue_data_in(self, source: DataInSource) -> None:
        """Data-In is there; it becomes PDUs when the shell asks for them."""
        if self.phase is not Phase.FULL_FEATURE:
            return
        self._data_in.append(source)
        self.data_in_bytes += source.total - source.offset
        self._touch()

    def run_fast(self, limit_bytes: int) -> int:
        """Execute what the fast path took and make the answers, with at most `limit_bytes` of Data-In. Returns the
        bytes of Data-In made."""
        fast, session = self.fast, self.session
        if fast is None or session is None:
            return 0
        before = fast.data_in_bytes
        self._fast_answered += fast.run(
            self._output, self._stat_sn, session.exp_cmd_sn, session.max_cmd_sn, limit_bytes
        )
        self._stat_sn = fast.stat_sn
        session.max_cmd_sn = fast.max_cmd_sn
        self.output_bytes += fast.output_bytes
        return before - fast.data_in_bytes

    def emit_data_in(self, limit_bytes: int) -> int:
        """Make up to `limit_bytes` of Data-In into PDUs; returns the data bytes taken."""
        session = self.session
        emitted = 0
        while self._data_in and emitted < limit_bytes and session is not None:
            source = self._data_in[0]
            task = source.task
            size = min(self._max_send, source.burst_left, source.total - source.offset, limit_bytes - emitted)
            offset = source.offset
            pieces = source.take(size)
            source.burst_left -= size
            emitted += size
            last = source.offset == source.total
            final = last or not source.burst_left
            if not source.burst_left:
                source.burst_left = session.agreed.max_burst_length
            with_status = (
                last
                and not source.snack_tag
                and source.result.status == 0
                and not source.result.sense
                and not task.command.write  # two residual counts have room in a SCSI Response only
            )
            # An acknowledgement of each burst lets us forget its data early (section 11.7.2).
            acknowledge = self.retention is not None and final and not last
            expected, transfer = task.command.expected_length, source.transfer
            header = _pack_data_in(
                final,
                acknowledge,
                with_status and transfer > expected,
                with_status and transfer < expected,
                with_status,
                0,
                0,
                size,
                task.lun_field,
                task.initiator_task_tag,
                session.new_transfer_tag() if acknowledge else RESERVED_TAG,
                self.take_stat_sn() if with_status else 0,
                session.exp_cmd_sn,
                (session.max_cmd_sn + task.window_step) & _MASK if with_status else session.max_cmd_sn,
                source.data_sn,
                offset,
                abs(transfer - expected) if with_status else 0,
            )
            if self.retention is not None:
                sent = recovery.Sent(header, tuple(pieces), size)
                self.retention.keep_data(task.initiator_task_tag, source.data_sn, sent, source)
                if task.result is not None and source.data_sn == task.r2t_sn + len(task.sent_data):
                    task.sent_data.append(source.offset)
            source.data_sn += 1
            self._emit(header, pieces, size)
            if last:
                self._data_in.popleft()
                if with_status:
                    self._answered.append(task)
                else:
                    self.send_response(
                        task,
                        source.result,
                        transfer,
                        source.data_sn,
                        snack_tag=source.snack_tag,
                        stat_sn=source.stat_sn,
                    )
                session.finish(task)
        self.data_in_bytes -= emitted
        return emitted

    def send_data_again(self, source: DataInSource) -> None:
        """Replace what is queued of a task's Data-In by `source` (R-Data SNACK)."""
        for queued in [queued for queued in self._data_in if queued.task is source.task]:
            self._data_in.remove(queued)
            self.data_in_bytes -= queued.total - queued.offset
        self.queue_data_in(source)

    def forget_task(self, task: Task) -> None:
        """A task was ended: nothing more is executed or sent for it."""
        if self.retention is not None:
            self.retention.drop_task(task.initiator_task_tag)
        if task in self.ready:
            self.ready.remove(task)
        for source in [source for source in self._data_in if source.task is task]:
            self._data_in.remove(source)
            self.data_in_bytes -= source.total - source.offset

    def ping(self) -> None:
        """Queue a NOP-In that wants an answer."""
        session = self.session
        assert session is not None
        self.send(
            NopIn(
                target_transfer_tag=session.new_transfer_tag(),
                stat_sn=self._stat_sn,
                exp_cmd_sn=session.exp_cmd_sn,
                max_cmd_sn=session.max_cmd_sn,
            )
        )

    def _emit(self, header: bytes, data: Iterable[Buffer], size: int) -> None:
        if self._numbered is not None and self.retention is not None:
            tag = int.from_bytes(header[16:20], "big")
            self.retention.keep_status(self._numbered, tag, recovery.Sent(header, tuple(data), size))
            self._numbered = None
        output = self._output
        total = 48 + (size + 3 & ~3)
        if self._header_digest:
            header += digest_of((header,))
            total += 4
        output.append(header)
        if size:
            output.extend(data)
            padding = bytes(-size % 4)
            if self._data_digest:
                output.append(padding + digest_of((*data, padding)))
                total += 4
            elif padding:
                output.append(padding)
        self.output_bytes += total
        self._touch()

    def _append(self, encoded: bytes) -> None:
        self._output.append(encoded)
        self.output_bytes += len(encoded)
        self._touch()

    def set_max_send(self, size_bytes: int) -> None:
        """The peer declared a MaxRecvDataSegmentLength: segments of whole words, as section 11.7.7 wants them."""
        self._max_send = size_bytes & ~3
        if self.fast is not None and self.session is not None:
            self.fast.read_limit = min(self._max_send, self.session.agreed.max_burst_length)
