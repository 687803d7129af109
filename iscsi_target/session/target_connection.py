# SPDX-License-Identifier: Apache-2.0
"""One TCP connection at the target: bytes in, PDUs to the session, bytes out (RFC 7143). Sans-IO.

The shell feeds reads into `receive`, executes the tasks in `ready`, asks `emit_data_in` for as much Data-In as
it may send, and writes what `take_output` returns; when `closing` is true it closes after the last byte.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from iscsi_target.errors import IscsiError, ProtocolError
from iscsi_target.executor import Buffer, ScsiResult
from iscsi_target.session import data_out
from iscsi_target.session.events import ConnectionFailed, LoginRefused, PduRejected
from iscsi_target.session.target_login import TargetLogin
from iscsi_target.session.target_text import TextExchange
from iscsi_target.session.task import DataInSource, Task
from iscsi_target.wire.codec import CODECS, decode_pdu, encode_pdu
from iscsi_target.wire.derive import MalformedPdu
from iscsi_target.wire.digest import digest_of
from iscsi_target.wire.framing import Frame, Framer
from iscsi_target.wire.opcodes import (
    RESERVED_TAG,
    LoginStatus,
    LogoutReason,
    LogoutResponseCode,
    Opcode,
    RejectReason,
    TaskResponse,
)
from iscsi_target.wire.requests import (
    LoginRequest,
    LogoutRequest,
    NopOut,
    TaskManagementRequest,
    TextRequest,
)
from iscsi_target.wire.responses import (
    LoginResponse,
    LogoutResponse,
    NopIn,
    Reject,
    TaskManagementResponse,
    TextResponse,
)

if TYPE_CHECKING:
    from iscsi_target.session.node import TargetNode
    from iscsi_target.session.target_session import TargetSession

_MASK = 0xFFFFFFFF
_NUMBERED = frozenset(
    {
        Opcode.NOP_OUT,
        Opcode.SCSI_COMMAND,
        Opcode.TASK_MANAGEMENT_REQUEST,
        Opcode.TEXT_REQUEST,
        Opcode.LOGOUT_REQUEST,
    }
)
_cmd_sn_of = CODECS[Opcode.NOP_OUT].unpack  # every numbered PDU has CmdSN at byte 24
_pack_data_in = CODECS[Opcode.DATA_IN].pack
_pack_response = CODECS[Opcode.SCSI_RESPONSE].pack
_pack_r2t = CODECS[Opcode.R2T].pack


class Phase(enum.Enum):
    """Life of a connection."""

    LOGIN = "login"
    FULL_FEATURE = "full-feature phase"
    CLOSING = "closing"


class TargetConnection:
    """See the module. `now_ns` everywhere is a monotonic clock in nanoseconds."""

    def __init__(
        self,
        node: TargetNode,
        *,
        peer: str,
        local_host: str,
        portal_group_tag: int,
        random_bytes: Callable[[int], bytes],
        now_ns: int,
    ) -> None:
        self.node = node
        self.peer = peer
        self.local_host = local_host
        self.portal_group_tag = portal_group_tag
        self.cid = 0
        self.session: TargetSession | None = None
        self.phase = Phase.LOGIN
        self.ready: deque[Task] = deque()
        """Tasks to execute, in order."""
        self.output_bytes = 0
        self.data_in_bytes = 0
        """Data-In not yet made into PDUs."""
        self._framer = Framer()
        self._login = TargetLogin(node, self, random_bytes)
        self._texts = TextExchange(self)
        self._output: list[Buffer] = []
        self._data_in: deque[DataInSource] = deque()
        self._stat_sn = 0
        self._header_digest = False
        self._data_digest = False
        self._max_send = 8192
        self._deadline_ns = now_ns + node.limits.login_timeout_ns
        self._ping_sent = False

    @property
    def closing(self) -> bool:
        """True when the connection is to be closed once its output is written."""
        return self.phase is Phase.CLOSING

    @property
    def max_send(self) -> int:
        """The peer's MaxRecvDataSegmentLength, in bytes."""
        return self._max_send

    # -- facts --------------------------------------------------------------------------------------------------

    def receive(self, chunk: bytes | memoryview, now_ns: int) -> None:
        """Bytes from the peer. Never raises for what they say: the connection then answers and closes."""
        if self.phase is Phase.FULL_FEATURE:
            self._deadline_ns = now_ns + self.node.limits.idle_ping_ns
            self._ping_sent = False
        try:
            for frame in self._framer.receive(chunk):
                if self.phase is Phase.FULL_FEATURE:
                    self._full_feature(frame)
                elif self.phase is Phase.LOGIN:
                    self._login_phase(frame, now_ns)
                else:
                    return
        except IscsiError as error:
            self.fail(str(error))

    def eof(self, text: str = "the initiator closed the connection") -> None:
        """The peer closed its side, or the socket failed."""
        if self.session is not None and self.phase is Phase.FULL_FEATURE:
            self.node.events.append(ConnectionFailed(self.peer, text))
        self._leave(text)

    def next_deadline(self) -> int:
        """When `handle_timer` wants to be called, in nanoseconds."""
        return self._deadline_ns

    def handle_timer(self, now_ns: int) -> None:
        """Time has passed: log-in time-out, ping, or the end of patience after a ping."""
        if now_ns < self._deadline_ns or self.phase is Phase.CLOSING:
            return
        if self.phase is Phase.LOGIN:
            self.fail("no login within the time limit")
        elif self._ping_sent:
            self.fail("no answer to a NOP-In ping")
        else:
            self._ping_sent = True
            self._deadline_ns = now_ns + self.node.limits.ping_timeout_ns
            self._ping()

    # -- wishes -------------------------------------------------------------------------------------------------

    def take_output(self) -> list[Buffer]:
        """The buffers to write, in order; they are handed over once."""
        output, self._output = self._output, []
        self.output_bytes = 0
        return output

    def close(self) -> None:
        """End the connection after what is already queued."""
        self.phase = Phase.CLOSING
        self.ready.clear()
        self._data_in.clear()
        self.data_in_bytes = 0
        self.node.touched.add(self)

    def fail(self, text: str) -> None:
        """End the connection for an error of the peer's."""
        if self.phase is not Phase.CLOSING:
            self.node.events.append(ConnectionFailed(self.peer, text))
        self._leave(text)

    def _leave(self, text: str) -> None:
        session = self.session
        self.close()
        if session is not None:
            session.detach(self, text)

    # -- login --------------------------------------------------------------------------------------------------

    def _login_phase(self, frame: Frame, now_ns: int) -> None:
        if frame.opcode != Opcode.LOGIN_REQUEST:
            header = CODECS[Opcode.NOP_OUT].unpack(frame.header, frame.offset)
            response = LoginResponse(
                isid=bytes(6),
                initiator_task_tag=header[4],
                stat_sn=0,
                exp_cmd_sn=0,
                max_cmd_sn=0,
                status_class=LoginStatus.INVALID_DURING_LOGIN >> 8,
                status_detail=LoginStatus.INVALID_DURING_LOGIN & 0xFF,
            )
            self._append(encode_pdu(response))
            self.fail(f"opcode {frame.opcode:#04x} during the login phase")
            return
        request = decode_pdu(frame.whole())
        assert isinstance(request, LoginRequest)
        step = self._login.receive(request)
        self._append(encode_pdu(step.response))
        if step.failed:
            status = step.response.status_class << 8 | step.response.status_detail
            self.node.events.append(LoginRefused(self.peer, status, step.text))
            self.close()
        elif step.finished:
            agreed = self._login.agreed
            self.session = self._login.session
            self.phase = Phase.FULL_FEATURE
            self._stat_sn = self._login.stat_sn
            self._max_send = agreed.max_send_data_segment_length
            self._header_digest = agreed.header_digest == "CRC32C"
            self._data_digest = agreed.data_digest == "CRC32C"
            self._framer.header_digest = self._header_digest
            self._framer.data_digest = self._data_digest
            self._framer.max_data_segment_length = agreed.max_recv_data_segment_length
            self._deadline_ns = now_ns + self.node.limits.idle_ping_ns

    # -- full-feature phase, in ---------------------------------------------------------------------------------

    def _full_feature(self, frame: Frame) -> None:
        session = self.session
        assert session is not None
        first = frame.header[frame.offset]
        opcode = first & 0x3F
        try:
            if opcode == Opcode.DATA_OUT:
                data_out.receive(session, self, frame)
            elif opcode in _NUMBERED:
                if not frame.data_digest_ok:
                    # Section 7.8: the data are discarded; the command is not taken, so its CmdSN stays open.
                    self.reject(frame, RejectReason.DATA_DIGEST_ERROR, "data digest error")
                    return
                fields = _cmd_sn_of(frame.header, frame.offset)
                immediate = bool(first & 0x40)
                session.receive(self, frame, immediate, fields[6])
            elif opcode == Opcode.SNACK_REQUEST:
                self.reject(frame, RejectReason.SNACK_REJECT, "SNACK at error recovery level 0")
            elif opcode == Opcode.LOGIN_REQUEST:
                self.reject(frame, RejectReason.PROTOCOL_ERROR, "a Login Request in full-feature phase")
                self.fail("a Login Request in full-feature phase")
            else:
                self.reject(frame, RejectReason.COMMAND_NOT_SUPPORTED, f"opcode {opcode:#04x}")
        except ProtocolError as error:
            self.reject(frame, error.reason, str(error))

    def deliver(self, frame: Frame, cmd_sn: int, immediate: bool) -> None:
        """A numbered PDU in its turn (called by the session, perhaps long after it arrived)."""
        session = self.session
        if session is None or self.phase is not Phase.FULL_FEATURE:
            return
        opcode = frame.header[frame.offset] & 0x3F
        try:
            if opcode == Opcode.SCSI_COMMAND:
                session.scsi_command(self, frame, cmd_sn, immediate)
                return
            pdu = decode_pdu(frame.whole())
            if not immediate:
                session.release_window()
            if session.target is None and not isinstance(pdu, TextRequest | LogoutRequest | NopOut):
                raise ProtocolError("only text and logout have a place in a discovery session")
            if isinstance(pdu, NopOut):
                self._nop_out(pdu)
            elif isinstance(pdu, TaskManagementRequest):
                session.management.receive(self, pdu)
            elif isinstance(pdu, TextRequest):
                self._texts.receive(pdu)
            elif isinstance(pdu, LogoutRequest):
                self._logout(pdu)
        except MalformedPdu as error:
            self.reject(frame, RejectReason.INVALID_PDU_FIELD, str(error))
        except ProtocolError as error:
            self.reject(frame, error.reason, str(error))

    def _nop_out(self, pdu: NopOut) -> None:
        if pdu.initiator_task_tag == RESERVED_TAG:
            return  # the answer to our ping, or a bare confirmation of ExpStatSN
        session = self.session
        assert session is not None
        self.send(
            NopIn(
                lun=pdu.lun,
                initiator_task_tag=pdu.initiator_task_tag,
                stat_sn=self.take_stat_sn(),
                exp_cmd_sn=session.exp_cmd_sn,
                max_cmd_sn=session.max_cmd_sn,
                data=pdu.data[: self._max_send],
            )
        )

    def _logout(self, pdu: LogoutRequest) -> None:
        session = self.session
        assert session is not None
        other: TargetConnection | None = self
        code = LogoutResponseCode.SUCCESS
        if pdu.reason == LogoutReason.CLOSE_CONNECTION:
            other = session.connections.get(pdu.cid)
            if other is None:
                code = LogoutResponseCode.CID_NOT_FOUND
        elif pdu.reason == LogoutReason.REMOVE_FOR_RECOVERY:
            code = LogoutResponseCode.RECOVERY_NOT_SUPPORTED
        elif pdu.reason != LogoutReason.CLOSE_SESSION:
            raise ProtocolError(f"logout reason {pdu.reason}", RejectReason.INVALID_PDU_FIELD)
        self.send(
            LogoutResponse(
                response=code,
                initiator_task_tag=pdu.initiator_task_tag,
                stat_sn=self.take_stat_sn(),
                exp_cmd_sn=session.exp_cmd_sn,
                max_cmd_sn=session.max_cmd_sn,
                time2wait=session.agreed.default_time2wait,
                time2retain=session.agreed.default_time2retain,
            )
        )
        if code is not LogoutResponseCode.SUCCESS:
            return
        if pdu.reason == LogoutReason.CLOSE_SESSION:
            session.end("logout")
        elif other is not None:
            other.close()
            session.detach(other, "logout of the last connection")

    # -- full-feature phase, out --------------------------------------------------------------------------------

    def take_stat_sn(self) -> int:
        """Number one status."""
        stat_sn = self._stat_sn
        self._stat_sn = (stat_sn + 1) & _MASK
        return stat_sn

    def send(self, pdu: NopIn | TaskManagementResponse | TextResponse | LogoutResponse | Reject) -> None:
        """Queue a PDU that is no data PDU."""
        self._emit(CODECS[pdu.OPCODE].header(pdu), (pdu.data,) if pdu.data else (), len(pdu.data))

    def send_task_management_response(self, initiator_task_tag: int, response: TaskResponse) -> None:
        """Queue a Task Management Function Response, unless the connection is on its way out."""
        session = self.session
        if session is None or self.phase is not Phase.FULL_FEATURE:
            return
        self.send(
            TaskManagementResponse(
                response=response,
                initiator_task_tag=initiator_task_tag,
                stat_sn=self.take_stat_sn(),
                exp_cmd_sn=session.exp_cmd_sn,
                max_cmd_sn=session.max_cmd_sn,
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
        self._emit(header, (), 0)

    def send_response(self, task: Task, result: ScsiResult, transfer: int, exp_data_sn: int = 0) -> None:
        """Queue a SCSI Response; `transfer` is what the command would have moved, for the residual count."""
        session = self.session
        if session is None or self.phase is not Phase.FULL_FEATURE:
            return
        expected = task.command.expected_length
        sense = result.sense
        data: tuple[Buffer, ...] = ()
        size = 0
        if sense:
            size = 2 + len(sense)
            data = (len(sense).to_bytes(2, "big") + sense,)
        window_step = 0 if task.immediate else 1
        header = _pack_response(
            False,
            False,
            transfer > expected,
            transfer < expected,
            0,
            result.status,
            0,
            size,
            task.initiator_task_tag,
            0,
            self.take_stat_sn(),
            session.exp_cmd_sn,
            (session.max_cmd_sn + window_step) & _MASK,
            exp_data_sn or task.r2t_sn,
            0,
            abs(transfer - expected),
        )
        self._emit(header, data, size)

    def queue_data_in(self, task: Task, result: ScsiResult, total: int, transfer: int) -> None:
        """Data-In is there; it becomes PDUs when the shell asks for them."""
        if self.phase is not Phase.FULL_FEATURE:
            return
        assert self.session is not None
        self._data_in.append(
            DataInSource(task, result, total, transfer, self.session.agreed.max_burst_length)
        )
        self.data_in_bytes += total
        self.node.touched.add(self)

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
            with_status = last and source.result.status == 0 and not source.result.sense
            expected, transfer = task.command.expected_length, source.transfer
            header = _pack_data_in(
                final,
                False,
                with_status and transfer > expected,
                with_status and transfer < expected,
                with_status,
                0,
                0,
                size,
                task.lun_field,
                task.initiator_task_tag,
                RESERVED_TAG,
                self.take_stat_sn() if with_status else 0,
                session.exp_cmd_sn,
                (session.max_cmd_sn + (0 if task.immediate else 1)) & _MASK
                if with_status
                else session.max_cmd_sn,
                source.data_sn,
                offset,
                abs(transfer - expected) if with_status else 0,
            )
            source.data_sn += 1
            self._emit(header, pieces, size)
            if last:
                self._data_in.popleft()
                if not with_status:
                    self.send_response(task, source.result, transfer, source.data_sn)
                session.finish(task)
        self.data_in_bytes -= emitted
        return emitted

    def forget_task(self, task: Task) -> None:
        """A task was ended: nothing more is executed or sent for it."""
        if task in self.ready:
            self.ready.remove(task)
        for source in [source for source in self._data_in if source.task is task]:
            self._data_in.remove(source)
            self.data_in_bytes -= source.total - source.offset

    def _ping(self) -> None:
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
        self.node.touched.add(self)

    def _append(self, encoded: bytes) -> None:
        self._output.append(encoded)
        self.output_bytes += len(encoded)
        self.node.touched.add(self)

    def set_max_send(self, size_bytes: int) -> None:
        """The peer declared a new MaxRecvDataSegmentLength in full-feature phase."""
        self._max_send = size_bytes
