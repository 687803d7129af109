"""Two ports and an imaginary link: what the sender may do, the receiver decides."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from fcsim.errors import CreditMisuse
from fcsim.port.events import (
    CreditLost,
    CreditRecovered,
    Discard,
    FrameArrived,
    FrameDiscarded,
    LinkChanged,
    PeerViolated,
)
from fcsim.port.link_state import LinkState, Trouble, Wish
from fcsim.port.login import Offer, grant
from fcsim.port.port import MS_PS, Port, PortConfig
from fcsim.port.signals import Mark, Ready, Sequence, Signal


class Link:
    """Port a and port b, joined without delay; `lose` decides what never arrives."""

    def __init__(self, offer_a: Offer, offer_b: Offer, *, config: PortConfig | None = None) -> None:
        self.a: Port[int] = Port(config or PortConfig("a"))
        self.b: Port[int] = Port(config or PortConfig("b"))
        self.a.log_in(grant(offer_a, offer_b), 0)
        self.b.log_in(grant(offer_b, offer_a), 0)
        self.lose: Callable[[object], bool] = lambda _: False
        self.now = 0
        self.held: list[FrameArrived[int]] = []
        self.seen: list[object] = []

    def turn(self, *, release: bool = True) -> int:
        """Carry everything that can move, until nothing does; returns the frames carried."""
        carried = 0
        while True:
            moved = False
            for sender, receiver in ((self.a, self.b), (self.b, self.a)):
                frame = sender.take_frame(self.now)
                if frame is not None:
                    moved, carried = True, carried + 1
                    if not self.lose(frame):
                        receiver.receive_frame(frame, self.now)
                for signal in sender.signals():
                    moved = True
                    if not self.lose(signal):
                        receiver.receive_signal(signal, self.now)
            for port in (self.a, self.b):
                for event in port.events():
                    self.seen.append(event)
                    if isinstance(event, FrameArrived):
                        if release:
                            port.release(event.buffer, self.now)
                            moved = True
                        else:
                            self.held.append(event)
            if not moved:
                return carried


def test_exactly_the_granted_frames_go_then_as_many_as_r_rdys_come() -> None:
    link = Link(Offer(3), Offer(8))
    for number in range(20):
        link.a.submit(number, 0)
    assert link.turn(release=False) == 8
    for event in link.held[:3]:
        link.b.release(event.buffer, 0)
    assert link.turn(release=False) == 3
    statistics = link.a.statistics(0).channels[0]
    assert (statistics.transmit_bb_credit, statistics.transmit_remaining, statistics.waiting_frames) == (
        8,
        0,
        9,
    )


def test_both_directions_have_their_own_credit() -> None:
    link = Link(Offer(3), Offer(8))
    for number in range(20):
        link.b.submit(number, 0)
    assert link.turn(release=False) == 3


def test_lost_frames_and_lost_r_rdys_are_recovered_at_the_boundaries() -> None:
    random = Random(7)
    link = Link(Offer(64, bb_sc_n=5), Offer(64, bb_sc_n=4))
    lost: list[object] = []

    def lose(what: object) -> bool:
        gone = not isinstance(what, (Mark, Sequence)) and random.random() < 0.02
        if gone:
            lost.append(what)
        return gone

    link.lose = lose
    for number in range(5000):
        link.a.submit(number, 0)
    assert link.turn() == 5000
    recovered = [event for event in link.seen if isinstance(event, CreditRecovered)]
    frames = sum(event.frames for event in recovered)
    r_rdys = sum(event.r_rdys for event in recovered)
    lost_frames = sum(isinstance(what, int) for what in lost)
    assert lost_frames > 50
    # What was lost in the window under way is not known yet.
    assert 0 <= lost_frames - frames < 32
    assert 0 <= len(lost) - lost_frames - r_rdys < 32
    at_a = link.a.statistics(0)
    assert at_a.r_rdys_recovered == r_rdys
    assert at_a.channels[0].transmit_remaining >= 64 - 32 - 32


def test_without_recovery_every_lost_r_rdy_costs_a_credit_for_good() -> None:
    link = Link(Offer(4), Offer(4), config=PortConfig("p", credit_loss_ps=None))
    link.lose = lambda what: isinstance(what, Ready)
    for number in range(10):
        link.a.submit(number, 0)
    assert link.turn() == 4
    assert link.a.next_deadline() == 500 * MS_PS


def test_a_frame_that_waits_longer_than_the_hold_time_is_dropped() -> None:
    link = Link(Offer(1), Offer(1), config=PortConfig("p", hold_ps=220 * MS_PS, credit_loss_ps=None))
    for number in range(3):
        link.a.submit(number, number * MS_PS)
    link.turn(release=False)
    assert link.a.next_deadline() == 221 * MS_PS
    link.a.handle_timer(221 * MS_PS)
    assert list(link.a.events()) == [FrameDiscarded(1, Discard.HOLD_TIME)]
    assert link.a.next_deadline() == 222 * MS_PS
    assert link.a.statistics(221 * MS_PS).c3_timeouts == 1


def test_credit_that_does_not_come_back_resets_the_link_and_restores_it() -> None:
    link = Link(Offer(2), Offer(2), config=PortConfig("p", hold_ps=None))
    link.lose = lambda what: isinstance(what, Ready)
    for number in range(4):
        link.a.submit(number, 0)
    assert link.turn() == 2
    due = link.a.next_deadline()
    assert due == 1000 * MS_PS
    link.lose = lambda what: False
    link.now = due
    link.a.handle_timer(due)
    link.turn()
    assert CreditLost(None, 1000 * MS_PS) in link.seen
    assert (link.a.state, link.b.state) == (LinkState.AC, LinkState.AC)
    assert link.a.statistics(due).channels[0].transmit_remaining == 2
    assert (link.a.statistics(due).link_resets, link.b.statistics(due).link_resets) == (1, 1)
    link.a.submit(9, due)
    assert link.turn() == 1


def test_a_reset_that_nobody_answers_is_a_link_failure() -> None:
    link = Link(Offer(2), Offer(2))
    link.lose = lambda what: True
    link.a.wish(Wish.RESET, 5)
    link.turn()
    due = link.a.next_deadline()
    assert due == 5 + 100 * MS_PS
    link.a.handle_timer(due)
    assert link.a.state is LinkState.LF2
    assert link.a.signals() == [Sequence.NOS]
    assert link.a.statistics(due).link_failures == 1


def test_a_link_that_lost_its_light_comes_up_with_full_credit() -> None:
    link = Link(Offer(4), Offer(4))
    for number in range(4):
        link.a.submit(number, 0)
    link.turn(release=False)
    link.a.trouble(Trouble.LOSS_OF_SIGNAL, 1)
    link.turn()
    assert (link.a.state, link.b.state) == (LinkState.AC, LinkState.AC)
    assert link.a.statistics(1).channels[0].transmit_remaining == 4
    for event in link.held:
        link.b.release(event.buffer, 1)  # buffers from before: no R_RDY goes out for them
    assert link.b.signals() == []
    assert LinkChanged(LinkState.AC, LinkState.LF2) in link.seen


def test_frames_for_a_link_that_is_down_are_refused_at_once() -> None:
    port: Port[str] = Port(PortConfig("p"), active=False)
    port.log_in(grant(Offer(4), Offer(4)), 0)
    port.submit("frame", 0)
    assert list(port.events()) == [FrameDiscarded("frame", Discard.LINK_DOWN)]
    assert port.take_frame(0) is None


def test_a_peer_that_overruns_its_credit_takes_no_buffer() -> None:
    port: Port[str] = Port(PortConfig("p"))
    port.log_in(grant(Offer(1), Offer(1)), 0)
    port.receive_frame("one", 0)
    port.receive_frame("two", 0)
    first, violation, discarded = port.events()
    assert isinstance(first, FrameArrived)
    assert isinstance(violation, PeerViolated)
    assert discarded == FrameDiscarded("two", Discard.OVERRUN)
    assert port.statistics(0).channels[0].receive_remaining == 0


def test_virtual_channels_do_not_hold_up_each_other() -> None:
    """A slow drain on one virtual channel leaves the others their credit."""
    sender: Port[str] = Port(PortConfig("a"))
    offer = Offer(26, virtual_channels={2: 2, 3: 2})
    sender.log_in(grant(offer, offer), 0)
    for number in range(5):
        sender.submit(f"slow {number}", 0, vc=2)
        sender.submit(f"fast {number}", 0, vc=3)
    sent = []
    for _ in range(8):
        frame = sender.take_frame(0)
        if frame is not None:
            sent.append(frame)
            if frame.startswith("fast"):
                sender.receive_signal(Ready(1, 3), 0)
    assert sent == ["slow 0", "fast 0", "slow 1", "fast 1", "fast 2", "fast 3", "fast 4"]
    with pytest.raises(CreditMisuse, match="virtual channel 7"):
        sender.submit("lost", 0, vc=7)


def test_alternate_management_announces_the_free_buffers_first() -> None:
    a: Port[int] = Port(PortConfig("a"))
    b: Port[int] = Port(PortConfig("b"))
    ours, theirs = Offer(0, alternate=True), Offer(3, alternate=True)
    a.log_in(grant(ours, theirs), 0)
    b.log_in(grant(theirs, ours), 0)
    assert b.signals() == [Ready(1, None)] * 3
    assert a.signals() == []


def test_the_queue_of_a_port_is_bounded() -> None:
    port: Port[int] = Port(PortConfig("p", queue_limit=2))
    port.log_in(grant(Offer(1), Offer(1)), 0)
    for number in range(4):
        port.submit(number, 0)
    assert list(port.events()) == [
        FrameDiscarded(2, Discard.QUEUE_FULL),
        FrameDiscarded(3, Discard.QUEUE_FULL),
    ]


@pytest.mark.parametrize("signal", [Ready(10**6), Mark.BB_SCS, Mark.BB_SCR, Ready(1, 9)])
def test_a_peer_that_talks_nonsense_changes_nothing(signal: Signal) -> None:
    port: Port[int] = Port(PortConfig("p"))
    port.log_in(grant(Offer(4), Offer(4)), 0)
    before = port.statistics(0).channels[0]
    for _ in range(100):
        port.receive_signal(signal, 0)
    after = port.statistics(0).channels[0]
    assert (after.transmit_remaining, after.receive_remaining) == (
        before.transmit_remaining,
        before.receive_remaining,
    )
    assert port.signals() == []
