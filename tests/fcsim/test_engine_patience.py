"""How long the engine waits for lost credit: by virtual channel, as the port core does, which judges it here."""

from __future__ import annotations

import heapq
import random
import time
from types import ModuleType
from typing import Any

import pytest

from fcsim.clock import TICKS_PER_NS, ticks_per_byte
from fcsim.engine import fabric_kernel
from fcsim.engine.fabric_state import (
    DELIVERED,
    FLOW_COUNTERS,
    LINK_RESETS,
    LOST_FRAMES,
    LOST_R_RDYS,
    RANDOM_LIMIT,
    TX_FRAMES,
    ZERO_TICKS,
    FlowSpec,
    LinkSpec,
    State,
    lay_out,
)
from fcsim.port.events import CreditLost
from fcsim.port.link_state import LinkState
from fcsim.port.login import Grant
from fcsim.port.port import Port, PortConfig
from fcsim.port.signals import Ready, Sequence
from fcsim.speeds import SPEEDS
from tests.twins import plain

BYTE = ticks_per_byte(SPEEDS["8G"])
MS = 10**6 * TICKS_PER_NS
ALL = 2**31
"""More than any number that is drawn: everything gets lost."""
SEEDS = {True: 400, False: 60}
"""How many random links the compiled engine runs, and its plain twin."""
BELOW = ("fcsim.engine.fabric_memory_kernel", "fcsim.engine.fabric_traffic_kernel")
TWINS = {"compiled": fabric_kernel, "plain": plain("fcsim.engine.fabric_kernel", *BELOW)}


@pytest.fixture(params=TWINS)
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    return TWINS[request.param]


def channels_of_a_link(flows: list[FlowSpec], **link: Any) -> State:
    """Host 0 sends to host 1 over two virtual channels with a credit each."""
    spec = LinkSpec(("host", 0), ("host", 1), BYTE, 0, (1, 1), patience=MS, **link)
    return lay_out([spec], flows, {}, hosts=2, switches=0, channels=2)


