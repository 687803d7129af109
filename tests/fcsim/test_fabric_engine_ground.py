"""What the fabric simulation stands on in the engine: R_RDY mode beside virtual channels, restarts, no lost wake-up."""

from __future__ import annotations

import pytest

from fcsim.clock import TICKS_PER_NS, ticks_per_byte
from fcsim.engine.fabric_kernel import Engine
from fcsim.engine.fabric_state import (
    COUNTERS,
    DELIVERED,
    FLOW_COUNTERS,
    LINK_RESETS,
    PEAK,
    TRACE_WIDTH,
    FlowSpec,
    LinkSpec,
    State,
    lay_out,
)
from fcsim.errors import InvalidScenario
from fcsim.speeds import SPEEDS

BYTE = ticks_per_byte(SPEEDS["16G"])
MS = 10**6 * TICKS_PER_NS
DRAIN = 50_000 * TICKS_PER_NS


def one_switch(*, credits: tuple[int, ...], flows: list[FlowSpec], traced: tuple[int, ...] = ()) -> State:
    """Hosts 0 sends to 1, which is slow, and 2; link 0 leads into the switch, links 1 and 2 out of it."""
    links = [
        LinkSpec(("host", 0), ("switch", 0), BYTE, 0, credits),
        LinkSpec(("switch", 0), ("host", 1), BYTE, 0, (8,), drain_frame=DRAIN),
        LinkSpec(("switch", 0), ("host", 2), BYTE, 0, (8,)),
    ]
    return lay_out(
        links,
        flows,
        {(0, 1): [1], (0, 2): [2]},
        hosts=3,
        switches=1,
        channels=2,
        traced=traced,
        trace_events=1000 if traced else 0,
    )


def test_a_slow_host_gets_a_frame_whenever_it_gives_a_credit_back() -> None:
    """A port that ran out of credit with nothing queued wakes up when credit returns after the next frame came."""
    state = one_switch(credits=(8,), flows=[FlowSpec(0, to=1, gap=DRAIN // 2)])
    Engine(state).run(20 * MS, 10**6)
    assert state.flow_counters[DELIVERED] == pytest.approx(20 * MS / DRAIN, abs=1)


def test_channels_share_the_credits_of_a_link_in_r_rdy_mode() -> None:
    flows = [FlowSpec(0, to=1, channel=0), FlowSpec(0, to=2, channel=1)]
    shared, apart = (one_switch(credits=credits, flows=flows) for credits in ((8,), (4, 4)))
    for state in (shared, apart):
        Engine(state).run(10 * MS, 10**6)
    assert shared.counters[PEAK] == 8
    # Their own credits keep the fast channel running; shared ones all end up in the slow host's queue.
    assert (
        apart.flow_counters[FLOW_COUNTERS + DELIVERED] > 10 * shared.flow_counters[FLOW_COUNTERS + DELIVERED]
    )


def test_an_idle_link_in_r_rdy_mode_is_not_reset_for_channels_that_it_has_not() -> None:
    links = [LinkSpec(("host", 0), ("host", 1), BYTE, 0, (1,), patience=MS)]
    state = lay_out(links, [FlowSpec(0, to=1, count=1, channel=1)], {}, hosts=2, switches=0, channels=2)
    Engine(state).run(10 * MS, 10**6)
    assert (state.counters[LINK_RESETS], state.flow_counters[DELIVERED]) == (0, 1)


def test_a_restarted_link_is_silent_until_it_is_up_and_has_its_credits_back() -> None:
    links = [LinkSpec(("host", 0), ("host", 1), BYTE, 0, (4,), drain_frame=DRAIN)]
    state = lay_out(links, [FlowSpec(0, to=1)], {}, hosts=2, switches=0)
    engine = Engine(state)
    engine.run(2 * MS, 10**6)
    before = state.counters[0]
    engine.restart(0, 5 * MS)
    assert state.credit[0] == 4
    engine.run(5 * MS - 1, 10**6)
    assert state.counters[0] == before
    engine.run(6 * MS, 10**6)
    assert state.counters[0] > before
    assert state.counters[LINK_RESETS] == 0


def test_a_traced_r_rdy_tells_its_virtual_channel_and_a_cleared_trace_begins_anew() -> None:
    flows = [FlowSpec(0, to=1, channel=0, count=3), FlowSpec(0, to=2, channel=1, count=3)]
    state = one_switch(credits=(4, 4), flows=flows, traced=(0,))
    engine = Engine(state)
    engine.run(10 * MS, 10**6)
    used = engine.clear_trace()
    events = [state.trace[at : at + TRACE_WIDTH] for at in range(0, used, TRACE_WIDTH)]
    assert sorted(event[6] for event in events if event[2] == 1) == [0, 0, 0, 1, 1, 1]
    assert engine.trace_at == 0


def test_equal_links_are_all_used_whatever_the_numbers_of_the_hosts() -> None:
    links = [LinkSpec(("host", n), ("switch", n % 2), BYTE, 0, (8,)) for n in range(16)]
    links += [LinkSpec(("switch", n % 2), ("host", n), BYTE, 0, (8,)) for n in range(16)]
    links += [LinkSpec(("switch", 0), ("switch", 1), BYTE, 0, (8,)) for _ in range(4)]
    routes = {(n % 2, n): [16 + n] for n in range(16)} | {(0, n): [32, 33, 34, 35] for n in range(1, 16, 2)}
    flows = [FlowSpec(n, to=m, count=5) for n in range(0, 16, 2) for m in range(1, 16, 2)]
    state = lay_out(links, flows, routes, hosts=16, switches=2)
    Engine(state).run(100 * MS, 10**6)
    sent = [state.counters[link * COUNTERS] for link in (32, 33, 34, 35)]
    assert sum(sent) == 64 * 5
    assert min(sent) > 0.5 * 64 * 5 / 4


def test_credits_for_some_of_the_channels_are_refused() -> None:
    with pytest.raises(InvalidScenario, match="credits for 3 of 2 virtual channels"):
        one_switch(credits=(1, 1, 1), flows=[FlowSpec(0, to=1)])
