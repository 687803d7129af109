# SPDX-License-Identifier: Apache-2.0
"""The target's end of FCP exchanges. Sans-IO: frames in, frames out (FCP-4).

What initiators send is bounded by what they were asked for: the XFER_RDYs of all exchanges together grant no more than
the receiver can hold, exchanges that have begun go on before others begin, and initiators take turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from fcsim.errors import MalformedFrame, PeerViolation
from fcsim.fcp.executor import FcpCommand, FcpResult, ScsiExecutor
from fcsim.fcp.sequences import F_CTL_RESPONSE, F_CTL_XFER_RDY, DataCollector, FrameMissing, data_frames
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
CHECK_CONDITION, TASK_SET_FULL = 0x02, 0x28
#: ABORTED COMMAND, DATA PHASE ERROR (SPC-4 4.5): the initiator sends the command again.
DATA_PHASE_ERROR = bytes((0x70, 0, 0x0B, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x4B, 0, 0, 0, 0, 0))


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
    does not come for so long ends the exchange.

    ``granted_bytes``: what all XFER_RDYs together have asked for and is still to come, so that a burst of it fits into
    what receives it; ``data_out_bytes``: Data-Out that is kept of exchanges which have begun. Either lets one exchange
    through whatever its size."""

    burst_bytes: int = 65_536
    transfer_bytes: int = 16 * 1024 * 1024
    exchanges: int = 1024
    timeout_ps: int = 10**13
    granted_bytes: int = 16 * 1024 * 1024
    data_out_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExchangeProgress:
    """What REC asks: ``received_bytes`` of Data-Out came, and whether the next word is the target's (it has the
    sequence initiative, and will send XFER_RDY when there is room)."""

    rx_id: int
    received_bytes: int
    holds_initiative: bool


class _Exchange:
    __slots__ = ("asked", "collector", "command", "damage", "deadline_ps", "ox_id", "wanted")

    def __init__(self, ox_id: int, command: FcpCommand, wanted: int) -> None:
        self.ox_id = ox_id
        self.command = command
        self.wanted = wanted
        """What the device server takes."""
        self.collector = DataCollector(min(wanted, command.data_length))
        self.asked = 0
        self.damage: str | None = None
        """A frame of the burst under way is missing; the rest of it is let pass."""
        self.deadline_ps: int | None = None
        """When Data-Out that was asked for has to be here."""

    @property
    def to_come(self) -> int:
        """Bytes that were asked for and have not come."""
        return self.asked - self.collector.received


