# SPDX-License-Identifier: Apache-2.0
"""One end of a live link: port, line and logins, driven by moments of link time. Sans-IO.

The sender computes when a frame leaves: the latest of when it was ready, when the line is free and when its credit
came. The receiver handles a record with the record's own moment, however late the machine brings it. So a link whose
ends only answer each other is exact at any time scale. One with requests of its own is so too where each end goes no
further than the other has promised that nothing more will come (:meth:`LiveEnd.horizon`, :meth:`LiveEnd.promise`), and
else at a scale that the machine keeps up with; :class:`~fcsim.live.link_clock.Lateness` says which it was.

Line time is counted in ticks (:mod:`fcsim.clock`), so that back-to-back frames never drift. A frame takes the line for
itself and the six primitive signals after it; R_RDYs, VC_RDYs and BB_SCx stand in the place of those and take no line
time of their own, as in the published credit formulas; the words of primitive sequences take theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from fcsim.clock import TICKS_PER_METRE, ps_of_ticks, ticks_of_ps, ticks_per_byte
from fcsim.errors import CreditMisuse, MalformedFrame, PeerViolation
from fcsim.fcp.executor import ScsiExecutor
from fcsim.fcp.target import FcpTargetLimits
from fcsim.live.echo import EchoAnswered, EchoFailed, EchoStamps, RoundTripMeasured
from fcsim.live.framing import RecordReader, encode_promise, encode_record
from fcsim.live.link_clock import Lateness
from fcsim.live.n_port import Event as NPortEvent
from fcsim.live.n_port import NPort, NPortConfig, PortLoggedIn
from fcsim.port.events import (
    CreditLost,
    CreditRecovered,
    Discard,
    FrameArrived,
    FrameDiscarded,
    LinkChanged,
    PeerViolated,
)
from fcsim.port.link_state import (
    IDLES_ON_ACTIVE,
    R_T_TOV_PS,
    RECOGNISED_AFTER_WORDS,
    LinkState,
    Trouble,
    Wish,
)
from fcsim.port.login import Grant, Offer, grant
from fcsim.port.port import Port, PortConfig, PortStatistics
from fcsim.port.signals import Mark, Ready, Sequence, Signal
from fcsim.speeds import IDLE_BYTES, PROPAGATION_PS_PER_METRE, Speed
from fcsim.wire import ordered_sets
from fcsim.wire.codes import FCtl, FcType
from fcsim.wire.frame import DelimitedFrame, Frame, crc_is_right, decode_delimited, encode_delimited
from fcsim.wire.ordered_sets import EOF, ORDERED_SET_BYTES, SOF

__all__ = ["Capture", "EndConfig", "LiveEnd", "delimited_bytes"]

#: Credit before any login (FC-FS-5: one, until the login says otherwise).
LOGIN_CREDIT = Grant({None: 1}, {None: 1})
ORIGINATOR_ID, RESPONDER_ID = 1, 2
"""The N_Port_IDs that the originator of a point-to-point login gives itself and its peer."""
INBOX_LIMIT_BYTES = 64 << 20
EVENT_LIMIT = 65_536
_TYPE_OFFSET = ORDERED_SET_BYTES + 8
_WAYS_TO_FAIL = frozenset((LinkState.LF1, LinkState.LF2, LinkState.OL1, LinkState.OL2, LinkState.OL3))
_FOREVER = 1 << 62

_SIGNAL_WORDS: Mapping[Signal, bytes] = {
    Ready(): ordered_sets.R_RDY.encode(),
    Mark.BB_SCS: ordered_sets.BB_SCS.encode(),
    Mark.BB_SCR: ordered_sets.BB_SCR.encode(),
    Sequence.IDLE: ordered_sets.IDLE.encode(),
    Sequence.NOS: ordered_sets.NOS.encode(),
    Sequence.OLS: ordered_sets.OLS.encode(),
    Sequence.LR: ordered_sets.LR.encode(),
    Sequence.LRR: ordered_sets.LRR.encode(),
}
_SIGNALS: Mapping[bytes, Signal] = {word: signal for signal, word in _SIGNAL_WORDS.items()}
_R_RDY = ordered_sets.R_RDY.encode()
_ONE_READY = Ready()

Lose = Callable[[bytes, int], bool]
"""Fault injection: whether a record (its bytes, and the moment it leaves) is lost on the way, or a frame corrupted so
that its CRC is wrong. Seed it yourself."""


class Capture(Protocol):
    """Sees every record at the moment it has wholly left, or arrived."""

    def record(self, moment_ps: int, record: bytes, *, sent: bool) -> None:
        """One record of link type 225."""
        ...


@dataclass(frozen=True, slots=True)
class EndConfig:
    """One end. ``hold_ps``, ``credit_loss_ps`` and ``queue_limit`` are the port's (:class:`PortConfig`)."""

    name: str
    n_port: NPortConfig
    speed: Speed
    distance_m: int = 0
    hold_ps: int | None = 500 * 10**9
    credit_loss_ps: int | None = 10**12
    queue_limit: int = 65_536


