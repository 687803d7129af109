# SPDX-License-Identifier: Apache-2.0
"""The initiator's end of FCP exchanges with one target. Sans-IO: frames in, frames out (FCP-4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from fcsim.errors import CreditMisuse, MalformedFrame, PeerViolation
from fcsim.fcp.sequences import F_CTL_COMMAND, DataCollector, data_frames
from fcsim.wire.codes import UNASSIGNED_X_ID, FCtl, FcType, RCtl
from fcsim.wire.fcp import FcpCmnd, FcpRsp, FcpXferRdy, TaskManagementFlags, decode_fcp, encode_fcp
from fcsim.wire.frame import Frame, FrameHeader

F_CTL_ABTS = FCtl.END_SEQUENCE | FCtl.SEQUENCE_INITIATIVE
"""An abort ends its sequence and hands the initiative over, for the answer."""
#: OX_ID 0xFFFF means none.
OX_ID_LIMIT = 0xFFFF


@dataclass(frozen=True, slots=True)
class CommandCompleted:
    """FCP_RSP came. ``residual`` is negative for an underrun, positive for an overrun; ``response_code`` is that of
    task management or of a protocol error, None where the response had none."""

    ox_id: int
    status: int
    data_in: bytes
    sense: bytes
    residual: int
    response_code: int | None = None


@dataclass(frozen=True, slots=True)
class ExchangeFailed:
    """The exchange ended without a response: the target broke a rule, a frame was lost, or time ran out."""

    ox_id: int
    reason: str


Event = CommandCompleted | ExchangeFailed


class _Exchange:
    __slots__ = ("collector", "data_out", "deadline_ps", "rx_id", "sent")

    def __init__(self, data_out: bytes, data_in_length: int, deadline_ps: int) -> None:
        self.data_out = data_out
        self.collector = DataCollector(data_in_length)
        self.deadline_ps = deadline_ps
        self.rx_id = UNASSIGNED_X_ID
        self.sent = 0


class FcpInitiator:
    """Exchanges with the target at ``d_id``. ``max_payload``: the data field that the target's login allows.

    ``timeout_ps``: an exchange without a response for so long fails, with an ABTS on the wire.
    """

    def __init__(
        self,
        s_id: int,
        d_id: int,
        *,
        max_payload: int = 2048,
        timeout_ps: int = 10**13,
        exchanges: int = 1024,
    ) -> None:
        self.s_id = s_id
        self.d_id = d_id
        self._max_payload = max_payload
        self.timeout_ps = timeout_ps
        self._limit = min(exchanges, OX_ID_LIMIT)
        self._exchanges: dict[int, _Exchange] = {}
        self._next_ox_id = 0
        self._seq_id = 0
        self._output: deque[Frame] = deque()
        self._events: deque[Event] = deque()

    @property
    def outstanding(self) -> int:
        """Exchanges without a response yet."""
        return len(self._exchanges)

    @property
    def full(self) -> bool:
        """As many exchanges are open as may be: :meth:`command` would raise."""
        return len(self._exchanges) >= self._limit

    def command(
        self,
        lun: bytes,
        cdb: bytes,
        now_ps: int,
        *,
        data_out: bytes = b"",
        data_in_length: int = 0,
        task_attribute: int = 0,
    ) -> int:
        """Send a command; returns its OX_ID. Data go one way: out or in. Raises CreditMisuse when too many are
        outstanding, ValueError for a CDB or data that FCP_CMND cannot say."""
        if data_out and data_in_length:
            raise ValueError("a command moves data out or in; bidirectional commands are not sent")
        if len(cdb) > 16 and len(cdb) % 4:
            raise ValueError(f"a CDB beyond 16 bytes grows in words of four, not to {len(cdb)}")
        unit = FcpCmnd(
            lun=lun,
            task_attribute=task_attribute,
            rddata=data_in_length > 0,
            wrdata=bool(data_out),
            cdb=cdb[:16].ljust(16, b"\0"),
            additional_cdb=cdb[16:],
            fcp_dl=len(data_out) or data_in_length,
        )
        return self._originate(unit, data_out, data_in_length, now_ps)

    def task_management(self, lun: bytes, function: TaskManagementFlags, now_ps: int) -> int:
        """Send a task management function; its OX_ID. The answer is a CommandCompleted with a response code."""
        return self._originate(FcpCmnd(lun=lun, task_management=function), b"", 0, now_ps)

    def _originate(self, unit: FcpCmnd, data_out: bytes, data_in_length: int, now_ps: int) -> int:
        if len(self._exchanges) >= self._limit:
            raise CreditMisuse(f"{self._limit} exchanges are outstanding: wait for a response")
        while self._next_ox_id in self._exchanges:
            self._next_ox_id = (self._next_ox_id + 1) % OX_ID_LIMIT
        ox_id, self._next_ox_id = self._next_ox_id, (self._next_ox_id + 1) % OX_ID_LIMIT
        self._exchanges[ox_id] = _Exchange(data_out, data_in_length, now_ps + self.timeout_ps)
        self._send(ox_id, RCtl.UNSOLICITED_COMMAND, F_CTL_COMMAND, encode_fcp(unit))
        return ox_id

    def receive(self, frame: Frame, now_ps: int) -> None:
        """A frame from the target; one of an exchange that is not ours, or no more, is ignored."""
        header = frame.header
        exchange = self._exchanges.get(header.ox_id)
        if exchange is None or header.s_id != self.d_id or not header.f_ctl & FCtl.EXCHANGE_RESPONDER:
            return
        if header.type_ != FcType.FCP:
            if header.r_ctl == RCtl.BA_RJT:
                self._fail(header.ox_id, "the target refused the abort", abort=False)
            return
        exchange.rx_id = header.rx_id
        exchange.deadline_ps = now_ps + self.timeout_ps
        try:
            if header.r_ctl == RCtl.SOLICITED_DATA:
                exchange.collector.take(frame)
                return
            unit = decode_fcp(header.r_ctl, frame.payload)
        except (PeerViolation, MalformedFrame) as error:
            self._fail(header.ox_id, str(error))
            return
        if isinstance(unit, FcpXferRdy):
            self._transfer(header.ox_id, exchange, unit)
        elif isinstance(unit, FcpRsp):
            self._complete(header.ox_id, exchange, unit)
        else:
            self._fail(header.ox_id, f"R_CTL {header.r_ctl:#04x} has no place in an answer")

    def _transfer(self, ox_id: int, exchange: _Exchange, ready: FcpXferRdy) -> None:
        end = ready.data_ro + ready.burst_len
        if ready.data_ro != exchange.sent or end > len(exchange.data_out) or not ready.burst_len:
            self._fail(
                ox_id,
                f"XFER_RDY for bytes {ready.data_ro} to {end}, {exchange.sent} of {len(exchange.data_out)} sent",
            )
            return
        exchange.sent = end
        self._output += data_frames(
            exchange.data_out[ready.data_ro : end],
            relative_offset=ready.data_ro,
            max_payload=self._max_payload,
            from_responder=False,
            addresses=(self.s_id, self.d_id),
            ids=(ox_id, exchange.rx_id),
            seq_id=self._new_seq_id(),
        )

    def _complete(self, ox_id: int, exchange: _Exchange, response: FcpRsp) -> None:
        del self._exchanges[ox_id]
        data_in = bytes(exchange.collector.data)
        residual = (
            response.residual
            if response.residual_overrun
            else -response.residual
            if response.residual_underrun
            else 0
        )
        promised = exchange.collector.limit + min(residual, 0)
        if not response.scsi_status and len(data_in) != promised:
            self._events.append(ExchangeFailed(ox_id, f"{len(data_in)} of {promised} bytes of Data-In came"))
            return
        information = response.response_information
        code = information[3] if response.response_length_valid and len(information) >= 4 else None
        sense = response.sense if response.sense_length_valid else b""
        self._events.append(CommandCompleted(ox_id, response.scsi_status, data_in, sense, residual, code))

    def _fail(self, ox_id: int, reason: str, *, abort: bool = True) -> None:
        exchange = self._exchanges.pop(ox_id)
        self._events.append(ExchangeFailed(ox_id, reason))
        if abort:
            self._output.append(self._frame(ox_id, exchange.rx_id, RCtl.ABTS, FcType.BLS, F_CTL_ABTS, b""))

    # -- time and output ----------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When :meth:`handle_timer` wants to be called, in picoseconds."""
        return min((exchange.deadline_ps for exchange in self._exchanges.values()), default=None)

    def handle_timer(self, now_ps: int) -> None:
        """Exchanges without an answer for too long fail."""
        late = [ox_id for ox_id, exchange in self._exchanges.items() if exchange.deadline_ps <= now_ps]
        for ox_id in late:
            self._fail(ox_id, "no answer within the time limit")

    def frames(self) -> Iterator[Frame]:
        """What has to be sent, in order; handed over once."""
        while self._output:
            yield self._output.popleft()

    def events(self) -> Iterator[Event]:
        """What happened since the last call."""
        while self._events:
            yield self._events.popleft()

    def _new_seq_id(self) -> int:
        self._seq_id = (self._seq_id + 1) & 0xFF
        return self._seq_id

    def _send(self, ox_id: int, r_ctl: RCtl, f_ctl: int, payload: bytes) -> None:
        self._output.append(self._frame(ox_id, UNASSIGNED_X_ID, r_ctl, FcType.FCP, f_ctl, payload))

    def _frame(self, ox_id: int, rx_id: int, r_ctl: RCtl, type_: FcType, f_ctl: int, payload: bytes) -> Frame:
        header = FrameHeader(
            r_ctl=r_ctl,
            d_id=self.d_id,
            s_id=self.s_id,
            type_=type_,
            f_ctl=f_ctl,
            seq_id=self._new_seq_id(),
            ox_id=ox_id,
            rx_id=rx_id,
        )
        return Frame(header=header, payload=payload)
