# SPDX-License-Identifier: Apache-2.0
"""One TCP connection at the initiator: commands in, bytes out; bytes in, events out (RFC 7143). Sans-IO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from iscsi_target.errors import ProtocolError
from iscsi_target.session.initiator_aborts import Aborts
from iscsi_target.session.initiator_events import (
    Answered,
    AsyncReceived,
    CommandEnded,
    LoggedIn,
    Rejected,
    TextAnswered,
)
from iscsi_target.session.initiator_login import InitiatorLogin, LoginWish
from iscsi_target.session.initiator_output import Request
from iscsi_target.session.initiator_recovery import InitiatorRecovery
from iscsi_target.session.initiator_session import InitiatorSession, InitiatorTask
from iscsi_target.session.keys import When
from iscsi_target.session.negotiation import Negotiation, Role
from iscsi_target.session.status_tracker import StatusTracker
from iscsi_target.wire.codec import CODECS, decode_pdu, encode_pdu
from iscsi_target.wire.derive import MalformedPdu
from iscsi_target.wire.framing import Frame, Framer
from iscsi_target.wire.opcodes import RESERVED_TAG, AsyncEvent, Opcode, RejectReason, SnackType
from iscsi_target.wire.requests import NopOut, TaskManagementRequest, TextRequest
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
from iscsi_target.wire.text import Pair

_MASK = 0xFFFFFFFF
_TEXT_LIMIT_BYTES = 4 * 1024 * 1024

_unpack_data_in = CODECS[Opcode.DATA_IN].unpack

_STATUS_BEARING = (
    ScsiResponse,
    TextResponse,
    LogoutResponse,
    TaskManagementResponse,
    Reject,
    AsyncMessage,
)


class InitiatorConnection(InitiatorRecovery):
    """See the module. After `receive` and `start` the shell drains ``session.events`` and writes `take_output`."""

    def __init__(
        self, session: InitiatorSession, wish: LoginWish, *, random_bytes: Callable[[int], bytes]
    ) -> None:
        super().__init__(session, wish.cid)
        self._wish = wish
        self._framer = Framer(max_data_segment_length=65536)
        self._login = InitiatorLogin(
            wish, cmd_sn=session.cmd_sn, task_tag=session.new_task_tag(), random_bytes=random_bytes
        )
        self._aborts = Aborts(session)
        self._texts: dict[int, bytes] = {}
        self._in_order = True
        """Data-In come in the order of their offsets."""

    # -- wishes -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the login."""
        self._append(encode_pdu(self._login.start()))

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

    def _send_request(self, kind: type[Request], fields: dict[str, Any], cmd_sn: int | None = None) -> int:
        cmd_sn = super()._send_request(kind, fields, cmd_sn)
        if kind is TaskManagementRequest:
            self._aborts.request_sent(
                fields["initiator_task_tag"],
                fields["function"],
                fields.get("lun", bytes(8)),
                fields.get("referenced_task_tag", RESERVED_TAG),
                cmd_sn,
            )
        return cmd_sn

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
            try:
                pdu = decode_pdu(frame.whole())
            except MalformedPdu as error:
                raise ProtocolError(str(error)) from None
            if not self.full_feature:
                if not isinstance(pdu, LoginResponse):
                    raise ProtocolError(f"opcode {frame.opcode:#04x} during the login phase")
                self._login_response(pdu)
            else:
                self._full_feature(pdu)

    def expect_segments(self, length: int) -> None:
        """MaxRecvDataSegmentLength is about to be declared anew: take the longer ones until the target has answered."""
        self._framer.max_data_segment_length = max(self._framer.max_data_segment_length, length)

    def segments_declared(self, length: int, answer: Sequence[Pair]) -> None:
        """The target has taken our declaration, and may have made its own. Raises NegotiationError."""
        negotiation = Negotiation(Role.INITIATOR, self._wish.parameters)
        negotiation.declare()
        negotiation.receive(answer, When.FULL_FEATURE)
        self._framer.max_data_segment_length = length
        if any(key == "MaxRecvDataSegmentLength" for key, _ in answer):
            self._max_send = negotiation.agreed().max_send_data_segment_length & ~3

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
        self._max_send = agreed.max_send_data_segment_length & ~3  # whole words (section 11.7.7)
        self._header_digest = agreed.header_digest == "CRC32C"
        self._data_digest = agreed.data_digest == "CRC32C"
        self._framer.header_digest = self._header_digest
        self._framer.data_digest = self._data_digest
        self._framer.max_data_segment_length = agreed.max_recv_data_segment_length
        self._recovering = session.agreed.error_recovery_level > 0
        self._in_order = (
            not self._recovering
            and session.agreed.data_pdu_in_order
            and session.agreed.data_sequence_in_order
        )
        self.full_feature = True
        session.connections[self.cid] = self
        session.events.append(LoggedIn(self.cid))

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
        if not self._in_turn(task, data_sn):
            return
        if size and offset != task.received and self._in_order:
            raise ProtocolError(f"Data-In with buffer offset {offset} where {task.received} comes next")
        task.data_in[offset : offset + size] = frame.data
        task.received += size
        if not self._in_order and size:
            task.extents.append((offset, size))
        if acknowledge and self._recovering:
            first_missing = min(task.missing, default=task.next_data_sn)
            self._snack(SnackType.DATA_ACK, first_missing, 0, RESERVED_TAG, lun_field, target_transfer_tag)
        if with_status:
            self._end(task, 0, status, b"", overflow, underflow, residual_count)
        elif task.pending_status is not None and not task.missing:
            self._conclude(task, task.pending_status)

    def _in_turn(self, task: InitiatorTask, data_sn: int) -> bool:
        """Note a DataSN or R2TSN; False for a duplicate. Without recovery one out of turn is an error (section 7.9)."""
        if self._recovering:
            return self._take_data_sn(task, data_sn)
        if data_sn != task.next_data_sn:
            raise ProtocolError(f"DataSN {data_sn} where {task.next_data_sn} comes next")
        task.next_data_sn += 1
        return True

    def _full_feature(self, pdu: object) -> None:
        session = self.session
        if isinstance(pdu, _STATUS_BEARING) and not self._status(pdu):
            return
        if isinstance(pdu, ScsiResponse):
            task = session.tasks.get(pdu.initiator_task_tag)
            if task is not None and task.connection is self:
                if task.data_in is not None and self._recovering:
                    self._data_gap(task, pdu.exp_data_sn)
                elif task.data_in is not None and pdu.exp_data_sn > task.next_data_sn:
                    raise ProtocolError(
                        f"ExpDataSN {pdu.exp_data_sn}, and DataSN {task.next_data_sn} has not come"
                    )
                sense = pdu.data[2 : 2 + int.from_bytes(pdu.data[:2], "big")]
                self._end(
                    task,
                    pdu.response,
                    pdu.status,
                    sense,
                    pdu.overflow,
                    pdu.underflow,
                    pdu.residual_count,
                    (
                        pdu.bidirectional_read_overflow,
                        pdu.bidirectional_read_underflow,
                        pdu.bidirectional_read_residual_count,
                    ),
                )
        elif isinstance(pdu, R2T):
            session.update_window(pdu.exp_cmd_sn, pdu.max_cmd_sn)
            task = session.tasks.get(pdu.initiator_task_tag)
            if task is None or task.connection is not self or task.stopped:
                return
            # Only Data-In and R2Ts of one bidirectional command are numbered together (section 4.2.2.4); a lost R2T
            # of a write is replaced by the target without being asked.
            if task.data_in is not None and not self._in_turn(task, pdu.r2t_sn):
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
            if isinstance(pdu, TaskManagementResponse):
                self._aborts.answered(pdu.initiator_task_tag, pdu.response)
            session.events.append(Answered(pdu.initiator_task_tag, pdu))
        elif isinstance(pdu, Reject):
            if pdu.reason == RejectReason.DATA_DIGEST_ERROR and self._send_spoilt_again(
                pdu.data.ljust(48, b"\0")
            ):
                return
            tag = int.from_bytes(pdu.data[16:20], "big") if len(pdu.data) >= 48 else RESERVED_TAG
            session.events.append(Rejected(tag, pdu))
        elif isinstance(pdu, AsyncMessage):
            if pdu.async_event == AsyncEvent.TASKS_TERMINATED:
                self._tasks_terminated(pdu)
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
        read_residual: tuple[bool, bool, int] = (False, False, 0),
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
            *read_residual,
        )
        if task.missing:
            task.pending_status = ended
        else:
            self._conclude(task, ended)

    def _conclude(self, task: InitiatorTask, ended: CommandEnded) -> None:
        session = self.session
        if task.data_in is not None and not ended.response and not ended.status:
            both = len(task.data_out) > 0
            under = ended.read_underflow if both else ended.underflow
            count = ended.read_residual_count if both else ended.residual_count
            if flaw := task.data_in_flaw(count if under else 0):
                session.drop(task, flaw)
                return
        del session.tasks[task.initiator_task_tag]
        self.forget(task)
        session.events.append(replace(ended, data_in=ended.data_in[: task.received], received=task.received))
        if self._pending:
            session.touched.add(self)

    def _tasks_terminated(self, pdu: AsyncMessage) -> None:
        """Stop sending for the logical unit, then acknowledge with a NOP-Out that names it (section 11.9.1)."""
        self._aborts.terminated(pdu.lun)
        answer = NopOut(
            immediate=True, lun=pdu.lun, cmd_sn=self.session.cmd_sn, exp_stat_sn=self._exp_stat_sn
        )
        self._emit(CODECS[Opcode.NOP_OUT].header(answer), (), 0)

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