class FcpTarget:
    """Answers commands from any initiator that is logged in (``initiators``, by N_Port_ID, with the data field that
    each can receive); frames of others are ignored."""

    def __init__(self, s_id: int, executor: ScsiExecutor, limits: FcpTargetLimits | None = None) -> None:
        self.s_id = s_id
        self._executor = executor
        self._limits = limits or FcpTargetLimits()
        self._initiators: dict[int, int] = {}
        self._exchanges: dict[int, _Exchange] = {}
        self.busy = False
        """No more commands for now, but for those under way: too much waits to be sent."""
        self._granted = 0
        """Bytes of Data-Out that were asked for and are still to come, of all exchanges."""
        self._kept = 0
        """Room for the Data-Out of all exchanges that have begun."""
        self._next_burst: deque[int] = deque()
        self._not_begun: dict[int, deque[int]] = {}
        """By initiator, in the order of their turns."""
        self._now_ps = 0
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

    @property
    def granted_bytes(self) -> int:
        """Bytes of Data-Out that were asked for and are still to come: at most so many are on their way here."""
        return self._granted

    def grant_at_most(self, granted_bytes: int) -> None:
        """The receiver holds less than ``limits`` say. Never more than they say; bursts become as small as needed."""
        limits = self._limits
        granted = max(min(limits.granted_bytes, granted_bytes), 1024)
        self._limits = replace(
            limits, granted_bytes=granted, burst_bytes=min(limits.burst_bytes, granted // 4 * 4)
        )

    def progress(self, initiator: int, ox_id: int) -> ExchangeProgress | None:
        """How far an open exchange is, None where there is none: what REC asks."""
        for rx_id, exchange in self._exchanges.items():
            if exchange.ox_id == ox_id and exchange.command.initiator == initiator:
                return ExchangeProgress(rx_id, exchange.collector.received, not exchange.to_come)
        return None

    def receive(self, frame: Frame, now_ps: int) -> None:
        """A frame from an initiator."""
        header, self._now_ps = frame.header, now_ps
        if header.s_id not in self._initiators or header.f_ctl & FCtl.EXCHANGE_RESPONDER:
            return
        if header.r_ctl == RCtl.ABTS and header.type_ == FcType.BLS:
            self._abort(header)
        elif header.type_ != FcType.FCP:
            return
        elif header.r_ctl == RCtl.UNSOLICITED_COMMAND:
            self._command(frame)
        elif header.r_ctl == RCtl.SOLICITED_DATA:
            self._data(frame)

    def _command(self, frame: Frame) -> None:
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
        if len(self._exchanges) >= self._limits.exchanges or self.busy:
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
            exchange = _Exchange(header.ox_id, command, wanted)
            if exchange.collector.limit:
                self._exchanges[rx_id] = exchange
                self._not_begun.setdefault(header.s_id, deque()).append(rx_id)
                return
        self._answer(header.s_id, header.ox_id, rx_id, command, self._executor.execute(command), wanted)

    # -- Data-Out -----------------------------------------------------------------------------------------------

    def _grant(self) -> None:
        """XFER_RDYs, as many as there is room for: to exchanges that have begun first, then to the next."""
        while self._next_burst and self._ask(self._next_burst[0]):
            self._next_burst.popleft()
        while self._not_begun and not self._next_burst:
            initiator, queue = next(iter(self._not_begun.items()))
            room = self._exchanges[queue[0]].collector.limit
            if self._kept and self._kept + room > self._limits.data_out_bytes:
                return
            if not self._ask(queue[0]):
                return
            self._kept += room
            queue.popleft()
            del self._not_begun[initiator]
            if queue:
                self._not_begun[initiator] = queue  # to the end of the turns

    def _ask(self, rx_id: int) -> bool:
        """XFER_RDY for the next burst of an exchange, where it has room."""
        exchange, limits = self._exchanges[rx_id], self._limits
        length = min(limits.burst_bytes, exchange.collector.limit - exchange.asked)
        if self._granted and self._granted + length > limits.granted_bytes:
            return False
        unit = FcpXferRdy(data_ro=exchange.asked, burst_len=length)
        exchange.asked += length
        self._granted += length
        exchange.deadline_ps = self._now_ps + limits.timeout_ps
        ids = exchange.ox_id, rx_id
        self._send(exchange.command.initiator, ids, RCtl.DATA_DESCRIPTOR, F_CTL_XFER_RDY, encode_fcp(unit))
        return True

    def _take_out(self, rx_id: int) -> _Exchange:
        """The exchange is over; what it had is free."""
        exchange = self._exchanges.pop(rx_id)
        self._granted -= exchange.to_come
        if exchange.asked:
            self._kept -= exchange.collector.limit
            if not exchange.to_come and rx_id in self._next_burst:
                self._next_burst.remove(rx_id)
            return exchange
        queue = self._not_begun[exchange.command.initiator]
        queue.remove(rx_id)
        if not queue:
            del self._not_begun[exchange.command.initiator]
        return exchange

    def _data(self, frame: Frame) -> None:
        header = frame.header
        exchange = self._exchanges.get(header.rx_id)
        if exchange is None or exchange.ox_id != header.ox_id or exchange.command.initiator != header.s_id:
            return
        ends = bool(header.f_ctl & FCtl.END_SEQUENCE)
        before = exchange.collector.received
        try:
            if exchange.damage is None:
                self._collect(exchange, frame)
        except FrameMissing as missing:
            exchange.damage = str(missing)
        except PeerViolation as violation:
            self._granted -= exchange.collector.received - before
            self._end(header, str(violation))
            self._refuse(header, FcpRspCode.DATA_LENGTH_INVALID)
            return
        self._granted -= exchange.collector.received - before
        if exchange.damage is not None:
            # The last frame of the sequence hands the initiative back: until then there is nothing to be said.
            if ends:
                self._end(header, exchange.damage)
                failed = FcpResult(CHECK_CONDITION, sense=DATA_PHASE_ERROR, transfer_length=0)
                self._answer(header.s_id, header.ox_id, header.rx_id, exchange.command, failed)
        elif exchange.to_come:
            exchange.deadline_ps = self._now_ps + self._limits.timeout_ps
        elif exchange.asked < exchange.collector.limit:
            exchange.deadline_ps = None
            self._next_burst.append(header.rx_id)
        else:
            self._take_out(header.rx_id)
            command = replace(exchange.command, data_out=bytes(exchange.collector.data))
            result = self._executor.execute(command)
            self._answer(header.s_id, header.ox_id, header.rx_id, command, result, exchange.wanted)

    @staticmethod
    def _collect(exchange: _Exchange, frame: Frame) -> None:
        """Raises FrameMissing, and PeerViolation for more than was asked for."""
        ends = exchange.collector.take(frame)
        if exchange.to_come < 0:
            raise PeerViolation(
                f"{exchange.collector.received} bytes of Data-Out where {exchange.asked} were asked for"
            )
        if ends and exchange.to_come:
            raise FrameMissing(
                f"{exchange.collector.received} bytes of Data-Out where {exchange.asked} were asked for"
            )

    def _end(self, header: FrameHeader, reason: str) -> None:
        """An exchange that came to harm."""
        self._take_out(header.rx_id)
        self._events.append(ExchangeDropped(header.s_id, header.ox_id, reason))

    def _answer(
        self, initiator: int, ox_id: int, rx_id: int, command: FcpCommand, result: FcpResult, wanted: int = 0
    ) -> None:
        """Data-In, as much as the initiator expects, then FCP_RSP with the residual (FCP-4, FCP_RSP: FCP_RESID)."""
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
                self._take_out(rx_id)
                self._events.append(ExchangeDropped(exchange.command.initiator, exchange.ox_id, reason))

    def _abort(self, header: FrameHeader) -> None:
        """ABTS: forget the exchange and say so; one that is not here is over already (FC-FS-5 ABTS)."""
        self._drop(lambda ex: ex.ox_id == header.ox_id and ex.command.initiator == header.s_id, "ABTS")
        accepted = derive(BaAcc).encode(BaAcc(aborted_ox_id=header.ox_id, aborted_rx_id=header.rx_id))
        f_ctl = FCtl.EXCHANGE_RESPONDER | FCtl.LAST_SEQUENCE | FCtl.END_SEQUENCE
        ids = header.ox_id, header.rx_id
        self._send(header.s_id, ids, RCtl.BA_ACC, f_ctl, accepted, type_=FcType.BLS)

    def _refuse(self, header: FrameHeader, code: FcpRspCode) -> None:
        """FCP_RSP with nothing but a RSP_CODE (FCP-4, FCP_RSP: FCP_RSP_INFO)."""
        information = bytes((0, 0, 0, code, 0, 0, 0, 0))
        response = FcpRsp(response_length_valid=True, response_information=information)
        ids = header.ox_id, header.rx_id
        self._send(header.s_id, ids, RCtl.COMMAND_STATUS, F_CTL_RESPONSE, encode_fcp(response))

    # -- time and output ----------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When :meth:`handle_timer` wants to be called, in picoseconds."""
        due = (exchange.deadline_ps for exchange in self._exchanges.values())
        return min((moment for moment in due if moment is not None), default=None)

    def handle_timer(self, now_ps: int) -> None:
        """Exchanges whose Data-Out does not come end, without a word: the initiative is the initiator's."""
        self._now_ps = now_ps
        self._drop(
            lambda exchange: exchange.deadline_ps is not None and exchange.deadline_ps <= now_ps,
            "no Data-Out within the time limit",
        )

    def frames(self) -> Iterator[Frame]:
        """What has to be sent, in order; handed over once. XFER_RDYs are made here, for the room that there is now."""
        self._grant()
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
