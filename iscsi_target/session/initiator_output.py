# SPDX-License-Identifier: Apache-2.0
"""What one connection of the initiator sends: commands as the window allows, Data-Out, requests, digests. Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from iscsi_target.executor import Buffer
from iscsi_target.session.initiator_session import InitiatorSession, InitiatorTask
from iscsi_target.wire.codec import CODECS
from iscsi_target.wire.digest import digest_of
from iscsi_target.wire.opcodes import RESERVED_TAG, Opcode
from iscsi_target.wire.requests import LogoutRequest, NopOut, TaskManagementRequest, TextRequest

_SEND_AHEAD_BYTES = 256 * 1024
"""Commands are numbered only while less than this waits to be written, so that a slow connection does not hold up the
CmdSN order of the others for long."""

_pack_command = CODECS[Opcode.SCSI_COMMAND].pack
_pack_data_out = CODECS[Opcode.DATA_OUT].pack

Request = NopOut | TextRequest | LogoutRequest | TaskManagementRequest


class InitiatorOutput:
    """The sending half of an :class:`~iscsi_target.session.initiator_connection.InitiatorConnection`."""

    def __init__(self, session: InitiatorSession, cid: int) -> None:
        self.session = session
        self.cid = cid
        self.full_feature = False
        self.output_bytes = 0
        self.outstanding = 0
        """SCSI commands without status on this connection, sent or waiting."""
        self._output: list[Buffer] = []
        self._pending: deque[InitiatorTask | tuple[type[Request], dict[str, object]]] = deque()
        self._exp_stat_sn = 0
        self._recovering = False
        self._unanswered: dict[int, tuple[type[Request], dict[str, object], int]] = {}
        """Numbered requests other than SCSI commands, with their CmdSN (only with recovery)."""
        self._header_digest = False
        self._data_digest = False
        self._max_send = 8192

    def submit(self, task: InitiatorTask) -> None:
        """Queue a SCSI command; it leaves when the command window allows it, an immediate one at once."""
        self.session.tasks[task.initiator_task_tag] = task
        self.outstanding += 1
        if task.immediate and self.full_feature:
            self._send_command(task)  # the window is for the others (section 4.2.2.1)
            return
        self._pending.append(task)
        self.session.touched.add(self)

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

    def _send_command(self, task: InitiatorTask, cmd_sn: int | None = None) -> None:
        session = self.session
        agreed = session.agreed
        if cmd_sn is None:
            cmd_sn = session.cmd_sn if task.immediate else session.take_cmd_sn()
        task.cmd_sn = cmd_sn
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
            len(task.ahs) // 4,
            len(immediate),
            task.lun_field,
            task.initiator_task_tag,
            task.expected_length,
            task.cmd_sn,
            self._exp_stat_sn,
            task.cdb,
        )
        self._emit(header + task.ahs, (immediate,) if len(immediate) else (), len(immediate))
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

    def _send_request(self, kind: type[Request], fields: dict[str, object], cmd_sn: int | None = None) -> int:
        """Number and send; returns the CmdSN it carries."""
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
        return cmd_sn

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
