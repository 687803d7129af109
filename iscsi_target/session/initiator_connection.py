# SPDX-License-Identifier: Apache-2.0
"""One TCP connection at the initiator: commands in, bytes out; bytes in, events out (RFC 7143). Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from iscsi_target.errors import ProtocolError
from iscsi_target.executor import Buffer
from iscsi_target.session.initiator_events import (
    Answered,
    AsyncReceived,
    CommandEnded,
    LoggedIn,
    Rejected,
    TextAnswered,
)
from iscsi_target.session.initiator_login import InitiatorLogin, LoginWish
from iscsi_target.session.initiator_session import InitiatorSession, InitiatorTask
from iscsi_target.wire.codec import CODECS, decode_pdu, encode_pdu
from iscsi_target.wire.digest import digest_of
from iscsi_target.wire.framing import Frame, Framer
from iscsi_target.wire.opcodes import RESERVED_TAG, Opcode
from iscsi_target.wire.requests import (
    LogoutRequest,
    NopOut,
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
                raise ProtocolError("data digest error in a PDU other than Data-In")
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
        self._max_send = agreed.max_send_data_segment_length
        self._header_digest = agreed.header_digest == "CRC32C"
        self._data_digest = agreed.data_digest == "CRC32C"
        self._framer.header_digest = self._header_digest
        self._framer.data_digest = self._data_digest
        self._framer.max_data_segment_length = agreed.max_recv_data_segment_length
        self.full_feature = True
        session.connections[self.cid] = self
        session.events.append(LoggedIn(self.cid))

    # -- full-feature phase, out --------------------------------------------------------------------------------

    def _send_command(self, task: InitiatorTask) -> None:
        session = self.session
        agreed = session.agreed
        task.cmd_sn = session.take_cmd_sn()
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

    def _send_request(self, kind: type[Request], fields: dict[str, object]) -> None:
        session = self.session
        cmd_sn = session.cmd_sn if fields.get("immediate") else session.take_cmd_sn()
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
            _,
            overflow,
            underflow,
            with_status,
            status,
            _,
            size,
            _,
            initiator_task_tag,
            _,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            _,
            offset,
            residual_count,
        ) = _unpack_data_in(frame.header, frame.offset)
        if not frame.data_digest_ok:
            raise ProtocolError("data digest error in Data-In")
        session = self.session
        session.update_window(exp_cmd_sn, max_cmd_sn)
        if with_status:
            self._exp_stat_sn = (stat_sn + 1) & _MASK
        task = session.tasks.get(initiator_task_tag)
        if task is None or task.connection is not self:
            return  # the task was given up while its data were on the way
        if task.data_in is None or offset + size > len(task.data_in):
            raise ProtocolError("Data-In beyond what the command expects")
        task.data_in[offset : offset + size] = frame.data
        task.received += size
        if with_status:
            self._end(task, 0, status, b"", overflow, underflow, residual_count)

    def _full_feature(self, pdu: object) -> None:
        session = self.session
        if isinstance(pdu, ScsiResponse):
            self._status(pdu)
            task = session.tasks.get(pdu.initiator_task_tag)
            if task is not None and task.connection is self:
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
                self._exp_stat_sn = (pdu.stat_sn + 1) & _MASK
                session.events.append(Answered(pdu.initiator_task_tag, pdu))
            if pdu.target_transfer_tag != RESERVED_TAG:
                self._answer_ping(pdu)
        elif isinstance(pdu, TextResponse):
            self._status(pdu)
            self._text_response(pdu)
        elif isinstance(pdu, LogoutResponse | TaskManagementResponse):
            self._status(pdu)
            session.events.append(Answered(pdu.initiator_task_tag, pdu))
        elif isinstance(pdu, Reject):
            self._status(pdu)
            tag = int.from_bytes(pdu.data[16:20], "big") if len(pdu.data) >= 48 else RESERVED_TAG
            session.events.append(Rejected(tag, pdu))
        elif isinstance(pdu, AsyncMessage):
            self._status(pdu)
            session.events.append(AsyncReceived(self.cid, pdu))
        else:
            raise ProtocolError(f"a {type(pdu).__name__} from the target in full-feature phase")

    def _status(
        self,
        pdu: ScsiResponse | TextResponse | LogoutResponse | TaskManagementResponse | Reject | AsyncMessage,
    ) -> None:
        self._exp_stat_sn = (pdu.stat_sn + 1) & _MASK
        self.session.update_window(pdu.exp_cmd_sn, pdu.max_cmd_sn)

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
        session = self.session
        del session.tasks[task.initiator_task_tag]
        self.outstanding -= 1
        data_in = task.data_in if task.data_in is not None else memoryview(b"")
        session.events.append(
            CommandEnded(
                task.initiator_task_tag,
                response,
                status,
                sense,
                data_in[: task.received],
                task.received,
                overflow,
                underflow,
                residual_count,
            )
        )
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