LiveEvent = (
    NPortEvent
    | RoundTripMeasured
    | FrameDiscarded[bytes]
    | LinkChanged
    | CreditLost
    | CreditRecovered
    | PeerViolated
)


@dataclass(slots=True)
class Traffic:
    """What crossed, in frames and payload bytes of link services and FCP as well as plain traffic."""

    frames_sent: int = 0
    payload_bytes_sent: int = 0
    frames_received: int = 0
    payload_bytes_received: int = 0
    bad_crcs: int = 0
    records_lost: int = 0
    last_arrival_ps: int = 0
    first_arrival_ps: int | None = field(default=None)


def delimited_bytes(frame: Frame) -> bytes:
    """A class 3 frame as a record: SOFi3 where a sequence begins, EOFt where one ends."""
    header = frame.header
    sof = SOF.SOFN3 if header.seq_cnt else SOF.SOFI3
    eof = EOF.EOFT if header.f_ctl & FCtl.END_SEQUENCE else EOF.EOFN
    return encode_delimited(DelimitedFrame(sof=sof, frame=frame, eof=eof))


class LiveEnd:
    """See the module. ``executor`` makes this end a target; NPortConfig.wants_targets makes it an initiator.

    ``deliver`` gets every frame that is neither link service nor FCP as it arrives, with its moment; it must
    :meth:`release` the buffer, now or later. Without it the buffer is free at once. ``offer_now`` says what this end
    offers whenever a new login is due; without it, what ``config`` has.
    """

    def __init__(
        self,
        config: EndConfig,
        peer_port_name: int,
        *,
        executor: ScsiExecutor | None = None,
        limits: FcpTargetLimits | None = None,
        lose: Lose | None = None,
        corrupt: Lose | None = None,
        capture: Capture | None = None,
        deliver: Callable[[FrameArrived[bytes], int], None] | None = None,
        share_of: Callable[[Frame], Hashable] | None = None,
        offer_now: Callable[[], Offer] | None = None,
    ) -> None:
        if peer_port_name == config.n_port.port_name:
            raise PeerViolation(f"both ends of the link have the port name {peer_port_name:016x}")
        self.config = config
        self.n_port = NPort(config.n_port, executor=executor, limits=limits, directly_connected=True)
        self.lateness = Lateness()
        self.traffic = Traffic()
        self.granted = LOGIN_CREDIT
        self._originates = config.n_port.port_name > peer_port_name
        self._port: Port[bytes] = Port(
            PortConfig(config.name, config.hold_ps, config.credit_loss_ps, config.queue_limit), active=False
        )
        self._port.log_in(LOGIN_CREDIT, 0)
        self._lose, self._corrupt = lose, corrupt
        self._capture, self._deliver, self._share_of = capture, deliver, share_of
        self._offer_now = offer_now
        self._reader = RecordReader()
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._inbox_bytes = 0
        self._output: list[bytes] = []
        self._events: deque[LiveEvent] = deque(maxlen=EVENT_LIMIT)
        self._now_ps = 0
        self._byte_ticks = ticks_per_byte(config.speed)
        self._flight_ticks = config.distance_m * TICKS_PER_METRE
        self.flight_ps = config.distance_m * PROPAGATION_PS_PER_METRE
        """How long the last byte of a record travels."""
        self._promised_ps = 0
        self._free_ticks = 0
        self._free_ps = 0
        self._wants_line = True
        self._words: deque[bytes] = deque()
        self._repeated: tuple[bytes, int] = b"", 0
        self._pending_grant: Grant | None = None
        self._shares: dict[Hashable, int] = {}
        self._stamps = EchoStamps()
        self._failed = True
        constants = (config.hold_ps, config.credit_loss_ps, R_T_TOV_PS, config.n_port.e_d_tov_ps)
        self._shortest_timer_ps = min(value for value in constants if value is not None)
        self._timer_bound_ps = 0

    # -- the stream ---------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Bytes from the socket; they take effect in :meth:`run_until`.

        Raises MalformedFrame or PeerViolation for a peer that breaks the stream's rules.
        """
        for moment, record in self._reader.receive(data):
            self._inbox.append((moment, record))
            self._inbox_bytes += len(record)
        if self._inbox_bytes > INBOX_LIMIT_BYTES:
            raise PeerViolation(
                f"more than {INBOX_LIMIT_BYTES} bytes are on their way: the peer's clock runs away"
            )

    def data_to_send(self) -> bytes:
        """What has to go to the socket."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    # -- local wishes -------------------------------------------------------------------------------------------

    def submit(self, frame: Frame | bytes, now_ps: int, *, share: Hashable = None) -> None:
        """A frame to send, decoded or as a record, at ``now_ps`` or when this end's time is beyond it."""
        now_ps = self._advance(now_ps)
        record = frame if isinstance(frame, bytes) else delimited_bytes(frame)
        self._port.submit(record, now_ps, share=share)
        self._settle(now_ps)

    def command(
        self, lun: bytes, cdb: bytes, now_ps: int, *, data_out: bytes = b"", data_in_length: int = 0
    ) -> int:
        """Send a SCSI command to the target at the other end; its OX_ID. Raises PeerViolation while there is none."""
        initiator = next(iter(self.n_port.initiators.values()), None)
        if initiator is None:
            raise PeerViolation("no target is logged in at the other end")
        now_ps = self._advance(now_ps)
        ox_id = initiator.command(lun, cdb, now_ps, data_out=data_out, data_in_length=data_in_length)
        self._settle(now_ps)
        return ox_id

    def echo(self, payload_bytes: int, now_ps: int) -> int:
        """Send ECHO with so many bytes (a multiple of four) to the other end; its OX_ID. A RoundTripMeasured follows,
        or an EchoFailed. Raises PeerViolation while nobody is logged in, CreditMisuse while too many are under way."""
        peer = next(iter(self.n_port.logged_in), None)
        if peer is None:
            raise PeerViolation("nobody is logged in at the other end")
        if not 0 <= payload_bytes <= self.granted.max_data_field_bytes - 4 or payload_bytes % 4:
            most = self.granted.max_data_field_bytes - 4
            raise CreditMisuse(f"an ECHO has 0 to {most} bytes in fours, not {payload_bytes}")
        now_ps = self._advance(now_ps)
        frame = self.n_port.echo(peer, bytes(payload_bytes), now_ps)
        self._stamps.expected[delimited_bytes(frame)] = frame.header.ox_id
        self._settle(now_ps)
        return frame.header.ox_id

    def release(self, arrived: FrameArrived[bytes], now_ps: int) -> None:
        """A delivered frame was dealt with: its R_RDY goes out."""
        now_ps = self._advance(now_ps)
        self._port.release(arrived.buffer, now_ps)
        self._settle(now_ps)

    def reserve(self, shares: Mapping[Hashable, int], now_ps: int) -> None:
        """Divide the credits of this end's direction (spec J.1). Raises CreditMisuse beyond the grant.

        The shares outlive a login that grants enough for them; one that does not is told as PeerViolated.
        """
        now_ps = self._advance(now_ps)
        self._port.reserve(shares, now_ps)
        self._shares = dict(shares)
        self._settle(now_ps)

    def set_ceiling(self, ceiling: int, now_ps: int) -> None:
        """Limit the outstanding frames below the grant. Raises CreditMisuse beyond it."""
        now_ps = self._advance(now_ps)
        self._port.set_ceiling(ceiling, now_ps)
        self._settle(now_ps)

    def reset_link(self, now_ps: int) -> None:
        """LR, answered by LRR: credits go back to the login's values, the login stays."""
        now_ps = self._advance(now_ps)
        self._port.wish(Wish.RESET, now_ps)
        self._settle(now_ps)

    def log_in_again(self, offer: Offer, now_ps: int) -> None:
        """Take the link offline and log in anew with another offer: how a peer's credit grows (RELOGIN_REQUIRED).

        As with every new login, open exchanges end: let them finish before.
        """
        now_ps = self._advance(now_ps)
        self._set_offer(offer)
        self._port.wish(Wish.OFFLINE, now_ps)
        self._settle(now_ps)

    def lose_signal(self, now_ps: int) -> None:
        """The cable is out, or the peer's process is gone."""
        now_ps = self._advance(now_ps)
        self._port.trouble(Trouble.LOSS_OF_SIGNAL, now_ps)
        self._settle(now_ps)

    # -- looking at it ------------------------------------------------------------------------------------------

    @property
    def now_ps(self) -> int:
        """Link time of the last thing that happened at this end."""
        return self._now_ps

    @property
    def active(self) -> bool:
        """The link is up."""
        return self._port.state is LinkState.AC

    def statistics(self) -> PortStatistics:
        """The port's counters and credits."""
        return self._port.statistics(self._now_ps)

    def events(self) -> Iterator[LiveEvent]:
        """What happened since the last call; the oldest are forgotten beyond 65,536."""
        while self._events:
            yield self._events.popleft()

    # -- time ---------------------------------------------------------------------------------------------------

    def horizon(self, now_ps: int) -> int:
        """How far this end may go at ``now_ps`` for nothing to arrive in what is past then: as far as the peer has
        promised (:meth:`promise`)."""
        return min(now_ps, self._reader.promised_ps - 1)

    def promise(self, horizon_ps: int) -> None:
        """This end has run to ``horizon_ps`` and says so: nothing will arrive at the peer before the flight time after
        it. Said where it is news by a quarter of the flight time; see Chandy and Misra, 1979."""
        moment = horizon_ps + self.flight_ps
        if moment - self._promised_ps >= max(self.flight_ps >> 2, 1):
            self._now_ps = max(self._now_ps, horizon_ps + 1)
            self._promised_ps = moment
            self._output.append(encode_promise(moment))

    def next_moment(self) -> int | None:
        """When :meth:`run_until` has something to do, in link time."""
        moments = [
            moment
            for moment in (self._port.next_deadline(), self.n_port.next_deadline())
            if moment is not None
        ]
        if self._inbox:
            moments.append(self._inbox[0][0])
        if self._wants_line:
            moments.append(max(self._free_ps, self._now_ps))
        return min(moments, default=None)

    def run_until(self, now_ps: int, clock_ps: int | None = None) -> None:
        """Let everything happen that is due at ``now_ps`` of link time, each at its own moment and in that order.

        ``clock_ps``: link time by the clock, where this end was held back; how late records are counts from there.
        """
        clock_ps = now_ps if clock_ps is None else clock_ps
        inbox = self._inbox
        while True:
            moment, arrives = (inbox[0][0], True) if inbox else (_FOREVER, False)
            if (
                self._wants_line
                and (self._free_ps if self._free_ps > self._now_ps else self._now_ps) < moment
            ):
                moment, arrives = max(self._free_ps, self._now_ps), False
            if moment >= self._timer_bound_ps and self._timers(min(moment, now_ps)):
                continue
            if moment > now_ps:
                return
            if arrives:
                self.lateness.seen(clock_ps - moment)
                self._arrive(*inbox.popleft())
            else:
                self._now_ps = moment
                self._use_line(moment)

    def _timers(self, before_ps: int) -> bool:
        """Handle the first timer that is due up to a moment; True: something happened."""
        due = [
            moment
            for moment in (self._port.next_deadline(), self.n_port.next_deadline())
            if moment is not None
        ]
        first = min(due, default=_FOREVER)
        if first > before_ps:
            # Nothing that happens from here on can set a timer to an earlier moment than this.
            self._timer_bound_ps = min(first, max(self._now_ps, 0) + self._shortest_timer_ps)
            if self._timer_bound_ps <= before_ps:
                self._timer_bound_ps = before_ps + 1
            return False
        first = self._advance(first)
        self._port.handle_timer(first)
        self.n_port.handle_timer(first)
        self._settle(first)
        return True

    # -- inside -------------------------------------------------------------------------------------------------

    def _advance(self, now_ps: int) -> int:
        self._now_ps = max(self._now_ps, now_ps)
        return self._now_ps

    def _arrive(self, moment: int, record: bytes) -> None:
        self._inbox_bytes -= len(record)
        if moment < self._now_ps:
            self.lateness.moved(self._now_ps - moment)
            now_ps = self._now_ps
        else:
            self._now_ps = now_ps = moment
        if self._capture is not None:
            self._capture.record(moment, record, sent=False)
        if record == _R_RDY:
            self._port.receive_signal(_ONE_READY, now_ps)
            if self._pending_grant is not None:
                self._grant_when_answered(now_ps)
            self._wants_line = True
        elif len(record) == ORDERED_SET_BYTES:
            self._ordered_set(record, now_ps)
            self._settle(now_ps)
        else:
            traffic, size = self.traffic, len(record) - 36
            traffic.frames_received += 1
            traffic.payload_bytes_received += size
            traffic.last_arrival_ps = now_ps
            if traffic.first_arrival_ps is None:
                traffic.first_arrival_ps = now_ps
            self._port.receive_frame(record, now_ps)
            self._settle(now_ps)

    def _ordered_set(self, word: bytes, now_ps: int) -> None:
        signal = _SIGNALS.get(word)
        if isinstance(signal, Sequence):
            before, count = self._repeated
            count = count + 1 if before == word else 1
            self._repeated = word, count
            if count == RECOGNISED_AFTER_WORDS:
                self._port.receive_signal(signal, now_ps)
            return
        if signal is None:
            try:
                word_set = ordered_sets.decode_ordered_set(word)
            except MalformedFrame as error:
                self._events.append(PeerViolated(str(error)))
                return
            if word_set.virtual_channel is None:
                self._events.append(PeerViolated(f"{word_set} has no meaning on this link"))
                return
            signal = Ready(1, word_set.virtual_channel)
        self._port.receive_signal(signal, now_ps)

    def _settle(self, now_ps: int) -> None:
        """Deal with what the port and the logins have to say, until neither says more."""
        port, n_port = self._port, self.n_port
        while True:
            for event in port.events():
                if isinstance(event, FrameArrived):
                    self._frame(event, now_ps)
                else:
                    if isinstance(event, LinkChanged):
                        self._link_changed(event, now_ps)
                    self._events.append(event)
            for happened in n_port.events():
                if isinstance(happened, PortLoggedIn):
                    self._logged_in(happened, now_ps)
                elif isinstance(happened, EchoAnswered | EchoFailed):
                    self._events.append(self._stamps.measured(happened))
                    continue
                self._events.append(happened)
            frames = list(n_port.frames())
            for frame in frames:
                share = self._share_of(frame) if self._share_of is not None else None
                port.submit(delimited_bytes(frame), now_ps, share=share)
            if not frames:
                break
        self._wants_line = True

    def _frame(self, arrived: FrameArrived[bytes], now_ps: int) -> None:
        record = arrived.frame
        if not crc_is_right(record):
            # What is dropped leaves its buffer free, so the R_RDY goes back: the credit is not lost with the frame.
            self.traffic.bad_crcs += 1
            self._port.release(arrived.buffer, now_ps)
            self._events.append(FrameDiscarded(record, Discard.BAD_CRC))
            return
        if record[_TYPE_OFFSET] not in (FcType.ELS, FcType.FCP, FcType.BLS):
            if self._deliver is not None:
                self._deliver(arrived, now_ps)
            else:
                self._port.release(arrived.buffer, now_ps)
            return
        self._port.release(arrived.buffer, now_ps)
        try:
            delimited = decode_delimited(record)
        except MalformedFrame as error:
            self._events.append(PeerViolated(str(error)))
            return
        self.n_port.refuse_commands(self._port.waiting_frames > self.config.queue_limit // 2)
        self.n_port.receive(delimited.frame, now_ps)

    def _link_changed(self, change: LinkChanged, now_ps: int) -> None:
        self._pending_grant = None
        if change.after in _WAYS_TO_FAIL:
            self._failed = True
            self.n_port.link_lost("the link failed")
        elif change.after is LinkState.AC and self._failed:
            self._failed = False
            if self._offer_now is not None:
                self._set_offer(self._offer_now())
            self._apply(LOGIN_CREDIT, now_ps)
            self.n_port.n_port_id = ORIGINATOR_ID if self._originates else 0
            if self._originates:
                self.n_port.log_in(RESPONDER_ID, now_ps)

    def _set_offer(self, offer: Offer) -> None:
        n_port = replace(self.config.n_port, offer=offer)
        self.config = replace(self.config, n_port=n_port)
        self.n_port.config = n_port

    def _logged_in(self, login: PortLoggedIn, now_ps: int) -> None:
        result = grant(self.config.n_port.offer, login.offer)
        if login.originated:
            # The R_RDY of the LS_ACC still belongs to the credit before the login.
            self._collect_signals()
            self._apply(result, now_ps)
        else:
            self._pending_grant = result

    def _grant_when_answered(self, now_ps: int) -> None:
        """The responder's new credit holds from when the R_RDY of its LS_ACC is here: nothing is outstanding."""
        (channel,) = self._port.statistics(now_ps).channels
        if self._pending_grant is not None and not channel.waiting_frames and channel.transmit_remaining:
            self._apply(self._pending_grant, now_ps)
            self.n_port.log_in_process(ORIGINATOR_ID, now_ps)
            self._settle(now_ps)

    def _apply(self, granted: Grant, now_ps: int) -> None:
        self._pending_grant = None
        self._port.log_in(granted, now_ps)
        self.granted = granted
        if granted is not LOGIN_CREDIT and self._shares:
            try:
                self._port.reserve(self._shares, now_ps)
            except CreditMisuse as error:
                self._events.append(PeerViolated(str(error)))

    # -- the line -----------------------------------------------------------------------------------------------

    def _collect_signals(self) -> None:
        for signal in self._port.signals():
            if isinstance(signal, Sequence):
                # A primitive sequence takes the place of everything that has not left yet.
                self._words.clear()
                count = IDLES_ON_ACTIVE if signal is Sequence.IDLE else RECOGNISED_AFTER_WORDS
                self._words.extend([_SIGNAL_WORDS[signal]] * count)
            elif isinstance(signal, Ready) and signal.vc is not None:
                self._words.extend([ordered_sets.vc_rdy(signal.vc).encode()] * signal.count)
            elif isinstance(signal, Ready):
                self._words.extend([_R_RDY] * signal.count)
            else:
                self._words.append(_SIGNAL_WORDS[signal])

    def _use_line(self, now_ps: int) -> None:
        """The line is free: signals first, then one frame."""
        start = ticks_of_ps(now_ps)
        if self._free_ps == now_ps and self._free_ticks > start:
            start = self._free_ticks  # rounding to picoseconds never adds up
        self._collect_signals()
        while self._words:
            word = self._words.popleft()
            if isinstance(_SIGNALS.get(word), Sequence):
                start += ORDERED_SET_BYTES * self._byte_ticks
            self._emit(word, start, now_ps)
        record = self._port.take_frame(now_ps)
        if record is None:
            self._wants_line = False
        else:
            sending = (len(record) + IDLE_BYTES) * self._byte_ticks
            start += sending
            if self._stamps.expected:
                self._stamps.left(record, ps_of_ticks(start), ps_of_ticks(sending))
            self.traffic.frames_sent += 1
            self.traffic.payload_bytes_sent += len(record) - 36
            self._emit(record, start, now_ps)
        self._free_ticks = start
        self._free_ps = ps_of_ticks(start)

    def _emit(self, record: bytes, end_ticks: int, now_ps: int) -> None:
        if self._capture is not None:
            self._capture.record(ps_of_ticks(end_ticks), record, sent=True)
        if self._lose is not None and self._lose(record, now_ps):
            self.traffic.records_lost += 1
            return
        if self._corrupt is not None and len(record) > ORDERED_SET_BYTES and self._corrupt(record, now_ps):
            middle = len(record) // 2
            record = record[:middle] + bytes((record[middle] ^ 1,)) + record[middle + 1 :]
        self._promised_ps = ps_of_ticks(end_ticks + self._flight_ticks)
        self._output.append(encode_record(self._promised_ps, record))
