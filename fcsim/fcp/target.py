# SPDX-License-Identifier: Apache-2.0
"""The target's end of FCP exchanges. Sans-IO: frames in, frames out (FCP-4 clauses 9 and 12)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fcsim.errors import MalformedFrame, PeerViolation
from fcsim.fcp.executor import FcpCommand, FcpResult, ScsiExecutor
from fcsim.fcp.sequences import F_CTL_RESPONSE, F_CTL_XFER_RDY, DataCollector, data_frames
from fcsim.wire.bls import BaAcc
from fcsim.wire.codes import UNASSIGNED_X_ID, FCtl, FcType, RCtl
from fcsim.wire.derive import derive
from fcsim.wire.fcp import (
    FcpCmnd,
    FcpRsp,
    FcpRspCode,
    FcpXferRdy,
    TaskManagementFlags,
    decode_fcp,
    encode_fcp,
)
from fcsim.wire.frame import Frame, FrameHeader

RX_ID_LIMIT = 0xFFFF
TASK_SET_FULL = 0x28


@dataclass(frozen=True, slots=True)
class ExchangeDropped:
    """An exchange ended without a response: aborted, reset, or its initiator broke a rule."""

    initiator: int
    ox_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class FcpTargetLimits:
    """``burst_bytes``: what one XFER_RDY asks for. ``transfer_bytes``: the longest Data-Out. ``exchanges``: how many
    may be open, of all initiators; a command beyond them is answered TASK SET FULL. ``timeout_ps``: Data-Out that
    does not come for so long ends the exchange."""

    burst_bytes: int = 65_536
    transfer_bytes: int = 16 * 1024 * 1024
    exchanges: int = 1024
    timeout_ps: int = 10**13


class _Exchange:
    __slots__ = ("asked", "collector", "command", "deadline_ps", "ox_id", "wanted")

    def __init__(self, ox_id: int, command: FcpCommand, wanted: int, deadline_ps: int) -> None:
        self.ox_id = ox_id
        self.command = command
        self.wanted = wanted
        """What the device server takes."""
        self.collector = DataCollector(min(wanted, command.data_length))
        self.asked = 0
        self.deadline_ps = deadline_ps


class FcpTarget:
    """Answers commands from any initiator that is logged in (``initiators``, by N_Port_ID, with the data field that
    each can receive); frames of others are ignored."""

    def __init__(self, s_id: int, executor: ScsiExecutor, limits: FcpTargetLimits | None = None) -> None:
        self.s_id = s_id
        self._executor = executor
        self._limits = limits or FcpTargetLimits()
        self._initiators: dict[int, int] = {}
        self._exchanges: dict[int, _Exchange] = {}
        self._next_rx_id = 0
        self._seq_id = 0
        self._output: deque[Frame] = deque()
        self._events: deque[ExchangeDropped] = deque()

    def log_in(self, initiator: int, max_payload: int) -> None:
        """PRLI was accepted from this N_Port_ID, whose PLOGI allows data fields of so many bytes."""
        self._initiators[initiator] = max_payload

    def log_out(self, initiator: int) -> None:
        """LOGO, or the link is gone: its exchanges end."""
        self._initiators.pop(initiator, None)
        self._drop(lambda exchange: exchange.command.initiator == initiator, "logged out")

    @property
    def outstanding(self) -> int:
        """Open exchanges."""
        return len(self._exchanges)

    def rx_id_of(self, initiator: int, ox_id: int) -> int | None:
        """The RX_ID of an open exchange, None where there is none: what REC asks."""
        for rx_id, exchange in self._exchanges.items():
            if exchange.ox_id == ox_id and exchange.command.initiator == initiator:
                return rx_id
        return None

    def receive(self, frame: Frame, now_ps: int) -> None:
        """A frame from an initiator."""
        header = frame.header
        if header.s_id not in self._initiators or header.f_ctl & FCtl.EXCHANGE_RESPONDER:
            return
        if header.r_ctl == RCtl.ABTS and header.type_ == FcType.BLS:
            self._abort(header)
        elif header.type_ != FcType.FCP:
            return
        elif header.r_ctl == RCtl.UNSOLICITED_COMMAND:
            self._command(frame, now_ps)
        elif header.r_ctl == RCtl.SOLICITED_DATA:
            self._data(frame, now_ps)

    def _command(self, frame: Frame, now_ps: int) -> None:
        header = frame.header
        try:
            unit = decode_fcp(header.r_ctl, frame.payload)
            assert isinstance(unit, FcpCmnd)
        except MalformedFrame as error:
            self._events.append(ExchangeDropped(header.s_id, header.ox_id, str(error)))
            return
        if unit.task_management:
            self._manage(header, unit)
            return
        if unit.rddata and unit.wrdata:
            self._refuse(header, FcpRspCode.COMMAND_FIELDS_INVALID)
            return
        command = FcpCommand(
            header.s_id,
            unit.lun,
            unit.cdb + unit.additional_cdb,
            unit.task_attribute,
            unit.rddata,
            unit.wrdata,
            unit.fcp_dl if unit.rddata or unit.wrdata else 0,
        )
        if len(self._exchanges) >= self._limits.exchanges:
            self._answer(
                header.s_id,
                header.ox_id,
                UNASSIGNED_X_ID,
                command,
                FcpResult(TASK_SET_FULL, transfer_length=0),
            )
            return
        rx_id = self._new_rx_id()
        wanted = self._executor.data_out_length(command)
        if wanted and command.write and min(wanted, command.data_length) <= self._limits.transfer_bytes:
            exchange = _Exchange(header.ox_id, command, wanted, now_ps + self._limits.timeout_ps)
            self._exchanges[rx_id] = exchange
            if exchange.collector.limit:
                self._ask(rx_id, exchange)
                return
            del self._exchanges[rx_id]
        self._answer(header.s_id, header.ox_id, rx_id, command, self._executor.execute(command), wanted)

    def _ask(self, rx_id: int, exchange: _Exchange) -> None:
        length = min(self._limits.burst_bytes, exchange.collector.limit - exchange.asked)
        unit = FcpXferRdy(data_ro=exchange.asked, burst_len=length)
        exchange.asked += length
        ids = exchange.ox_id, rx_id
        self._send(exchange.command.initiator, ids, RCtl.DATA_DESCRIPTOR, F_CTL_XFER_RDY, encode_fcp(unit))

    def _data(self, frame: Frame, now_ps: int) -> None:
        header = frame.header
        exchange = self._exchanges.get(header.rx_id)
        if exchange is None or exchange.ox_id != header.ox_id or exchange.command.initiator != header.s_id:
            return
        exchange.deadline_ps = now_ps + self._limits.timeout_ps
        try:
            ends = exchange.collector.take(frame)
            if exchange.collector.received > exchange.asked or (
                ends and exchange.collector.received < exchange.asked
            ):
                raise PeerViolation(
                    f"{exchange.collector.received} bytes of Data-Out where {exchange.asked} were asked for"
                )
        except PeerViolation as violation:
            del self._exchanges[header.rx_id]
            self._events.append(ExchangeDropped(header.s_id, header.ox_id, str(violation)))
            self._refuse(header, FcpRspCode.DATA_LENGTH_INVALID)
            return
        if exchange.collector.received < exchange.asked:
            return
        if exchange.asked < exchange.collector.limit:
            self._ask(header.rx_id, exchange)
            return
        del self._exchanges[header.rx_id]
        before = exchange.command
        command = FcpCommand(
            before.initiator,
            before.lun,
            before.cdb,
            before.task_attribute,
            before.read,
            before.write,
            before.data_length,
            bytes(exchange.collector.data),
        )
        self._answer(
            header.s_id, header.ox_id, header.rx_id, command, self._executor.execute(command), exchange.wanted
        )

    def _answer(
        self, initiator: int, ox_id: int, rx_id: int, command: FcpCommand, result: FcpResult, wanted: int = 0
    ) -> None:
        """Data-In, as much as the initiator expects, then FCP_RSP with the residual (FCP-4 9.5.7)."""
        data_in = result.data_in[: command.data_length] if command.read else b""
        if data_in:
            self._output += data_frames(
                data_in,
                relative_offset=0,
                max_payload=self._initiators[initiator],
                from_responder=True,
                addresses=(self.s_id, initiator),
                ids=(ox_id, rx_id),
                seq_id=self._new_seq_id(),
            )
        would = result.transfer_length
        if would is None:
            would = wanted if command.write else len(result.data_in)
        difference = would - command.data_length
        response = FcpRsp(
            residual_overrun=difference > 0,
            residual_underrun=difference < 0,
            residual=abs(difference),
            sense_length_valid=bool(result.sense),
            scsi_status=result.status,
            sense=result.sense,
        )
        self._send(initiator, (ox_id, rx_id), RCtl.COMMAND_STATUS, F_CTL_RESPONSE, encode_fcp(response))

    # -- task management ----------------------------------------------------------------------------------------

    def _manage(self, header: FrameHeader, unit: FcpCmnd) -> None:
        initiator, code = header.s_id, FcpRspCode.TASK_MANAGEMENT_COMPLETE
        match unit.task_management:
            case TaskManagementFlags.ABORT_TASK_SET:
                self._drop(
                    lambda ex: ex.command.initiator == initiator and ex.command.lun == unit.lun,
                    "ABORT TASK SET",
                )
            case TaskManagementFlags.CLEAR_TASK_SET:
                self._drop(lambda ex: ex.command.lun == unit.lun, "CLEAR TASK SET")
            case TaskManagementFlags.LOGICAL_UNIT_RESET:
                if self._executor.reset(initiator, unit.lun):
                    self._drop(lambda ex: ex.command.lun == unit.lun, "LOGICAL UNIT RESET")
                else:
                    code = FcpRspCode.INCORRECT_LOGICAL_UNIT
            case TaskManagementFlags.TARGET_RESET:
                self._executor.reset(initiator, None)
                self._drop(lambda _: True, "TARGET RESET")
            case _:
                code = FcpRspCode.TASK_MANAGEMENT_REJECTED
        self._refuse(header, code)

    def _drop(self, chosen: Callable[[_Exchange], bool], reason: str) -> None:
        for rx_id, exchange in list(self._exchanges.items()):
            if chosen(exchange):
                del self._exchanges[rx_id]
                self._events.append(ExchangeDropped(exchange.command.initiator, exchange.ox_id, reason))

    def _abort(self, header: FrameHeader) -> None:
        """ABTS: forget the exchange and say so; one that is not here is over already (FC-FS-5 ABTS)."""
        self._drop(lambda ex: ex.ox_id == header.ox_id and ex.command.initiator == header.s_id, "ABTS")
        accepted = derive(BaAcc).encode(BaAcc(aborted_ox_id=header.ox_id, aborted_rx_id=header.rx_id))
        f_ctl = FCtl.EXCHANGE_RESPONDER | FCtl.LAST_SEQUENCE | FCtl.END_SEQUENCE
        ids = header.ox_id, header.rx_id
        self._send(header.s_id, ids, RCtl.BA_ACC, f_ctl, accepted, type_=FcType.BLS)

    def _refuse(self, header: FrameHeader, code: FcpRspCode) -> None:
        """FCP_RSP with nothing but a RSP_CODE (FCP-4 9.5.13)."""
        information = bytes((0, 0, 0, code, 0, 0, 0, 0))
        response = FcpRsp(response_length_valid=True, response_information=information)
        ids = header.ox_id, header.rx_id
        self._send(header.s_id, ids, RCtl.COMMAND_STATUS, F_CTL_RESPONSE, encode_fcp(response))

    # -- time and output ----------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When :meth:`handle_timer` wants to be called, in picoseconds."""
        return min((exchange.deadline_ps for exchange in self._exchanges.values()), default=None)

    def handle_timer(self, now_ps: int) -> None:
        """Exchanges whose Data-Out does not come end."""
        self._drop(lambda exchange: exchange.deadline_ps <= now_ps, "no Data-Out within the time limit")

    def frames(self) -> Iterator[Frame]:
        """What has to be sent, in order; handed over once."""
        while self._output:
            yield self._output.popleft()

    def events(self) -> Iterator[ExchangeDropped]:
        """What happened since the last call."""
        while self._events:
            yield self._events.popleft()

    def _new_rx_id(self) -> int:
        while self._next_rx_id in self._exchanges:
            self._next_rx_id = (self._next_rx_id + 1) % RX_ID_LIMIT
        rx_id, self._next_rx_id = self._next_rx_id, (self._next_rx_id + 1) % RX_ID_LIMIT
        return rx_id

    def _new_seq_id(self) -> int:
        self._seq_id = (self._seq_id + 1) & 0xFF
        return self._seq_id

    def _send(
        self,
        initiator: int,
        ids: tuple[int, int],
        r_ctl: RCtl,
        f_ctl: int,
        payload: bytes,
        *,
        type_: FcType = FcType.FCP,
    ) -> None:
        header = FrameHeader(
            r_ctl=r_ctl,
            d_id=initiator,
            s_id=self.s_id,
            type_=type_,
            f_ctl=f_ctl,
            seq_id=self._new_seq_id(),
            ox_id=ids[0],
            rx_id=ids[1],
        )
        self._output.append(Frame(header=header, payload=payload))
