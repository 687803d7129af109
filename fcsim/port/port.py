"""A Fibre Channel port with its credits: frames and signals in, frames and signals out. Sans-IO.

Time is an argument in picoseconds and never goes back. A port knows nothing of serialisation or distance: whoever
owns the transmitter asks `take_frame` when it is free, and sends `signals` in between. Frames are the caller's
own objects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from fcsim.errors import CreditMisuse, PeerViolation
from fcsim.port.channel import Channel, ChannelStatistics
from fcsim.port.credit import ReceiveBuffer
from fcsim.port.events import (
    CreditLost,
    CreditRecovered,
    Discard,
    Event,
    FrameArrived,
    FrameDiscarded,
    LinkChanged,
    PeerViolated,
)
from fcsim.port.link_state import (
    R_T_TOV_PS,
    TRANSMITS,
    Input,
    LinkState,
    Trouble,
    Wish,
    after,
    waits_for_answer,
)
from fcsim.port.login import Grant
from fcsim.port.recovery import CreditRecovery
from fcsim.port.signals import Mark, Ready, Sequence, Signal
from fcsim.port.waiting import SECOND_PS

F = TypeVar("F")

MS_PS = 10**9


@dataclass(frozen=True, slots=True)
class PortConfig:
    """``hold_ps``: how long a class 3 frame waits for credit before it is dropped, None for ever (220 ms at a
    Brocade edge port, 500 ms on an ISL and at Cisco). ``credit_loss_ps``: how long without credit until the link
    is reset, None never (Cisco: 1 s at an F_Port, 1.5 s at an E_Port). ``queue_limit``: frames that may wait."""

    name: str
    hold_ps: int | None = 500 * MS_PS
    credit_loss_ps: int | None = SECOND_PS
    queue_limit: int = 65_536


@dataclass(frozen=True, slots=True)
class PortStatistics:
    """What a port has done since it was made."""

    name: str
    state: LinkState
    channels: tuple[ChannelStatistics, ...]
    frames_sent: int
    frames_received: int
    r_rdys_sent: int
    r_rdys_received: int
    frames_recovered: int
    r_rdys_recovered: int
    c3_timeouts: int
    discards: int
    credit_losses: int
    link_resets: int
    link_failures: int


class Port(Generic[F]):
    """See the module. Until :meth:`log_in` there is no credit, and until the link is active nothing is sent."""

    def __init__(self, config: PortConfig, *, now_ps: int = 0, active: bool = True) -> None:
        self.config = config
        self.state = LinkState.AC if active else LinkState.LF2
        self._channels: dict[int | None, Channel[F]] = {}
        self._turn: deque[int | None] = deque()
        self._recovery = CreditRecovery(0)
        self._events: deque[Event[F]] = deque()
        self._signals: deque[Signal] = deque() if active else deque((Sequence.NOS,))
        self._answer_due_ps = now_ps + R_T_TOV_PS if waits_for_answer(self.state) else None
        self._frames_sent = self._frames_received = 0
        self._r_rdys_sent = self._r_rdys_received = 0
        self._c3_timeouts = self._discards = 0
        self._credit_losses = self._link_resets = self._link_failures = 0
        self._recovered = [0, 0]

    # -- local wishes -------------------------------------------------------------------------------------------

    def log_in(self, granted: Grant, now_ps: int) -> None:
        """A login was exchanged: new credits, nothing outstanding, counters of lost frames at zero.

        With alternate BB_Credit management the R_RDYs of the free buffers go out at once.
        """
        for channel in self._channels.values():
            for frame in channel.expired(now_ps):
                self._discard(frame, Discard.LINK_RESET)
        self._keep_recovered()
        self._channels = {vc: Channel(vc, granted, now_ps) for vc in granted.transmit}
        self._turn = deque(self._channels)
        self._recovery = CreditRecovery(granted.bb_sc_n)
        for channel in self._channels.values():
            if granted.alternate and channel.receive.bb_credit:
                self._ready(channel.receive.bb_credit, channel.vc)
            channel.see(now_ps)

    def set_ceiling(self, ceiling: int, now_ps: int, *, vc: int | None = None) -> None:
        """Limit the outstanding frames below what was granted. Raises CreditMisuse beyond it."""
        channel = self._channel(vc)
        channel.transmit.set_ceiling(ceiling)
        channel.see(now_ps)

    def reserve(self, shares: Mapping[Hashable, int], now_ps: int, *, vc: int | None = None) -> None:
        """Divide the credits: so many for each share, what is left for everybody else (spec J.1). Holds at once.

        Raises CreditMisuse when the shares exceed what the login granted.
        """
        channel = self._channel(vc)
        channel.divide(shares)
        channel.see(now_ps)

    def submit(self, frame: F, now_ps: int, *, vc: int | None = None, share: Hashable = None) -> None:
        """A frame to send, when its share has credit. Raises CreditMisuse for a channel that there is not."""
        channel = self._channel(vc)
        if self.state is not LinkState.AC or channel.waiting >= self.config.queue_limit:
            self._discard(frame, Discard.LINK_DOWN if self.state is not LinkState.AC else Discard.QUEUE_FULL)
            return
        channel.put(frame, share, now_ps)
        channel.see(now_ps)

    def take_frame(self, now_ps: int) -> F | None:
        """The next frame for a transmitter that is free, and its credit is used; None: none may go.

        Virtual channels take turns. A BB_SCs that is due after the frame is in `signals`.
        """
        if self.state is not LinkState.AC:
            return None
        for _ in range(len(self._turn)):
            channel = self._channels[self._turn[0]]
            self._turn.rotate(-1)
            if not channel.waiting or not channel.transmit.available:
                continue
            frame = channel.take()
            if frame is not None:
                channel.see(now_ps)
                self._frames_sent += 1
                if self._recovery.frame_sent():
                    self._signals.append(Mark.BB_SCS)
                return frame
        return None

    def release(self, buffer: ReceiveBuffer, now_ps: int) -> None:
        """The frame in a receive buffer was dealt with: its R_RDY goes out. Raises CreditMisuse the second time."""
        del now_ps  # an R_RDY leaves as soon as the transmitter lets it
        if buffer.release():
            self._ready(1, buffer.vc)

    def wish(self, wish: Wish, now_ps: int) -> None:
        """Reset the link, or take it offline."""
        self._happened(wish, now_ps)

    # -- facts --------------------------------------------------------------------------------------------------

    def receive_frame(self, frame: F, now_ps: int, *, vc: int | None = None) -> None:
        """A whole frame arrived. One without credit is dropped and told; it never takes a buffer."""
        channel = self._channels.get(vc)
        if self.state is not LinkState.AC or channel is None:
            self._discard(frame, Discard.LINK_DOWN)
            return
        try:
            buffer = channel.receive.occupy()
        except PeerViolation as violation:
            self._events.append(PeerViolated(str(violation)))
            self._discard(frame, Discard.OVERRUN)
            return
        self._frames_received += 1
        self._recovery.frame_received()
        self._events.append(FrameArrived(frame, buffer))

    def receive_signal(self, signal: Signal, now_ps: int) -> None:
        """A primitive arrived; primitive sequences once they are recognised."""
        match signal:
            case Ready(count, vc):
                self._credit_came(count, vc, now_ps)
            case Mark.BB_SCS:
                lost = self._recovery.bb_scs_received()
                if lost:
                    self._ready(lost, None)
                    self._events.append(CreditRecovered(frames=lost))
            case Mark.BB_SCR:
                lost = self._recovery.bb_scr_received()
                if lost:
                    channel = self._channel(None)
                    channel.shares.give(lost)
                    channel.see(now_ps)
                    self._events.append(CreditRecovered(r_rdys=lost))
            case Sequence():
                self._happened(signal, now_ps)

    def trouble(self, trouble: Trouble, now_ps: int) -> None:
        """The receiver lost light or synchronisation."""
        self._happened(trouble, now_ps)

    # -- time ---------------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When :meth:`handle_timer` wants to be called, in picoseconds."""
        due = [] if self._answer_due_ps is None else [self._answer_due_ps]
        if self.state is LinkState.AC:
            for channel in self._channels.values():
                oldest = channel.oldest_ps()
                if oldest is not None and self.config.hold_ps is not None:
                    due.append(oldest + self.config.hold_ps)
                patience = self._patience_ends(channel)
                if patience is not None:
                    due.append(patience)
        return min(due, default=None)

    def handle_timer(self, now_ps: int) -> None:
        """Drop what has waited too long, reset a link whose credit does not come back, give up an unanswered one."""
        if self._answer_due_ps is not None and now_ps >= self._answer_due_ps:
            self._happened(Trouble.TIME_OUT, now_ps)
        if self.state is not LinkState.AC:
            return
        for channel in self._channels.values():
            patience, since = self._patience_ends(channel), channel.clock.zero_since_ps
            if self.config.hold_ps is not None:
                for frame in channel.expired(now_ps - self.config.hold_ps):
                    self._c3_timeouts += 1
                    self._discard(frame, Discard.HOLD_TIME)
                channel.see(now_ps)
            if patience is not None and since is not None and now_ps >= patience:
                self._credit_losses += 1
                self._events.append(CreditLost(channel.vc, now_ps - since))
                self._happened(Wish.RESET, now_ps)
                return

    # -- looking at it ------------------------------------------------------------------------------------------

    @property
    def waiting_frames(self) -> int:
        """Frames that wait for credit, of all channels."""
        return sum(channel.waiting for channel in self._channels.values())

    def signals(self) -> list[Signal]:
        """What has to leave besides frames, in order; handed over once.

        A primitive sequence is sent until the next one takes its place.
        """
        signals, self._signals = list(self._signals), deque()
        return signals

    def events(self) -> Iterator[Event[F]]:
        """What happened since the last call."""
        while self._events:
            yield self._events.popleft()

    def statistics(self, now_ps: int) -> PortStatistics:
        """Counters and credits as they are at ``now_ps``."""
        return PortStatistics(
            self.config.name,
            self.state,
            tuple(channel.statistics(now_ps) for channel in self._channels.values()),
            self._frames_sent,
            self._frames_received,
            self._r_rdys_sent,
            self._r_rdys_received,
            self._recovered[0] + self._recovery.frames_recovered,
            self._recovered[1] + self._recovery.r_rdys_recovered,
            self._c3_timeouts,
            self._discards,
            self._credit_losses,
            self._link_resets,
            self._link_failures,
        )

    # -- inside -------------------------------------------------------------------------------------------------

    def _channel(self, vc: int | None) -> Channel[F]:
        channel = self._channels.get(vc)
        if channel is None:
            name = "the link" if vc is None else f"virtual channel {vc}"
            raise CreditMisuse(f"{self.config.name}: no login gave credit for {name}")
        return channel

    def _patience_ends(self, channel: Channel[F]) -> int | None:
        """When a channel without credit has waited so long that its credits count as lost; None: never."""
        since = channel.clock.zero_since_ps
        if since is None or self.config.credit_loss_ps is None or not channel.transmit.bb_credit_cnt:
            return None
        return since + self.config.credit_loss_ps

    def _credit_came(self, count: int, vc: int | None, now_ps: int) -> None:
        channel = self._channels.get(vc)
        if channel is None:
            self._events.append(PeerViolated(f"an R_RDY for virtual channel {vc}, which no login named"))
            return
        self._r_rdys_received += count
        self._recovery.r_rdy_received(count)
        channel.shares.give(count)
        channel.see(now_ps)

    def _ready(self, count: int, vc: int | None) -> None:
        for _ in range(count):
            self._signals.append(Ready(1, vc))
            self._r_rdys_sent += 1
            if self._recovery.r_rdy_sent():
                self._signals.append(Mark.BB_SCR)

    def _discard(self, frame: F, reason: Discard) -> None:
        self._discards += 1
        self._events.append(FrameDiscarded(frame, reason))

    def _keep_recovered(self) -> None:
        self._recovered[0] += self._recovery.frames_recovered
        self._recovered[1] += self._recovery.r_rdys_recovered

    def _happened(self, happened: Input, now_ps: int) -> None:
        before, self.state = self.state, after(self.state, happened)
        if self.state is before:
            return
        self._events.append(LinkChanged(before, self.state))
        self._link_resets += self.state in (LinkState.LR1, LinkState.LR2) and before is LinkState.AC
        self._link_failures += self.state is LinkState.LF2
        self._answer_due_ps = now_ps + R_T_TOV_PS if waits_for_answer(self.state) else None
        if before is LinkState.AC:
            self._leave_active(now_ps)
        self._signals.append(TRANSMITS[self.state])

    def _leave_active(self, now_ps: int) -> None:
        """Credits go back to the login values; what waits in the queue or in the signals is void."""
        self._signals.clear()
        self._recovery.reset()
        for channel in self._channels.values():
            for frame in channel.expired(now_ps):
                self._discard(frame, Discard.LINK_RESET)
            channel.shares.reset()
            channel.receive.reset()
            channel.see(now_ps)