def test_credit_of_another_channel_does_not_prolong_the_wait_for_a_lost_one(kernel: ModuleType) -> None:
    gap = MS // 100
    flows = [FlowSpec(0, to=1, count=1), FlowSpec(0, to=1, channel=1, start=gap, gap=gap)]
    state = channels_of_a_link(flows)
    state.lose_r_rdy[0] = ALL
    engine = kernel.Engine(state)  # channel 0 is without credit from tick 0 on
    engine.run(MS // 200, 10**6)
    assert state.counters[LOST_R_RDYS] == 1
    state.lose_r_rdy[0] = 0
    engine.run(MS - 1, 10**6)
    assert state.flow_counters[FLOW_COUNTERS + DELIVERED] > 90
    assert (state.credit[0], state.counters[LINK_RESETS]) == (0, 0)
    engine.run(MS, 10**6)
    assert (state.credit[0], state.counters[LINK_RESETS]) == (1, 1)


def test_the_second_channel_to_starve_has_its_own_moment(kernel: ModuleType) -> None:
    """The first one's credit comes back in time, the second one's does not."""
    flows = [FlowSpec(0, to=1, count=1), FlowSpec(0, to=1, count=1, channel=1, start=MS // 4)]
    state = channels_of_a_link(flows, drain_frame=MS // 2)
    engine = kernel.Engine(state)
    engine.run(MS // 4 - 1, 10**6)
    state.lose_r_rdy[0] = ALL
    engine.run(MS // 4, 10**6)
    state.lose_r_rdy[0] = 0
    engine.run(MS + MS // 4 - 1, 10**6)
    assert (list(state.credit), state.counters[LINK_RESETS]) == ([1, 0], 0)
    engine.run(MS + MS // 4, 10**6)
    assert (list(state.credit), state.counters[LINK_RESETS]) == ([1, 1], 1)


class Judge:
    """Host 0 sends to host 1 over one link with virtual channels: who starves, and when, the port core decides.

    Each channel has a frame to send until all of its ``frames`` are sent. Losses are drawn as the engine draws them.
    """

    def __init__(self, state: State, link: LinkSpec, frames: int) -> None:
        self.link = link
        self.span = (2112 + state.overhead) * link.byte_ticks
        self.back = link.propagation + link.r_rdy_bytes * link.byte_ticks
        self.chances = state.lose_frame[0], state.lose_r_rdy[0]
        self.random = state.random[0]
        self.left = [frames] * len(link.credits)
        credits: dict[int | None, int] = dict(enumerate(link.credits))
        self.port = Port[int](PortConfig("judge", hold_ps=None, credit_loss_ps=link.patience or None))
        self.port.log_in(Grant(credits, credits), 0)
        self.waiting: set[int] = set()
        self.ready: list[tuple[int, int]] = []
        """R_RDYs on their way: when they arrive, of which channel."""
        self.free_at = self.drained_at = 0
        self.sent = self.lost_frames = self.lost_r_rdys = 0

    def run(self, until: int) -> None:
        """To the tick ``until``: at each, R_RDYs come first, then a frame goes, then patience ends."""
        now = 0
        while now <= until:
            while self.ready and self.ready[0][0] <= now:
                self.port.receive_signal(Ready(1, heapq.heappop(self.ready)[1]), now)
            if now >= self.free_at:
                self._send(now)
            self.port.handle_timer(now)
            if any(isinstance(event, CreditLost) for event in self.port.events()):
                self.ready.clear()
                self.waiting.clear()
                self.drained_at = min(self.drained_at, now)
                self.free_at = now + 2 * self.back  # LR one way, LRR the other
            alarm = self.port.next_deadline() if self.port.state is LinkState.AC else None
            due = [at for at, _ in self.ready[:1]] + [self.free_at] * (self.free_at > now)
            now = min(due if alarm is None else [*due, alarm], default=until + 1)

    def _send(self, now: int) -> None:
        if self.port.state is not LinkState.AC:
            self.port.receive_signal(Sequence.LRR, now)
            self.port.receive_signal(Sequence.IDLE, now)
        for channel, left in enumerate(self.left):
            if left and channel not in self.waiting:
                self.waiting.add(channel)
                self.port.submit(channel, now, vc=channel)
        taken = self.port.take_frame(now)
        if taken is None:
            return
        self.waiting.remove(taken)
        self.left[taken] -= 1
        self.sent += 1
        self.free_at = now + self.span
        if self._lost(self.chances[0]):
            self.lost_frames += 1
            return
        arrived = self.free_at + self.link.propagation
        self.drained_at = max(arrived, self.drained_at) + self.link.drain_frame
        if self._lost(self.chances[1]):
            self.lost_r_rdys += 1
        else:
            heapq.heappush(self.ready, (self.drained_at + self.back, taken))

    def _lost(self, chance: int) -> bool:
        if not chance:
            return False
        self.random = self.random * 48271 % RANDOM_LIMIT
        return self.random < chance

    def figures(self, now: int) -> dict[str, int | list[int]]:
        told = self.port.statistics(now)
        return {
            "sent": self.sent,
            "lost frames": self.lost_frames,
            "lost R_RDYs": self.lost_r_rdys,
            "link resets": told.credit_losses,
            "zero ticks": sum(channel.zero_ps for channel in told.channels),
            "credits": [channel.transmit_remaining for channel in told.channels],
        }


def engine_figures(state: State, now: int) -> dict[str, int | list[int]]:
    counted = state.counters
    starving = [at for at, left in enumerate(state.credit) if not left]
    return {
        "sent": counted[TX_FRAMES],
        "lost frames": counted[LOST_FRAMES],
        "lost R_RDYs": counted[LOST_R_RDYS],
        "link resets": counted[LINK_RESETS],
        "zero ticks": counted[ZERO_TICKS] + sum(now - state.zero_since[at] for at in starving),
        "credits": list(state.credit),
    }


def differs_from_the_port_core(kernel: ModuleType, seed: int) -> int:
    """Run a random link in the engine, in pieces, and in the port core; raises AssertionError; link resets."""
    rng = random.Random(seed)
    channels, frames = rng.randint(1, 4), rng.randint(5, 120)
    link = LinkSpec(
        ("host", 0),
        ("host", 1),
        BYTE,
        rng.choice((0, rng.randrange(10**8))),
        tuple(rng.randint(1, 4) for _ in range(channels)),
        patience=rng.choice((0, rng.randint(MS // 50, MS))),
        lose_frame=rng.choice((0.0, 0.05, 0.3)),
        lose_r_rdy=rng.choice((0.0, 0.05, 0.3)),
        drain_frame=rng.choice((0, rng.randrange(MS // 10))),
    )
    flows = [FlowSpec(0, to=1, count=frames, channel=channel) for channel in range(channels)]
    state = lay_out([link], flows, {}, hosts=2, switches=0, channels=channels, seed=rng.randint(1, 2**31))
    judge = Judge(state, link, frames)
    until = rng.randint(MS, 40 * MS)
    judge.run(until)
    engine = kernel.Engine(state)
    for stop in sorted(rng.randrange(until) for _ in range(rng.randint(0, 3))):
        engine.run(stop, 10**6)
    engine.run(until, 10**6)
    assert engine_figures(state, until) == judge.figures(until), f"seed {seed}"
    return state.counters[LINK_RESETS]


def test_the_engine_and_the_port_core_reset_links_at_the_same_moments(kernel: ModuleType) -> None:
    resets = sum(differs_from_the_port_core(kernel, seed) for seed in range(SEEDS[kernel.COMPILED]))
    assert resets > 100


@pytest.mark.soak
def test_any_ten_thousand_links_are_reset_when_the_port_core_would() -> None:
    first = time.time_ns() % 10**9
    for seed in range(first, first + 10_000):
        differs_from_the_port_core(fabric_kernel, seed)
