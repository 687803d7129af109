# SPDX-License-Identifier: Apache-2.0
"""One TCP connection at the target: bytes in, PDUs to the session, bytes out (RFC 7143). Sans-IO.

The shell feeds reads into `receive`, executes the tasks in `ready`, asks `emit_data_in` for as much Data-In as
it may send, and writes what `take_output` returns; when `closing` is true it closes after the last byte.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from iscsi_target.errors import IscsiError, ProtocolError
from iscsi_target.fast_path_kernel import FastDisk, FastPath
from iscsi_target.fast_units import FastUnits, offers_fast_path
from iscsi_target.session import data_out, recovery
from iscsi_target.session.events import ConnectionFailed, LoginRefused
from iscsi_target.session.limits import seconds
from iscsi_target.session.target_login import TargetLogin
from iscsi_target.session.target_output import Phase, TargetOutput
from iscsi_target.session.target_text import TextExchange
from iscsi_target.wire.codec import CODECS, decode_pdu, encode_pdu
from iscsi_target.wire.derive import MalformedPdu
from iscsi_target.wire.framing import Frame, Framer
from iscsi_target.wire.lun import lun_from_bytes
from iscsi_target.wire.opcodes import (
    RESERVED_TAG,
    LoginStatus,
    LogoutReason,
    LogoutResponseCode,
    Opcode,
    RejectReason,
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
)

if TYPE_CHECKING:
    from iscsi_target.session.counters import Traffic
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
_WITH_EXP_STAT_SN = _NUMBERED | {Opcode.DATA_OUT, Opcode.SNACK_REQUEST}
_SCSI_COMMAND = int(Opcode.SCSI_COMMAND)
_BESIDE_FAST = frozenset({Opcode.SCSI_COMMAND, Opcode.DATA_OUT, Opcode.NOP_OUT})
"""PDUs that have nothing to say about the commands which the fast path took before them."""
_ORDERING = 0x06
"""Of ATTR, what makes a command neither UNTAGGED nor SIMPLE: it waits for older tasks, or goes before them."""
_word_at = struct.Struct(">I").unpack_from
"""Every request PDU of full-feature phase has CmdSN (or reserved bytes) at byte 24 and ExpStatSN at byte 28."""


class TargetConnection(TargetOutput):
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
        fast_path: bool = False,
    ) -> None:
        """With `fast_path` the shell calls `run_fast`, and `give_up_fast` for what is left, after every `receive` that
        leaves commands in ``fast.taken``."""
        super().__init__(node, peer=peer)
        self.local_host = local_host
        self.portal_group_tag = portal_group_tag
        self.cid = 0
        self._framer = Framer()
        self._login = TargetLogin(node, self, random_bytes)
        self._texts = TextExchange(self)
        self._deadline_ns = now_ns + node.limits.login_timeout_ns
        self._ping_sent = False
        self._fast_path = fast_path
        self._pdu_since_ns: int | None = None
        """When the first byte of the PDU came that is not complete yet."""

    @property
    def closing(self) -> bool:
        """True when the connection is to be closed once its output is written."""
        return self.phase is Phase.CLOSING

    # -- facts --------------------------------------------------------------------------------------------------

    @property
    def partial_bytes(self) -> int:
        """How much of an unfinished PDU has come."""
        return self._framer.partial_bytes

    @property
    def missing(self) -> memoryview | None:
        """Where the rest of a PDU that has begun may be read to, instead of a chunk."""
        return self._framer.missing

    def receive(
        self,
        chunk: bytes | bytearray | memoryview,
        now_ns: int,
        *,
        in_place: int = 0,
        transient: bool = False,
    ) -> None:
        """Bytes from the peer. Never raises for what they say: the connection then answers and closes.

        `in_place` bytes were put into `missing` before those of `chunk`. With `transient` the chunk is overwritten once
        the commands in `fast` have been run or given up.
        """
        self.node.now_ns = now_ns
        if self.phase is Phase.FULL_FEATURE:
            self._deadline_ns = now_ns + self.node.limits.idle_ping_ns
            self._ping_sent = False
        cut = False
        framer = self._framer
        try:
            if in_place:
                framer.filled(in_place)
            body = framer.feed(chunk, transient=transient)
            if body is not None:
                cut = True
                if not self._take(body, 0, len(body)):
                    self._frame(framer.frame(body, 0), now_ns)
            end = framer.end
            while (start := framer.start) < end:
                after = self._take(chunk, start, end)
                if after != start:
                    cut = True
                    framer.start = after
                    if after == end:
                        break
                frame = framer.next()
                if frame is None:
                    break
                cut = True
                self._frame(frame, now_ns)
        except IscsiError as error:
            self.fail(str(error))
        if not framer.partial:
            self._pdu_since_ns = None
        elif cut or self._pdu_since_ns is None:
            self._pdu_since_ns = now_ns

    def _frame(self, frame: Frame, now_ns: int) -> None:
        if self.phase is Phase.FULL_FEATURE:
            self._full_feature(frame)
        elif self.phase is Phase.LOGIN:
            self._login_phase(frame, now_ns)

    def sent(self, now_ns: int) -> None:
        """The peer's TCP acknowledged something since the last time: a slow reader, but a living one."""
        if self.phase is Phase.FULL_FEATURE:
            limits = self.node.limits
            patience_ns = limits.ping_timeout_ns if self._ping_sent else limits.idle_ping_ns
            self._deadline_ns = max(self._deadline_ns, now_ns + patience_ns)

    def reading_resumed(self, now_ns: int) -> None:
        """Nobody read for a while: the PDU that was on its way is waited for anew."""
        if self._pdu_since_ns is not None:
            self._pdu_since_ns = now_ns

    def eof(self, text: str = "the initiator closed the connection") -> None:
        """The peer closed its side, or the socket failed."""
        if self.session is not None and self.phase is Phase.FULL_FEATURE:
            self.node.events.append(ConnectionFailed(self.peer, text))
        self._leave(text)

    def next_deadline(self) -> int:
        """When `handle_timer` wants to be called, in nanoseconds."""
        if self._pdu_since_ns is None or self.phase is not Phase.FULL_FEATURE:
            return self._deadline_ns
        return min(self._deadline_ns, self._pdu_since_ns + self.node.limits.pdu_timeout_ns)

    def handle_timer(self, now_ns: int) -> None:
        """Time has passed: log-in time-out, a PDU that does not end, ping, or the end of patience after a ping."""
        if now_ns < self.next_deadline() or self.phase is Phase.CLOSING:
            return
        limits = self.node.limits
        if self.phase is Phase.LOGIN:
            self.fail(f"no login within {seconds(limits.login_timeout_ns)}")
        elif now_ns < self._deadline_ns:
            self.fail(f"a PDU was not complete {seconds(limits.pdu_timeout_ns)} after its first byte")
        elif self._ping_sent:
            self.fail(f"no answer to a NOP-In ping within {seconds(limits.ping_timeout_ns)}")
        else:
            self._ping_sent = True
            self._deadline_ns = now_ns + limits.ping_timeout_ns
            if self.retention is not None and self.session is not None:
                # After so long a silence the last PDU of a sequence, or its R2T, has been lost (section 7.2.1).
                data_out.ask_for_all_again(self.session, self)
            self.ping()

    # -- wishes -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the connection after what is already queued."""
        self.phase = Phase.CLOSING
        self.ready.clear()
        if self.fast is not None:
            self.fast.give_up()
        self._data_in.clear()
        self.data_in_bytes = 0
        self._touch()

    def fail(self, text: str) -> None:
        """End the connection for an error of the peer's."""
        if self.phase is not Phase.CLOSING:
            self.node.events.append(ConnectionFailed(self.peer, text))
        self._leave(text)

    def _leave(self, text: str) -> None:
        session = self.session
        recover = self.phase is Phase.FULL_FEATURE
        self.close()
        if session is not None:
            session.detach(self, text, recover=recover)

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
            self.set_max_send(agreed.max_send_data_segment_length)
            self._header_digest = agreed.header_digest == "CRC32C"
            self._data_digest = agreed.data_digest == "CRC32C"
            self._framer.header_digest = self._header_digest
            self._framer.data_digest = self._data_digest
            self._framer.max_data_segment_length = agreed.max_recv_data_segment_length
            assert self.session is not None
            if self.session.agreed.error_recovery_level:
                self.retention = recovery.Retention(
                    4 * self.node.limits.queued_commands,
                    self.node.limits.retained_bytes,
                    self.session.allegiance.acknowledged,
                )
                self._acknowledge = self.retention.acknowledged
            else:
                self._begin_fast_path(self.session)
            self._deadline_ns = now_ns + self.node.limits.idle_ping_ns

    # -- the fast path ------------------------------------------------------------------------------------------

    def _begin_fast_path(self, session: TargetSession) -> None:
        """Where nothing is kept to be sent again, and the logical units offer it."""
        target, agreed = session.target, session.agreed
        if not self._fast_path or target is None or not offers_fast_path(target.logical_units):
            return
        units: FastUnits = target.logical_units
        known: dict[int, tuple[int, Traffic]] = {}

        def find(lun_field: int) -> tuple[FastDisk, Traffic] | None:
            place = known.get(lun_field)
            lun = lun_from_bytes(lun_field.to_bytes(8, "big")) if place is None else place[0]
            disk = units.fast_disk(session.view, lun)
            if disk is None:
                return None
            if place is None:  # a LUN that exists, so this cannot grow without end
                place = known[lun_field] = lun, session.traffic.of(lun, (lun,))
            return disk, place[1]

        longest = min(
            agreed.first_burst_length,
            self._framer.max_data_segment_length,
            self.node.limits.transfer_bytes,
        )
        self.fast = FastPath(
            units.fast_cdbs,
            find,
            min(self._max_send, agreed.max_burst_length),
            longest if agreed.immediate_data else 0,
            self._header_digest,
            self._data_digest,
        )

    def _take(self, source: bytes | bytearray | memoryview, start: int, end: int) -> int:
        """Let the fast path have what it can serve, unless it would overtake something; returns what comes next."""
        fast, session = self.fast, self.session
        if (
            fast is None
            or session is None
            or source[start] != _SCSI_COMMAND
            or self.ready
            or self.data_in_bytes
            or self.phase is not Phase.FULL_FEATURE
            or not session.in_order
        ):
            return start
        start = fast.take(source, start, end, session.tasks, session.exp_cmd_sn, session.max_cmd_sn)
        session.exp_cmd_sn = fast.exp_cmd_sn
        return start

    def give_up_fast(self) -> None:
        """What the fast path took and did not run becomes tasks, before those that came after it."""
        if self.fast is None:
            return
        later = list(self.ready)
        self.ready.clear()
        for source, start in self.fast.give_up():
            frame = self._framer.frame_of(source, start)
            self.deliver(frame, _word_at(frame.header, frame.offset + 24)[0], False)
        self.ready.extend(later)

    # -- full-feature phase, in ---------------------------------------------------------------------------------

    def _full_feature(self, frame: Frame) -> None:
        session = self.session
        assert session is not None
        first = frame.header[frame.offset]
        opcode = first & 0x3F
        if (
            self.fast is not None
            and self.fast.taken
            and (
                opcode not in _BESIDE_FAST
                or (opcode == _SCSI_COMMAND and frame.header[frame.offset + 1] & _ORDERING)
            )
        ):
            self.give_up_fast()
        if self._acknowledge is not None and opcode in _WITH_EXP_STAT_SN:
            self._acknowledge(_word_at(frame.header, frame.offset + 28)[0])
        try:
            if opcode in _NUMBERED:
                if not frame.data_digest_ok:
                    # Section 7.8: the data are discarded; the command is not taken, so its CmdSN stays open.
                    self.reject(frame, RejectReason.DATA_DIGEST_ERROR, "data digest error")
                    return
                session.receive(self, frame, bool(first & 0x40), _word_at(frame.header, frame.offset + 24)[0])
            elif opcode == Opcode.DATA_OUT:
                data_out.receive(session, self, frame)
            elif opcode == Opcode.SNACK_REQUEST:
                recovery.snack(self, frame)
            elif opcode == Opcode.LOGIN_REQUEST:
                self.reject(frame, RejectReason.PROTOCOL_ERROR, "a Login Request in full-feature phase")
                self.fail("a Login Request in full-feature phase")
            else:
                self.reject(frame, RejectReason.COMMAND_NOT_SUPPORTED, f"opcode {opcode:#04x}")
        except ProtocolError as error:
            self.reject(frame, error.reason, str(error))

    def deliver_data(self, frame: Frame) -> None:
        """Data-Out that was kept until its command had its turn."""
        if self.session is None or self.phase is not Phase.FULL_FEATURE:
            return
        try:
            data_out.receive(self.session, self, frame)
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
            other = session.connections.get(pdu.cid)
            if not session.allegiance.wanted:
                code = LogoutResponseCode.RECOVERY_NOT_SUPPORTED
            elif (other is None and pdu.cid not in session.allegiance.suspended) or other is self:
                code = LogoutResponseCode.CID_NOT_FOUND
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
            session.detach(
                other,
                "logout of the last connection",
                recover=pdu.reason == LogoutReason.REMOVE_FOR_RECOVERY,
            )

    def _touch(self) -> None:
        self.node.touched.add(self)
