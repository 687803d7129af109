# SPDX-License-Identifier: Apache-2.0
"""One TCP connection at the initiator: commands in, bytes out; bytes in, events out (RFC 7143). Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from iscsi_target.errors import ProtocolError
from iscsi_target.executor import Buffer
from iscsi_target.session.initiator_events import (
    Answered,
    AsyncReceived,
    CommandEnded,
    LoggedIn,
    Rejected,
    TaskGone,
    TextAnswered,
)
from iscsi_target.session.initiator_login import InitiatorLogin, LoginWish
from iscsi_target.session.initiator_session import InitiatorSession, InitiatorTask
from iscsi_target.session.serial import before
from iscsi_target.session.status_tracker import StatusTracker
from iscsi_target.wire.codec import CODECS, decode_pdu, encode_pdu
from iscsi_target.wire.digest import digest_of
from iscsi_target.wire.framing import Frame, Framer
from iscsi_target.wire.opcodes import RESERVED_TAG, Opcode, SnackType, TaskFunction, TaskResponse
from iscsi_target.wire.requests import (
    LogoutRequest,
    NopOut,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from iscsi_target.wire.responses import (
    R2T,
    AsyncMessage,
    LoginResponse,
    LogoutResponse,
    NopIn,
    Reject,
    ScsiResponse,
    TaskManagementResponse,
    TextResponse,
)

_MASK = 0xFFFFFFFF
_TEXT_LIMIT_BYTES = 4 * 1024 * 1024
_SEND_AHEAD_BYTES = 256 * 1024
"""Commands are numbered only while less than this waits to be written, so that a slow connection does not hold up the
CmdSN order of the others for long."""

_pack_command = CODECS[Opcode.SCSI_COMMAND].pack
_pack_data_out = CODECS[Opcode.DATA_OUT].pack
_unpack_data_in = CODECS[Opcode.DATA_IN].unpack

_STATUS_BEARING = (
    ScsiResponse,
    TextResponse,
    LogoutResponse,
    TaskManagementResponse,
    Reject,
    AsyncMessage,
)

Request = NopOut | TextRequest | LogoutRequest | TaskManagementRequest


class InitiatorConnection:
    """See the module. After `receive` and `start` the shell drains ``session.events`` and writes `take_output`."""

    def __init__(
        self, session: InitiatorSession, wish: LoginWish, *, random_bytes: Callable[[int], bytes]
    ) -> None:
        self.session = session
        self.cid = wish.cid
        self.full_feature = False
        self.output_bytes = 0
        self.outstanding = 0
        """SCSI commands without status on this connection, sent or waiting."""
        self._wish = wish
        self._framer = Framer(max_data_segment_length=65536)
        self._login = InitiatorLogin(
            wish, cmd_sn=session.cmd_sn, task_tag=session.new_task_tag(), random_bytes=random_bytes
        )
        self._output: list[Buffer] = []
        self._pending: deque[InitiatorTask | tuple[type[Request], dict[str, object]]] = deque()
        self._exp_stat_sn = 0
        self._statuses = StatusTracker()
        self._held_statuses: dict[int, int] = {}
        """Task tag to StatSN of tasks whose status came before all of their data."""
        self._recovering = False
        self._unanswered: dict[int, tuple[type[Request], dict[str, object], int]] = {}
        """Numbered requests other than SCSI commands, with their CmdSN (only with recovery)."""
        self._reassigning: dict[int, InitiatorTask] = {}
        self._texts: dict[int, bytes] = {}
        self._header_digest = False
        self._data_digest = False
        self._max_send = 8192

    # -- wishes -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the login."""
        self._append(encode_pdu(self._login.start()))

    def submit(self, task: InitiatorTask) -> None:
        """Queue a SCSI command; it leaves when the command window allows it."""
        self.session.tasks[task.initiator_task_tag] = task
        self.outstanding += 1
        self._pending.append(task)
        self.session.touched.add(self)

    def request(self, kind: type[Request], **fields: object) -> int:
        """Queue another numbered request; returns its task tag. Immediate ones leave at once."""
        tag = self.session.new_task_tag()
        fields["initiator_task_tag"] = tag
        if fields.get("immediate"):
            self._send_request(kind, fields)
        else:
            self._pending.append((kind, fields))
            self.session.touched.add(self)
        return tag

    def take_over(self, old: InitiatorConnection) -> None:
        """Go on with everything that was under way on `old`, which is gone (error recovery level 2, section 7.2.2)."""
        old.full_feature = False
        for item in old._pending:
            if isinstance(item, InitiatorTask):
                item.connection = self
            self._pending.append(item)
        old._pending.clear()
        for tag, (kind, fields, cmd_sn) in old._unanswered.items():
            if before(cmd_sn, self.session.exp_cmd_sn):
                self.session.events.append(TaskGone(tag))
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
        del session.tasks[task.initiator_task_tag]
        self.outstanding -= 1
        session.events.append(TaskGone(task.initiator_task_tag))

    def admit(self) -> None:
        """Number and send what waits, as far as the window and the connection allow."""
        session = self.session
        while (
            self._pending and session.window and self.output_bytes < _SEND_AHEAD_BYTES and self.full_feature
        ):
            item = self._pending.popleft()
            if isinstance(item, InitiatorTask):
                if item.initiator_task_tag in session.tasks:
                    self._send_command(item)
            else:
                self._send_request(*item)

    def take_output(self) -> list[Buffer]:
        """The buffers to write, in order; they are handed over once."""
        self.admit()
        output, self._output = self._output, []
        self.output_bytes = 0
        return output

    @property
    def declared(self) -> dict[str, str]:
        """What the target stated in the login."""
        return self._login.declared

    # -- facts --------------------------------------------------------------------------------------------------

    def receive(self, chunk: bytes | memoryview) -> None:
        """Bytes from the target. Raises IscsiError when the connection cannot go on."""
        for frame in self._framer.receive(chunk):
            if frame.opcode == Opcode.DATA_IN and self.full_feature:
                self._data_in(frame)
                continue
            if not frame.data_digest_ok:
                if not self._recovering:
                    raise ProtocolError("data digest error in a PDU other than Data-In")
                continue  # its StatSN stays open and is asked for again
            pdu = decode_pdu(frame.whole())
            if not self.full_feature:
                if not isinstance(pdu, LoginResponse):
                    raise ProtocolError(f"opcode {frame.opcode:#04x} during the login phase")
                self._login_response(pdu)
            else:
                self._full_feature(pdu)

    # -- login --------------------------------------------------------------------------------------------------

    def _login_response(self, pdu: LoginResponse) -> None:
        request = self._login.receive(pdu)
        session = self.session
        if request is not None:
            self._append(encode_pdu(request))
            return
        agreed = self._login.agreed
        if not self._wish.tsih:
            session.agreed = agreed
            session.tsih = pdu.tsih
            session.exp_cmd_sn = pdu.exp_cmd_sn
            session.max_cmd_sn = pdu.max_cmd_sn
        else:
            session.update_window(pdu.exp_cmd_sn, pdu.max_cmd_sn)
        self._exp_stat_sn = (pdu.stat_sn + 1) & _MASK
        self._statuses = StatusTracker(self._exp_stat_sn)
        self._max_send = agreed.max_send_data_segment_length
        self._header_digest = agreed.header_digest == "CRC32C"
        self._data_digest = agreed.data_digest == "CRC32C"
        self._framer.header_digest = self._header_digest
        self._framer.data_digest = self._data_digest
        self._framer.max_data_segment_length = agreed.max_recv_data_segment_length
        self._recovering = session.agreed.error_recovery_level > 0
        self.full_feature = True
        session.connections[self.cid] = self
        session.events.append(LoggedIn(self.cid))

    # -- full-feature phase, out --------------------------------------------------------------------------------

    def _send_command(self, task: InitiatorTask, cmd_sn: int | None = None) -> None:
        session = self.session
        agreed = session.agreed
        task.cmd_sn = session.take_cmd_sn() if cmd_sn is None else cmd_sn
        task.cmd_sn_assigned = True
        data = task.data_out
        write = bool(len(data))
        immediate = data[:0]
        burst = 0
        if write:
            burst = min(agreed.first_burst_length, len(data))
            if agreed.immediate_data:
                immediate = data[: min(burst, self._max_send)]
        unsolicited = write and not agreed.initial_r2t and len(immediate) < burst
        header = _pack_command(
            task.immediate,
            not unsolicited,
            task.data_in is not None,
            write,
            task.attr,
            0,
            len(immediate),
            task.lun_field,
            task.initiator_task_tag,
            task.expected_length,
            task.cmd_sn,
            self._exp_stat_sn,
            task.cdb,
        )
        self._emit(header, (immediate,) if len(immediate) else (), len(immediate))
        if unsolicited:
            self._send_data(task, RESERVED_TAG, len(immediate), burst)

    def _send_data(self, task: InitiatorTask, target_transfer_tag: int, offset: int, end: int) -> None:
        data_sn = 0
        while offset < end:
            stop = min(offset + self._max_send, end)
            header = _pack_data_out(
                False,
                stop == end,
                0,
                stop - offset,
                task.lun_field,
                task.initiator_task_tag,
                target_transfer_tag,
                self._exp_stat_sn,
                data_sn,
                offset,
            )
            self._emit(header, (task.data_out[offset:stop],), stop - offset)
            data_sn += 1
            offset = stop

    def _send_request(
        self, kind: type[Request], fields: dict[str, object], cmd_sn: int | None = None
    ) -> None:
        session = self.session
        if fields.get("immediate"):
            cmd_sn = session.cmd_sn
        else:
            cmd_sn = session.take_cmd_sn() if cmd_sn is None else cmd_sn
            tag = fields["initiator_task_tag"]
            if self._recovering and isinstance(tag, int):
                self._unanswered[tag] = (kind, fields, cmd_sn)
        pdu = kind(cmd_sn=cmd_sn, exp_stat_sn=self._exp_stat_sn, **fields)  # type: ignore[arg-type]
        self._emit(CODECS[pdu.OPCODE].header(pdu), (pdu.data,) if pdu.data else (), len(pdu.data))

    def _emit(self, header: bytes, data: Iterable[Buffer], size: int) -> None:
        output = self._output
        if self._header_digest:
            header += digest_of((header,))
        output.append(header)
        if size:
            output.extend(data)
            padding = bytes(-size % 4)
            if self._data_digest:
                output.append(padding + digest_of((*data, padding)))
            elif padding:
                output.append(padding)
        self.output_bytes += len(header) + size
        self.session.touched.add(self)

    def _append(self, encoded: bytes) -> None:
        self._output.append(encoded)
        self.output_bytes += len(encoded)
        self.session.touched.add(self)

    # -- full-feature phase, in ---------------------------------------------------------------------------------

    def _data_in(self, frame: Frame) -> None:
        (
            _,
            acknowledge,
            overflow,
            underflow,
            with_status,
            status,
            _,
            size,
            lun_field,
            initiator_task_tag,
            target_transfer_tag,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            data_sn,
            offset,
            residual_count,
        ) = _unpack_data_in(frame.header, frame.offset)
        session = self.session
        session.update_window(exp_cmd_sn, max_cmd_sn)
        task = session.tasks.get(initiator_task_tag)
        if not frame.data_digest_ok:
            if not self._recovering:
                raise ProtocolError("data digest error in Data-In")
            if task is not None and task.connection is self and data_sn in task.missing:
                self._snack(SnackType.DATA_OR_R2T, data_sn, 1, initiator_task_tag, task.lun_field)
            elif task is not None and task.connection is self:
                self._data_gap(task, data_sn + 1)
            return
        if with_status and not self._take_status(stat_sn, initiator_task_tag):
            return
        if task is None or task.connection is not self:
            return  # the task was given up while its data were on the way
        if task.data_in is None or offset + size > len(task.data_in):
            raise ProtocolError("Data-In beyond what the command expects")
        if self._recovering and not self._take_data_sn(task, data_sn):
            return
        task.data_in[offset : offset + size] = frame.data
        task.received += size
        if acknowledge and self._recovering:
            first_missing = min(task.missing, default=task.next_data_sn)
            self._snack(SnackType.DATA_ACK, first_missing, 0, RESERVED_TAG, lun_field, target_transfer_tag)
        if with_status:
            self._end(task, 0, status, b"", overflow, underflow, residual_count)
        elif task.pending_status is not None and not task.missing:
            self._conclude(task, task.pending_status)

    # -- recovery within the connection (RFC 7143 section 7.2, error recovery level 1) ---------------------------

    def _take_data_sn(self, task: InitiatorTask, data_sn: int) -> bool:
        """Note the DataSN and ask for what was skipped; False for a duplicate."""
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
            self._exp_stat_sn = (stat_sn + 1) & _MASK
            return True
        new, gap = self._statuses.take(stat_sn)
        if new and task_tag in self.session.tasks:
            self._held_statuses[task_tag] = stat_sn
        self._acknowledge()
        if gap is not None:
            self._snack(SnackType.STATUS, *gap, RESERVED_TAG, bytes(8))
        return new

    def _acknowledge(self) -> None:
        self._exp_stat_sn = self._statuses.expected
        for stat_sn in self._held_statuses.values():
            if before(stat_sn, self._exp_stat_sn):
                self._exp_stat_sn = stat_sn

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

    def _full_feature(self, pdu: object) -> None:
        session = self.session
        if isinstance(pdu, _STATUS_BEARING) and not self._status(pdu):
            return
        if isinstance(pdu, ScsiResponse):
            task = session.tasks.get(pdu.initiator_task_tag)
            if task is not None and task.connection is self:
                if self._recovering and task.data_in is not None:
                    self._data_gap(task, pdu.exp_data_sn)
                sense = pdu.data[2 : 2 + int.from_bytes(pdu.data[:2], "big")]
                self._end(
                    task, pdu.response, pdu.status, sense, pdu.overflow, pdu.underflow, pdu.residual_count
                )
        elif isinstance(pdu, R2T):
            session.update_window(pdu.exp_cmd_sn, pdu.max_cmd_sn)
            task = session.tasks.get(pdu.initiator_task_tag)
            if task is None or task.connection is not self:
                return
            end = pdu.buffer_offset + pdu.desired_data_transfer_length
            if end > len(task.data_out) or not pdu.desired_data_transfer_length:
                raise ProtocolError("an R2T for data the command does not have")
            self._send_data(task, pdu.target_transfer_tag, pdu.buffer_offset, end)
        elif isinstance(pdu, NopIn):
            session.update_window(pdu.exp_cmd_sn, pdu.max_cmd_sn)
            if pdu.initiator_task_tag != RESERVED_TAG:
                if not self._take_status(pdu.stat_sn):
                    return
                self._unanswered.pop(pdu.initiator_task_tag, None)
                session.events.append(Answered(pdu.initiator_task_tag, pdu))
            elif self._recovering and (gap := self._statuses.announced(pdu.stat_sn)) is not None:
                self._snack(SnackType.STATUS, *gap, RESERVED_TAG, bytes(8))
            if pdu.target_transfer_tag != RESERVED_TAG:
                self._answer_ping(pdu)
        elif isinstance(pdu, TextResponse):
            self._text_response(pdu)
        elif isinstance(pdu, TaskManagementResponse) and pdu.initiator_task_tag in self._reassigning:
            self._reassigned(self._reassigning.pop(pdu.initiator_task_tag), pdu.response)
        elif isinstance(pdu, LogoutResponse | TaskManagementResponse):
            self._unanswered.pop(pdu.initiator_task_tag, None)
            session.events.append(Answered(pdu.initiator_task_tag, pdu))
        elif isinstance(pdu, Reject):
            tag = int.from_bytes(pdu.data[16:20], "big") if len(pdu.data) >= 48 else RESERVED_TAG
            session.events.append(Rejected(tag, pdu))
        elif isinstance(pdu, AsyncMessage):
            session.events.append(AsyncReceived(self.cid, pdu))
        else:
            raise ProtocolError(f"a {type(pdu).__name__} from the target in full-feature phase")

    def _status(
        self,
        pdu: ScsiResponse | TextResponse | LogoutResponse | TaskManagementResponse | Reject | AsyncMessage,
    ) -> bool:
        self.session.update_window(pdu.exp_cmd_sn, pdu.max_cmd_sn)
        return self._take_status(
            pdu.stat_sn, pdu.initiator_task_tag if isinstance(pdu, ScsiResponse) else RESERVED_TAG
        )

    def _end(
        self,
        task: InitiatorTask,
        response: int,
        status: int,
        sense: bytes,
        overflow: bool,
        underflow: bool,
        residual_count: int,
    ) -> None:
        data_in = task.data_in if task.data_in is not None else memoryview(b"")
        ended = CommandEnded(
            task.initiator_task_tag,
            response,
            status,
            sense,
            data_in,
            task.received,
            overflow,
            underflow,
            residual_count,
        )
        if task.missing:
            task.pending_status = ended
        else:
            self._conclude(task, ended)

    def _conclude(self, task: InitiatorTask, ended: CommandEnded) -> None:
        session = self.session
        del session.tasks[task.initiator_task_tag]
        self.outstanding -= 1
        if self._held_statuses.pop(task.initiator_task_tag, None) is not None:
            self._acknowledge()
        session.events.append(replace(ended, data_in=ended.data_in[: task.received], received=task.received))
        if self._pending:
            session.touched.add(self)

    def _answer_ping(self, pdu: NopIn) -> None:
        answer = NopOut(
            immediate=True,
            lun=pdu.lun,
            target_transfer_tag=pdu.target_transfer_tag,
            cmd_sn=self.session.cmd_sn,
            exp_stat_sn=self._exp_stat_sn,
            data=pdu.data[: self._max_send],
        )
        self._emit(
            CODECS[Opcode.NOP_OUT].header(answer), (answer.data,) if answer.data else (), len(answer.data)
        )

    def _text_response(self, pdu: TextResponse) -> None:
        text = self._texts.pop(pdu.initiator_task_tag, b"") + pdu.data
        if len(text) > _TEXT_LIMIT_BYTES:
            raise ProtocolError(f"more than {_TEXT_LIMIT_BYTES} bytes of text")
        self._unanswered.pop(pdu.initiator_task_tag, None)
        if pdu.final:
            self.session.events.append(TextAnswered(pdu.initiator_task_tag, text))
            return
        self._texts[pdu.initiator_task_tag] = text
        self._send_request(
            TextRequest,
            {
                "immediate": True,
                "initiator_task_tag": pdu.initiator_task_tag,
                "target_transfer_tag": pdu.target_transfer_tag,
                "lun": pdu.lun,
            },
        )
