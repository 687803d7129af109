"""One virtual channel of a port, or the whole of a link without them: credit, buffers, and what waits for credit."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from fcsim.port.credit import ReceiveBuffers, TransmitCredit
from fcsim.port.login import Grant
from fcsim.port.shares import CreditShares
from fcsim.port.waiting import CreditClock, WaitShares

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """One virtual channel, or the whole link for ``vc`` None; times in picoseconds."""

    vc: int | None
    transmit_bb_credit: int
    receive_bb_credit: int
    transmit_ceiling: int
    transmit_remaining: int
    receive_remaining: int
    waiting_frames: int
    zero_transitions: int
    zero_ps: int
    tx_wait_ps: int
    tx_wait_ticks: int
    tx_wait_shares: WaitShares
    excess_r_rdy: int


class Channel(Generic[F]):
    """One virtual channel: credit, buffers, and a queue for each share of the credit."""

    __slots__ = ("_queues", "clock", "receive", "shares", "transmit", "vc", "waiting")

    def __init__(self, vc: int | None, granted: Grant, now_ps: int) -> None:
        self.vc = vc
        self.transmit = TransmitCredit(granted.transmit[vc], alternate=granted.alternate)
        self.shares = CreditShares(self.transmit)
        self.receive = ReceiveBuffers(granted.receive[vc], vc)
        self.clock = CreditClock(now_ps)
        self.waiting = 0
        """Frames in all queues."""
        self._queues: dict[Hashable, deque[tuple[int, F]]] = {}

    def see(self, now_ps: int) -> None:
        """Tell the clock how things are from now on."""
        self.clock.see(self.transmit.available, self.waiting, now_ps)

    def put(self, frame: F, share: Hashable, now_ps: int) -> None:
        """A frame waits for credit of its share."""
        self._queues.setdefault(self.shares.whose(share), deque()).append((now_ps, frame))
        self.waiting += 1

    def divide(self, reserved: Mapping[Hashable, int]) -> None:
        """New shares; frames of a share that is no more go behind those of everybody."""
        self.shares.reserve(reserved)
        orphans = [
            entry
            for share in list(self._queues)
            if self.shares.whose(share) != share
            for entry in self._queues.pop(share)
        ]
        if orphans:
            rest = self._queues.setdefault(None, deque())
            merged = sorted([*rest, *orphans], key=lambda entry: entry[0])
            self._queues[None] = deque(merged)

    def take(self) -> F | None:
        """The next frame whose share has credit, which is used up; shares take turns."""
        for share, queue in self._queues.items():
            if self.shares.available(share):
                self.shares.take(share)
                self.waiting -= 1
                frame = queue.popleft()[1]
                del self._queues[share]
                if queue:
                    self._queues[share] = queue  # to the end of the turns
                return frame
        return None

    def oldest_ps(self) -> int | None:
        """When the frame that waits longest came."""
        return min((queue[0][0] for queue in self._queues.values()), default=None)

    def expired(self, before_ps: int) -> list[F]:
        """Take out the frames that came at ``before_ps`` or earlier."""
        gone: list[F] = []
        for share, queue in list(self._queues.items()):
            while queue and queue[0][0] <= before_ps:
                gone.append(queue.popleft()[1])
                self.waiting -= 1
            if not queue:
                del self._queues[share]
        return gone

    def statistics(self, now_ps: int) -> ChannelStatistics:
        """The channel as it is at ``now_ps``."""
        clock = self.clock
        clock.settle(now_ps)
        return ChannelStatistics(
            self.vc,
            self.transmit.bb_credit,
            self.receive.bb_credit,
            self.transmit.ceiling,
            self.transmit.available,
            self.receive.remaining,
            self.waiting,
            clock.zero_transitions,
            clock.zero.total_ps,
            clock.tx_wait.total_ps,
            clock.tx_wait.ticks,
            clock.tx_wait.shares(now_ps),
            self.transmit.excess_r_rdy,
        )
